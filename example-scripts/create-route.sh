#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-route.sh - Linux forwards every packet back.
#
#     GWLB --> gwi --> routing, netfilter's forward hook --> gwo --> GWLB
#
# Use it where Linux itself is to work on the traffic: iptables and nftables rules, shaping on gwo, Suricata in IPS
# mode. IPv4 and IPv6. Each hop through here takes one off the TTL; an ICMP error that Linux answers with (time
# exceeded, packet too big, or a rule's reject) goes back to GWLB too, so traceroute and path-MTU discovery work
# through the host. Packets to the host's own addresses are delivered to it instead.
#
# Changes on the host: a routing table with two rules in `ip rule` and an nftables table, per endpoint, and forwarding
# and rp_filter on gwi, all of which DESTROY removes or the interface takes with it. For the whole host, until the last
# endpoint's DESTROY: net.ipv4.fwmark_reflect and net.ipv6.fwmark_reflect, net.ipv6.conf.all.forwarding; with the last,
# an interface's accept_ra of 1 becomes 2.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
clear_endpoint
if [ "$1" = CREATE ]; then
	rp_filter_off
	forward
	reflect_marks

	route default dev "$GWO"
	rule iif "$GWI" lookup "$NUMBER"
	rule fwmark "$NUMBER" lookup "$NUMBER" # what Linux itself answers with

	nft -f - <<-EOF
		table inet $RULESET {
			chain marks {
				type filter hook prerouting priority raw
				iifname "$GWI" meta mark set $NUMBER
			}
		}
	EOF
else
	sysctls_restore
	rp_filter_forget
fi
