# SPDX-License-Identifier: MIT-0
# shellcheck shell=sh
#
# common.sh - what the hook scripts beside it share; each reads it first. gwlbtun calls a hook with four arguments:
#
#     CREATE|DESTROY  gwi-X  gwo-X  ENI ID in 17 hexadecimal digits
#
# gwi-X is where packets from the load balancer appear; what is sent to gwo-X (or to gwi-X) goes back to it.
#
# Everything that a hook sets up for an endpoint can be found again by name or by number, with no notes kept on disk:
#
#     nftables: one table, inet gwlbtun-X                         ($RULESET)
#     routing:  one number for the preference of its rules in `ip rule`, for its routing table, and for its packet mark,
#               connection mark and conntrack zone where it has them    ($NUMBER, from 6081 on)
#
# so clear_endpoint() also removes what a gwlbtun that died has left, and endpoints never touch each other's.

set -eu

if [ $# -ne 4 ] || { [ "$1" != CREATE ] && [ "$1" != DESTROY ]; }; then
	echo "usage: $0 CREATE|DESTROY GWI GWO ENI-ID" >&2
	exit 2
fi
GWI=$2
# shellcheck disable=SC2034  # for the hooks
GWO=$3
RULESET=gwlbtun-${GWI#gwi-}
DIRECTORY=$(dirname "$(readlink -f "$0")")

FAMILIES=-4
if [ "$(cat "/proc/sys/net/ipv6/conf/$GWI/disable_ipv6" 2>/dev/null)" = 0 ]; then
	FAMILIES="-4 -6"
fi

# sysctl NAME VALUE: sets it where it is not so already; in a container it may be right, and read-only.
sysctl() {
	[ "$(cat "/proc/sys/$1")" = "$2" ] || echo "$2" >"/proc/sys/$1"
}

# ---- The reverse path filter ----
#
# Packets on gwi come from addresses that Linux routes elsewhere, so the filter would drop them all in silence. When
# an interface appears, udev has systemd apply the host's sysctl settings to it, which commonly turns the filter on,
# some tens of milliseconds later and so after this script. A drop-in with the interface's own name wins over such
# settings, then and whenever they are applied anew; a pass already under way, or another tool's, is outlasted by
# looking again for ten seconds. The setting itself goes with the interface. The kernel goes by the larger of it and
# net.ipv4.conf.all.rp_filter, which is the host's owner's to set to 0.

DROP_IN=/run/sysctl.d/99-gwlbtun-$GWI.conf

rp_filter_off() {
	if [ -d /run/systemd/system ]; then
		mkdir -p "${DROP_IN%/*}"
		echo "net.ipv4.conf.$GWI.rp_filter = 0" >"$DROP_IN"
	fi
	filter=net/ipv4/conf/$GWI/rp_filter
	sysctl "$filter" 0
	# shellcheck disable=SC2016  # for the inner shell
	setsid -f sh -c 'for _ in $(seq 50); do
			sleep 0.2
			value=$(cat "$1") || exit
			[ "$value" = 0 ] || echo 0 >"$1"
		done' sh "/proc/sys/$filter" </dev/null >/dev/null 2>&1 9<&- # and lets go of number()'s lock
}

rp_filter_forget() {
	rm -f "$DROP_IN"
}

# ---- Numbers, rules, routes ----

# Sets NUMBER: the endpoint's own if it has one already, else the lowest free one. `ip rule` is the register, so the
# hook must add a rule with `iif $GWI` of that preference. Holds a lock from here to the script's end.
number() {
	exec 9<"$DIRECTORY/common.sh"
	flock 9
	NUMBER=$(ip -4 rule show | awk -F: -v mine=" iif $GWI " '
		{ used[$1] = 1 }
		6081 <= $1 && $1 <= 9999 && index($0, mine) { own = $1 }
		END { for (free = 6081; free in used; free++); print own ? own : free }')
	if [ "$NUMBER" -gt 9999 ]; then
		echo "The preferences 6081 to 9999 of ip rule are all in use: no room for $GWI." >&2
		exit 1
	fi
}

# Removes the rules, routes and nftables table of the endpoint, those that are there.
clear_endpoint() {
	for family in -4 -6; do
		while ip "$family" rule del pref "$NUMBER" 2>/dev/null; do :; done
		ip "$family" route flush table "$NUMBER" 2>/dev/null || :
	done
	printf 'table inet %s\ndelete table inet %s\n' "$RULESET" "$RULESET" | nft -f -
}

# rule SELECTOR... ACTION...: adds a rule for both IPv4 and IPv6, behind those of the endpoint that are there already.
rule() {
	for family in $FAMILIES; do
		ip "$family" rule add pref "$NUMBER" "$@"
	done
}

# route ROUTE...: adds a route to the endpoint's table, for both IPv4 and IPv6.
route() {
	for family in $FAMILIES; do
		ip "$family" route add "$@" table "$NUMBER"
	done
}

# ---- Sysctls of the whole host: turned on and left on, as others may have come to rely on them ----

# An ICMP error or TCP reset that Linux answers a packet with is given that packet's mark, and so its route.
reflect_marks() {
	sysctl net/ipv4/fwmark_reflect 1
	[ "$FAMILIES" = -4 ] || sysctl net/ipv6/fwmark_reflect 1
}

# Forwards what comes from gwi: for IPv4 a setting of the interface alone. IPv6 has only the one for the whole host;
# as a forwarding host ignores router advertisements, where its own default route may come from, those are first told
# to stay.
forward() {
	sysctl "net/ipv4/conf/$GWI/forwarding" 1
	if [ "$FAMILIES" = -4 ] || [ "$(cat /proc/sys/net/ipv6/conf/all/forwarding)" = 1 ]; then
		return
	fi
	for accept in /proc/sys/net/ipv6/conf/*/accept_ra; do
		if [ "$(cat "$accept")" = 1 ]; then
			echo 2 >"$accept"
		fi
	done
	sysctl net/ipv6/conf/all/forwarding 1
}
