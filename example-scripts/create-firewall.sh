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
# endpoint, ping too. `nft list table inet gwlbtun-X` shows the rules with what they dropped.
#
# It fails closed: only packets that bear the mark that the same nftables table sets are routed, so without the rules
# nothing passes. `nft flush ruleset` stops the traffic until this script is called again (common.sh says how), which is also
# how endpoints that are there get rules that were edited.
#
# Changes on the host, and sysctls: as create-route.sh.

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
		chain forward {
			type filter hook forward priority filter
			iifname != "$GWI" accept
			include "$DIRECTORY/firewall.nft"
		}
		$NOT_TO_THE_HOST
	EOF
	sysctls_complete
	open_endpoint
else
	forget_endpoint
fi
