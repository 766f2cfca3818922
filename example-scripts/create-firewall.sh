#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-firewall.sh - a stateful firewall in nftables, with its rules in firewall.nft.
#
#     GWLB --> gwi --> conntrack zone --> rules of firewall.nft --> gwo --> GWLB
#                                              |
#                                              +--> dropped
#
# Use it as it is to let through the web and ping and nothing else, or edit firewall.nft. IPv4 and IPv6. Each endpoint
# has a conntrack zone of its own, so their CIDRs may overlap. The host's own services are out of reach from an
# endpoint. `nft list table inet gwlbtun-X` shows the rules with what they dropped.
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

	nft -f - <<-EOF
		table inet $RULESET {
			chain early { # ahead of where conntrack puts fragments together, at -400
				type filter hook prerouting priority -450
				iifname "$GWI" ct zone set $NUMBER meta mark set $NUMBER
			}
			chain forward {
				type filter hook forward priority filter
				iifname != "$GWI" accept
				include "$DIRECTORY/firewall.nft"
			}
			chain input {
				type filter hook input priority filter
				iifname "$GWI" drop
			}
		}
	EOF

	route default dev "$GWO"
	rule iif "$GWI" lookup "$NUMBER"
	rule fwmark "$NUMBER" lookup "$NUMBER" # what Linux itself answers with
else
	sysctls_restore
	rp_filter_forget
fi
