#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-overlapping-v4.sh - Linux forwards every packet back, and endpoints may use the same addresses.
#
#     GWLB --> gwi-A --> conntrack zone A --> forward --> gwo-A --> GWLB      10.0.0.5 -> 10.1.0.9
#     GWLB --> gwi-B --> conntrack zone B --> forward --> gwo-B --> GWLB      10.0.0.5 -> 10.1.0.9, another's
#
# Use it in place of create-route.sh where endpoints are in VPCs whose CIDRs overlap and rules look at connections (`ct
# state`). Each endpoint has a conntrack zone of its own. It keeps apart connections that look the same, and fragments that
# Linux puts together for them. Each connection also carries its endpoint's number as its mark, which `ip rule` and
# `conntrack -L` show. Only IPv4 CIDRs overlap; the script carries IPv6 in the same way.
#
# `nft flush ruleset` stops the traffic until you call this script again (common.sh says how).
#
# Changes on the host, sysctls, and packets to its own addresses: as create-route.sh.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
close_endpoint
if [ "$1" = CREATE ]; then
	rp_filter_off
	forward
	reflect_marks

	route default dev "$GWO"
	rule iif "$GWI" fwmark "$NUMBER" lookup "$NUMBER"
	rule iif "$GWI" blackhole              # the table that gives the mark has gone
	rule fwmark "$NUMBER" lookup "$NUMBER" # what Linux itself answers with

	ruleset <<-EOF
		chain early { # ahead of where conntrack puts fragments together, at -400
			type filter hook prerouting priority -450
			iifname "$GWI" ct zone set $NUMBER meta mark set $NUMBER
		}
		chain marks {
			type filter hook prerouting priority mangle
			iifname "$GWI" ct mark set $NUMBER
		}
		$NOT_TO_THE_HOST
	EOF
	sysctls_complete
	open_endpoint
else
	forget_endpoint
fi
