#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-passthrough.sh - sends every packet straight back, by tc.
#
#     GWLB --> gwi --tc--> gwo --> GWLB
#
# Use it to see that a deployment works, to measure it, and to watch with tools that tap gwi: tcpdump, Suricata in IDS mode.
# IPv4 and IPv6 packets go back as they came. They never meet Linux's routing, netfilter or reverse path filter, and need no
# forwarding. This is the cheapest way through the kernel.
#
# Changes on the host: a clsact qdisc with one filter, and rp_filter, both on gwi. DESTROY removes them.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

clear_filter() {
	tc filter del dev "$GWI" ingress pref 6081 2>/dev/null || :
}

no_filters() {
	[ -z "$(tc filter show dev "$GWI" ingress)$(tc filter show dev "$GWI" egress)" ]
}

if [ "$1" = CREATE ]; then
	rp_filter_off || : # no loss where it cannot be
	tc qdisc add dev "$GWI" clsact 2>/dev/null || clear_filter
	# u32 that matches anything: kernels built small may lack matchall.
	tc filter add dev "$GWI" ingress pref 6081 protocol all u32 match u32 0 0 action mirred egress redirect dev "$GWO"
else
	clear_filter
	! no_filters || tc qdisc del dev "$GWI" clsact 2>/dev/null || :
	rp_filter_forget
fi
