#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-nat.sh - two arms: traffic leaves by the host's own interface, under the host's own address.
#
#     GWLB --> gwi --> routing, MASQUERADE --> eth0 --> Internet
#     GWLB <-- gwo <-- connection's mark, NAT undone <-- eth0 <--
#
# Use it for a NAT gateway, or a firewall that is one. Packets from gwi go where the host's main routing table says, as a
# rule out of the default interface. Their connection keeps the endpoint's number as its mark, so answers go back into the
# endpoint that asked. It carries IPv4, and IPv6 where the host has an IPv6 address. If endpoints' CIDRs overlap, use
# create-nat-overlapping.sh. On EC2, turn the source/destination check off.
#
# The host's own ports are closed to endpoints, and the host answers no ping. The script also closes what NAT would open as
# if the host itself asked: link-local addresses, the instance's metadata among them, and Geneve, since other appliances may
# take this host for the load balancer. `nft list table inet gwlbtun-X` shows how many packets that dropped.
#
# `nft flush ruleset` stops the traffic until you call this script again (common.sh says how).
#
# Changes on the host, for each endpoint: five rules in `ip rule`, a routing table, an nftables table, and rp_filter on gwi.
# DESTROY removes them, or they go with the interface. For the whole host, until the last endpoint's DESTROY:
# net.ipv4.conf.*.forwarding of the interfaces that routes lead out of, net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect,
# and net.ipv6.conf.all.forwarding; with the last, an interface's accept_ra of 1 becomes 2.
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
	forward_answers
	reflect_marks

	route default dev "$GWO"
	rule iif "$GWI" fwmark "$NUMBER" lookup main
	rule iif "$GWI" fwmark "$NUMBER" unreachable # no route: say so, don't send it back as it came
	rule iif "$GWI" blackhole                    # the table that gives the mark has gone
	rule fwmark "$NUMBER" lookup "$NUMBER"       # what answers, from outside or from Linux itself

	ruleset <<-EOF
		chain marks {
			type filter hook prerouting priority mangle
			iifname "$GWI" ct mark set $NUMBER meta mark set $NUMBER
			iifname != "$GWI" ct direction reply ct mark $NUMBER meta mark set $NUMBER
		}
		$NOT_IN_ITS_NAME
		chain postrouting {
			type nat hook postrouting priority srcnat
			iifname "$GWI" masquerade
		}
		$NOT_TO_THE_HOST
	EOF
	sysctls_complete
	open_endpoint
else
	forget_endpoint
fi
