#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-nat-overlapping.sh - two arms, as create-nat.sh, and endpoints may use the same addresses.
#
#     GWLB --> gwi-A --> zone A, MASQUERADE --> eth0    10.0.0.5:4000 becomes 192.0.2.1:4000
#     GWLB --> gwi-B --> zone B, MASQUERADE --> eth0    10.0.0.5:4000 becomes 192.0.2.1:1024
#     GWLB <-- gwo-A or gwo-B <-- connection's mark, NAT undone <-- eth0
#
# Use it for one NAT gateway before many VPCs whose CIDRs overlap. Each endpoint has a conntrack zone of its own, so Linux
# keeps apart connections that look the same. Outside, NAT gives each connection its own port, so answers need no zone: the
# connection's mark names the endpoint. It carries IPv4, and IPv6 where the host has an IPv6 address. On EC2, turn the
# source/destination check off.
#
# `nft flush ruleset` stops the traffic until you call this script again (common.sh says how).
#
# Changes on the host, sysctls, and what is closed to endpoints: as create-nat.sh.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
close_endpoint
if [ "$1" = CREATE ]; then
	rp_filter_off
	forward
	forward_answers
	reflect_marks

	route default dev "$GWO"
	rule iif "$GWI" fwmark "$NUMBER" lookup main
	rule iif "$GWI" fwmark "$NUMBER" unreachable # no route: say so, don't send it back as it came
	rule iif "$GWI" blackhole                    # the table that gives the mark has gone
	rule fwmark "$NUMBER" lookup "$NUMBER"       # what answers, from outside or from Linux itself

	ruleset <<-EOF
		chain early { # ahead of where conntrack puts fragments together, at -400
			type filter hook prerouting priority -450
			iifname "$GWI" ct original zone set $NUMBER
		}
		chain marks {
			type filter hook prerouting priority mangle
			iifname "$GWI" ct mark set $NUMBER meta mark set $NUMBER
			iifname != "$GWI" ct direction reply ct mark $NUMBER meta mark set $NUMBER
		}
		$NOT_IN_ITS_NAME
		chain postrouting {
			type nat hook postrouting priority srcnat
			iifname "$GWI" masquerade
		}
		$NOT_TO_THE_HOST
	EOF
	sysctls_complete
	open_endpoint
else
	forget_endpoint
fi
