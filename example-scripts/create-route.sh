#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-route.sh - Linux forwards every packet back.
#
#     GWLB --> gwi --> routing, netfilter's forward hook --> gwo --> GWLB
#
# Use it where Linux itself is to work on the traffic: iptables and nftables rules, shaping on gwo, Suricata in IPS mode. It
# carries IPv4 and IPv6. The host takes one off the TTL. An ICMP error that Linux answers with (time exceeded, packet too big,
# or a rule's reject) goes back to GWLB, too, so traceroute and path-MTU discovery work through the host. Linux drops packets
# to the host's own addresses, ping too: its ports are not for those whose traffic it carries.
# `nft list table inet gwlbtun-X` shows how many.
#
# `nft flush ruleset` stops the traffic until you call this script again (common.sh says how).
#
# Changes on the host, for each endpoint: four rules in `ip rule`, a routing table, an nftables table, and on gwi forwarding
# and rp_filter. DESTROY removes them, or they go with the interface. For the whole host, until the last endpoint's DESTROY:
# net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect, and net.ipv6.conf.all.forwarding; with the last, an interface's accept_ra
# of 1 becomes 2.
#
# In a container whose /proc/sys is read-only, set these beforehand (docker run --sysctl NAME=VALUE):
# net.ipv4.ip_forward=1, net.ipv4.fwmark_reflect=1, net.ipv4.conf.all.rp_filter=0, net.ipv4.conf.default.rp_filter=0; with
# IPv6 also net.ipv6.conf.all.forwarding=1, net.ipv6.fwmark_reflect=1.

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
		chain marks {
			type filter hook prerouting priority raw
			iifname "$GWI" meta mark set $NUMBER
		}
		$NOT_TO_THE_HOST
	EOF
	sysctls_complete
	open_endpoint
else
	forget_endpoint
fi
