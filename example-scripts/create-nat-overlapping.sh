#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-nat-overlapping.sh - two arms, as create-nat.sh, and endpoints may use the same addresses.
#
#     GWLB --> gwi-A --> zone A, MASQUERADE --> eth0    10.0.0.5:4000 becomes 192.0.2.1:4000
#     GWLB --> gwi-B --> zone B, MASQUERADE --> eth0    10.0.0.5:4000 becomes 192.0.2.1:1024
#     GWLB <-- gwo-A or gwo-B <-- connection's mark, NAT undone <-- eth0
#
# Use it for one NAT gateway before many VPCs whose CIDRs overlap. Connections from each endpoint are tracked in a
# conntrack zone of its own, so two that look the same are two; outside, NAT gives each a port of its own, so the way
# back needs no zone: the connection's mark names the endpoint. IPv4, and IPv6 where the host has an IPv6 address. On
# EC2 turn the source/destination check off.
#
# Changes on the host: as create-nat.sh.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
clear_endpoint
if [ "$1" = CREATE ]; then
	rp_filter_off
	forward
	forward_answers
	reflect_marks

	route default dev "$GWO"
	rule iif "$GWI" lookup main
	rule iif "$GWI" unreachable            # no route: say so, don't send it back as it came
	rule fwmark "$NUMBER" lookup "$NUMBER" # what answers, from outside or from Linux itself

	nft -f - <<-EOF
		table inet $RULESET {
			chain early { # ahead of where conntrack puts fragments together, at -400
				type filter hook prerouting priority -450
				iifname "$GWI" ct original zone set $NUMBER
			}
			chain marks {
				type filter hook prerouting priority mangle
				iifname "$GWI" ct mark set $NUMBER meta mark set $NUMBER
				iifname != "$GWI" ct direction reply ct mark $NUMBER meta mark set $NUMBER
			}
			chain postrouting {
				type nat hook postrouting priority srcnat
				iifname "$GWI" masquerade
			}
		}
	EOF
else
	sysctls_restore
	rp_filter_forget
fi
