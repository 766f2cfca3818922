#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-firewall.sh - a stateful firewall in nftables, with its rules in firewall.nft.
#
#     GWLB --> gwi --> conntrack zone --> rules of firewall.nft --> gwo --> GWLB
#                                              |
#                                              +--> dropped
#
# Use it as it is to let through the web and ping and nothing else, or edit firewall.nft. It carries IPv4 and IPv6. Each
# endpoint has a conntrack zone of its own, so their CIDRs may overlap. An endpoint cannot reach the host's own services,
# nor ping the host. `nft list table inet gwlbtun-X` shows the rules, and how many packets they dropped.
#
# It fails closed: Linux routes only packets with the mark that the same nftables table sets, so nothing passes without the
# rules. `nft flush ruleset` stops the traffic until you call this script again (common.sh says how). Call it again, too,
# after you have edited the rules: that gives them to endpoints that are there.
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
