#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-overlapping-v4.sh - Linux forwards every packet back, and endpoints may use the same addresses.
#
#     GWLB --> gwi-A --> conntrack zone A --> forward --> gwo-A --> GWLB      10.0.0.5 -> 10.1.0.9
#     GWLB --> gwi-B --> conntrack zone B --> forward --> gwo-B --> GWLB      10.0.0.5 -> 10.1.0.9, another's
#
# Use it as create-route.sh, where endpoints are in VPCs whose CIDRs overlap and rules look at connections (`ct
# state`): a zone per endpoint keeps apart connections, and fragments put together for them, that look the same. Each
# connection also carries its endpoint's number as its mark, which `ip rule` and `conntrack -L` show. CIDRs that
# overlap are a matter of IPv4; IPv6 is carried in the same way.
#
# Changes on the host: as create-route.sh.

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
			chain early { # ahead of where conntrack puts fragments together, at -400
				type filter hook prerouting priority -450
				iifname "$GWI" ct zone set $NUMBER meta mark set $NUMBER
			}
			chain marks {
				type filter hook prerouting priority mangle
				iifname "$GWI" ct mark set $NUMBER
			}
		}
	EOF
else
	sysctls_restore
	rp_filter_forget
fi
