#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-local.sh - services on the host itself answer, whatever address the client asked.
#
#     GWLB --> gwi --> the endpoint's local address, in place of the one that was asked --> service
#     GWLB <-- gwo <-- from that address, which NAT turns into the one that was asked   <-- service
#
# Use it for a proxy, a resolver, a sinkhole. A packet from an endpoint to any address reaches the service that listens on
# that port here. The service sees the client's address. It sees the endpoint as an address of its own: 169.254.0.1 or
# fd67:776c:6274::6081 for the first endpoint, and so on. The answer comes from that address and so goes back into the right
# endpoint: endpoints' CIDRs may overlap. Services must listen on all addresses. Services over UDP must answer from the
# address that they were asked at, as resolvers do. The script carries IPv4 and IPv6.
#
# The host answers ping, and the ports below are open. All others refuse, as ports without a service do, so the VPCs do not
# see ssh and the like. Name other ports by these variables in gwlbtun's environment, or here: lists as nft takes them, and
# "" for none. gwlbtun's own ports are always closed: UDP 6081, and the health port. `nft list table inet gwlbtun-X` shows how
# many packets met a closed port.

: "${GWLBTUN_LOCAL_TCP=53, 80, 443}" "${GWLBTUN_LOCAL_UDP=53}"

# `nft flush ruleset` stops the services until you call this script again (common.sh says how).
#
# Changes on the host, for each endpoint: three rules in `ip rule`, a routing table and an nftables table, and on gwi two
# addresses and rp_filter. DESTROY removes them, or they go with the interface.
#
# In a container whose /proc/sys is read-only, set these beforehand (docker run --sysctl NAME=VALUE):
# net.ipv4.conf.all.rp_filter=0, net.ipv4.conf.default.rp_filter=0.

# shellcheck source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

number
close_endpoint
index=$((NUMBER - 6080))
address4=169.254.$((index / 256)).$((index % 256))
address6=fd67:776c:6274::$NUMBER
if [ "$1" = CREATE ]; then
	rp_filter_off

	health=
	[ -z "${GWLBTUN_HEALTH_PORT:-}" ] || health="tcp dport $GWLBTUN_HEALTH_PORT counter reject with tcp reset"
	open=
	[ -z "$GWLBTUN_LOCAL_TCP" ] || open="tcp dport { $GWLBTUN_LOCAL_TCP } accept;"
	[ -z "$GWLBTUN_LOCAL_UDP" ] || open="$open udp dport { $GWLBTUN_LOCAL_UDP } accept"

	route default dev "$GWO"
	rule_of -4 from "$address4" lookup "$NUMBER"
	[ "$FAMILIES" = -4 ] || rule_of -6 from "$address6" lookup "$NUMBER"
	rule iif "$GWI" blackhole # nothing is forwarded

	ruleset <<-EOF
		chain early { # ahead of where conntrack puts fragments together, at -400
			type filter hook prerouting priority -450
			iifname "$GWI" ct original zone set $NUMBER meta mark set $NUMBER
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
		chain input {
			type filter hook input priority filter
			iifname != "$GWI" accept
			udp dport 6081 counter drop
			$health
			ct state established,related accept
			$open
			icmp type echo-request accept
			icmpv6 type echo-request accept
			meta l4proto tcp counter reject with tcp reset
			counter reject
		}
	EOF
	ip address replace "$address4/32" dev "$GWI"
	[ "$FAMILIES" = -4 ] || ip address replace "$address6/128" dev "$GWI" nodad
	sysctls_complete
	open_endpoint
else
	ip address del "$address4/32" dev "$GWI" 2>/dev/null || :
	ip address del "$address6/128" dev "$GWI" 2>/dev/null || :
	forget_endpoint
fi
