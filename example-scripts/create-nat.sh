#!/bin/sh
# SPDX-License-Identifier: MIT-0
#
# create-nat.sh - two arms: traffic leaves by the host's own interface, under the host's own address.
#
#     GWLB --> gwi --> routing, MASQUERADE --> eth0 --> Internet
#     GWLB <-- gwo <-- connection's mark, NAT undone <-- eth0 <--
#
# Use it for a NAT gateway, or a firewall that is one. Packets from gwi go where the host's main routing table says,
# as a rule out of the default interface. Their connection keeps the endpoint's number as its mark, and by that what
# answers goes back into the endpoint that asked. IPv4, and IPv6 where the host has an IPv6 address. Where endpoints'
# CIDRs overlap: create-nat-overlapping.sh. On EC2 turn the source/destination check off.
#
# The host's own ports are closed to endpoints, ping too. So is what NAT would open as if the host asked: the instance's
# metadata and all else that is link-local, and Geneve, which other appliances take for the load balancer's since it comes
# from its subnet. `nft list table inet gwlbtun-X` shows how many packets that dropped.
#
# `nft flush ruleset` stops the traffic until this script is called again (common.sh says how).
#
# Changes on the host: five rules in `ip rule`, a routing table and an nftables table, per endpoint, and rp_filter on
# gwi, all of which DESTROY removes or the interface takes with it. For the whole host, until the last endpoint's
# DESTROY: net.ipv4.conf.*.forwarding of the interfaces that routes lead out of, net.ipv6.conf.all.forwarding, with
# which an interface's accept_ra of 1 becomes 2, net.ipv4.fwmark_reflect and net.ipv6.fwmark_reflect.
#
# In a container whose /proc/sys is read-only these must be so beforehand (docker run --sysctl NAME=VALUE):
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
