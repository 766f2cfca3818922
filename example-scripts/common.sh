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
# so clear_endpoint() also removes what a gwlbtun that died has left, and endpoints never touch each other's. Rules and
# routes say by their protocol ($PROTOCOL) that they are a hook's, and never is one touched that does not. What hooks
# change for the whole host is noted in the kernel too, in nftables: table inet gwlbtun.

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
# some tens of milliseconds later. gwlbtun puts it back whenever that happens; with a drop-in of the interface's own
# name it does not happen. The setting itself goes with the interface. The kernel goes by the larger of it and
# net.ipv4.conf.all.rp_filter, which is the host's owner's to set to 0.

DROP_IN=/run/sysctl.d/99-gwlbtun-$GWI.conf

rp_filter_off() {
	if [ -d /run/systemd/system ]; then
		mkdir -p "${DROP_IN%/*}"
		echo "net.ipv4.conf.$GWI.rp_filter = 0" >"$DROP_IN"
	fi
	sysctl "net/ipv4/conf/$GWI/rp_filter" 0
}

rp_filter_forget() {
	rm -f "$DROP_IN"
}

# ---- Numbers, rules, routes ----

PROTOCOL=108 # of no meaning to Linux, and of no routing daemon in iproute2's list

own_rules() {
	ip -N -4 rule show | grep " proto $PROTOCOL *\$" || :
}

# Sets NUMBER: the endpoint's own if it has one already, else the lowest that no rule and no route of either family
# mentions, be it as preference, table or mark. `ip rule` is the register, so the hook must add a rule with `iif $GWI` of
# that preference. Holds a lock from here to the script's end.
number() {
	exec 9<"$DIRECTORY/common.sh"
	flock 9
	NUMBER=$(own_rules | awk -F: -v mine=" iif $GWI " 'index($0, mine) { print $1; exit }')
	if [ -z "$NUMBER" ]; then
		NUMBER=$(for family in -4 -6; do
			ip -N "$family" rule show
			ip -N "$family" route show table all
		done 2>/dev/null | awk -F '[ \t/]+' '
			{ sub(":", " "); for (i = 1; i <= NF; i++) used[$i] = 1 }
			END { for (free = 6081; free in used || sprintf("0x%x", free) in used; free++); print free }')
	fi
	if [ "$NUMBER" -gt 9999 ]; then
		echo "The numbers 6081 to 9999 are all in use by rules or routes: no room for $GWI." >&2
		exit 1
	fi
}

# Removes the rules, routes and nftables table of the endpoint, those that are there.
clear_endpoint() {
	for family in -4 -6; do
		ip "$family" rule flush pref "$NUMBER" protocol "$PROTOCOL" 2>/dev/null || :
		ip "$family" route flush table "$NUMBER" proto "$PROTOCOL" 2>/dev/null || :
	done
	printf 'table inet %s\ndelete table inet %s\n' "$RULESET" "$RULESET" | nft -f -
}

# rule SELECTOR... ACTION...: adds a rule for both IPv4 and IPv6, behind those of the endpoint that are there already.
rule() {
	for family in $FAMILIES; do
		rule_of "$family" "$@"
	done
}

# rule_of -4|-6 SELECTOR... ACTION...
rule_of() {
	family=$1
	shift
	ip "$family" rule add pref "$NUMBER" protocol "$PROTOCOL" "$@"
}

# route ROUTE...: adds a route to the endpoint's table, for both IPv4 and IPv6.
route() {
	for family in $FAMILIES; do
		ip "$family" route add "$@" table "$NUMBER" proto "$PROTOCOL"
	done
}

# ---- Sysctls of the host: the first endpoint that needs one turns it on, the last endpoint to go puts it back ----

# sysctl_host NAME VALUE: sets it, and notes what it was.
sysctl_host() {
	old=$(cat "/proc/sys/$1")
	if [ "$old" != "$2" ]; then
		sysctl_note "$1" "$old" "$2"
		echo "$2" >"/proc/sys/$1"
	fi
}

# sysctl_note NAME OLD NEW. The notes are a chain that nothing runs: they last just as long as the settings do, in each
# network namespace apart.
sysctl_note() {
	nft -f - <<-EOF
		table inet gwlbtun {
			chain sysctls {
				continue comment "$*"
			}
		}
	EOF
}

# If no endpoint is left, sets back what is still as the hooks have set it. To be called after clear_endpoint().
sysctls_restore() {
	if own_rules | grep -q ' iif [^ ]* [^[]'; then # [detached]: the interface is gone
		return
	fi
	# All are looked at before any is written: net.ipv6.conf.all.forwarding overwrites that of each interface.
	restored=$(nft list chain inet gwlbtun sysctls 2>/dev/null | sed -n 's/.* comment "\(.*\)"$/\1/p' |
		while read -r name old new; do
			[ "$(cat "/proc/sys/$name" 2>/dev/null)" != "$new" ] || echo "$name $old"
		done)
	echo "$restored" | while read -r name old; do
		# The interface of another endpoint may go at this very moment.
		[ -z "$name" ] || { echo "$old" >"/proc/sys/$name"; } 2>/dev/null || [ ! -e "/proc/sys/$name" ]
	done
	printf 'table inet gwlbtun\ndelete table inet gwlbtun\n' | nft -f -
}

# An ICMP error or TCP reset that Linux answers a packet with is given that packet's mark, and so its route.
reflect_marks() {
	sysctl_host net/ipv4/fwmark_reflect 1
	[ "$FAMILIES" = -4 ] || sysctl_host net/ipv6/fwmark_reflect 1
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
			sysctl_host "${accept#/proc/sys/}" 2
		fi
	done
	overwritten=$(grep -l 1 /proc/sys/net/ipv6/conf/*/forwarding || :)
	sysctl_host net/ipv6/conf/all/forwarding 1
	for setting in $overwritten; do
		sysctl_note "${setting#/proc/sys/}" 1 1
	done
}

# Forwards what answers, too: from the interfaces by which the host's own routes lead out.
forward_answers() {
	for interface in $(ip -4 route show table main | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sort -u); do
		sysctl_host "net/ipv4/conf/$interface/forwarding" 1
	done
}
