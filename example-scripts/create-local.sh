#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-local.sh - services on the host itself answer, whatever address was asked.
#
#     GWLB --> gwi --> the endpoint's own local address, in place of the one that was asked --> service
#     GWLB <-- gwo <-- from that address, which NAT turns into the one that was asked       <-- service
#
# Use it for a proxy, a resolver, a sinkhole: what comes from an endpoint to any address reaches the service that
# listens on that port here, which sees who asks, and sees the endpoint as its own address: 169.254.0.1 or
# fd67:776c:6274::6081 for the first, and so on. What it answers goes back into the endpoint that asked, for its
# source address says which that is; so endpoints' CIDRs may overlap. Services must listen on all addresses, and those
# over UDP must answer from the address that they were asked at, as resolvers do. IPv4 and IPv6. Ports with no service
# refuse, as the host does.
#
# Changes on the host: two rules in `ip rule`, a routing table and an nftables table, per endpoint, two addresses and
# rp_filter on gwi, all of which DESTROY removes or the interface takes with it.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
clear_endpoint
index=$((NUMBER - 6080))
address4=169.254.$((index / 256)).$((index % 256))
address6=fd67:776c:6274::$NUMBER
if [ "$1" = CREATE ]; then
	rp_filter_off

	ip address replace "$address4/32" dev "$GWI"
	[ "$FAMILIES" = -4 ] || ip address replace "$address6/128" dev "$GWI" nodad

	route default dev "$GWO"
	rule_of -4 from "$address4" lookup "$NUMBER"
	[ "$FAMILIES" = -4 ] || rule_of -6 from "$address6" lookup "$NUMBER"
	rule iif "$GWI" unreachable # nothing is forwarded

	nft -f - <<-EOF
		table inet $RULESET {
			chain early { # ahead of where conntrack puts fragments together, at -400
				type filter hook prerouting priority -450
				iifname "$GWI" ct original zone set $NUMBER
			}
			chain prerouting {
				type nat hook prerouting priority dstnat
				iifname "$GWI" dnat ip to $address4
				iifname "$GWI" dnat ip6 to $address6
			}
			chain guard { # belongs to no connection, so NAT left it alone
				type filter hook prerouting priority dstnat + 1
				iifname "$GWI" ip daddr != $address4 drop
				iifname "$GWI" ip6 daddr != $address6 drop
			}
		}
	EOF
else
	ip address del "$address4/32" dev "$GWI" 2>/dev/null || :
	ip address del "$address6/128" dev "$GWI" 2>/dev/null || :
	sysctls_restore
	rp_filter_forget
fi
