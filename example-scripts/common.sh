# SPDX-License-Identifier: MIT-0
# shellcheck shell=sh
#
# common.sh - what the hook scripts beside it share. Each reads it first. gwlbtun calls a hook with four arguments:
#
#     CREATE|DESTROY  gwi-X  gwo-X  ENI ID in 17 hexadecimal digits
#
# Packets from the load balancer appear on gwi-X. What is sent to gwo-X (or to gwi-X) goes back to the load balancer.
#
# A hook finds again by name or by number all that it has set up for an endpoint. It keeps no notes on disk:
#
#     nftables: one table, inet gwlbtun-X                         ($RULESET)
#     routing:  one number for the preference of its rules in `ip rule`, for its routing table, and for its packet mark,
#               connection mark and conntrack zone where it has them    ($NUMBER, from 6081 on)
#
# So a hook also removes what a gwlbtun that died has left, and endpoints never touch each other's. Rules and routes of hooks
# have the protocol $PROTOCOL, and hooks touch no others. What hooks change for the whole host is noted in the kernel, too:
# in nftables, table inet gwlbtun.
#
# Hooks that route fail closed. The endpoint's nftables table gives a mark to what comes from gwi. Linux drops packets from
# gwi that lack the mark, whether they are for elsewhere or for the host itself. So traffic stops when somebody deletes the
# table (`nft flush ruleset`, or a reload of the host's own rules that begins with it). It goes on when the hook is called
# again, by hand or by a restart of gwlbtun:
#
#     create-x.sh CREATE gwi-X gwo-X ENI-ID
#
# You may do that at any time, and meanwhile no packet gets past the rules. A flush also takes the notes of what sysctls
# were: those of the whole host then stay as the hooks have set them.

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

# ---- Sysctls: in a container they may be right, and read-only ----

MISSING=

# sysctl NAME VALUE [BEFOREHAND]: sets it unless it is so already. BEFOREHAND is what the operator can set before the
# interface is there, where it cannot be set now.
sysctl() {
	[ "$(cat "/proc/sys/$1")" = "$2" ] || write "$@"
}

write() {
	if [ ! -w "/proc/sys/$1" ] || ! echo "$2" >"/proc/sys/$1"; then
		missing "${3:-$(echo "$1" | tr / .)=$2}"
	fi
}

missing() {
	case " $MISSING " in
		*" $1 "*) ;;
		*) MISSING="${MISSING:+$MISSING }$1" ;;
	esac
}

# Call it when all have been set that can be.
sysctls_complete() {
	if [ -n "$MISSING" ]; then
		echo "$GWI stays closed, for these sysctls are not so and cannot be set here: $MISSING." \
			"Set them before gwlbtun starts (docker run --sysctl NAME=VALUE)." >&2
		exit 1
	fi
}

# ---- The reverse path filter ----
#
# Packets on gwi come from addresses that Linux routes elsewhere, so the filter would drop them all silently. When an
# interface appears, udev has systemd apply the host's sysctl settings to it. Some tens of milliseconds later, that commonly
# turns the filter on. gwlbtun turns it off again whenever that happens. With a drop-in of the interface's own name it does
# not happen. The setting itself goes with the interface. The kernel takes the larger of it and net.ipv4.conf.all.rp_filter,
# which the host's owner must set to 0.

DROP_IN=/run/sysctl.d/99-gwlbtun-$GWI.conf

rp_filter_off() {
	if [ -d /run/systemd/system ]; then
		# Where that is not allowed, as for a user that is not root, gwlbtun still sees to it.
		{ mkdir -p "${DROP_IN%/*}" && echo "net.ipv4.conf.$GWI.rp_filter = 0" >"$DROP_IN"; } 2>/dev/null || :
	fi
	sysctl "net/ipv4/conf/$GWI/rp_filter" 0 net.ipv4.conf.default.rp_filter=0
}

rp_filter_forget() {
	rm -f "$DROP_IN"
}

# ---- Numbers, rules, routes ----

PROTOCOL=108 # of no meaning to Linux, and of no routing daemon in iproute2's list
FENCE=6080   # preference of the rule that closes an endpoint while a hook works on it: ahead of all numbers

own_rules() {
	ip -N -4 rule show | grep " proto $PROTOCOL *\$" || :
}

# Sets NUMBER: the endpoint's own if it has one already, otherwise the lowest that no rule and no route of either family
# mentions as preference, table or mark. `ip rule` is the register, so the hook must add a rule with `iif $GWI` of that
# preference. From here to its end the script holds a lock.
number() {
	exec 9<"$DIRECTORY/common.sh"
	flock 9
	NUMBER=$(own_rules | awk -F: -v mine=" iif $GWI " -v fence="$FENCE" '
		index($0, mine) && $1 > fence { print $1; exit }')
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

# Keeps all that comes from gwi from being routed until open_endpoint(), and removes the endpoint's rules and routes. A hook
# that fails in between leaves the endpoint closed.
#
# From here until forget_endpoint() a rule ahead of the local table's drops what comes without a mark. Without that rule it
# would reach the host's own sockets when the nftables table has gone. Linux asks rules of one preference in the order in
# which they were added. So the local table's rule, if it is where Linux has it, is added again behind ours; meanwhile a
# second one serves.
close_endpoint() {
	for family in $FAMILIES; do
		{
			echo "rule add pref 0 protocol $PROTOCOL iif $GWI fwmark 0/0xffffffff blackhole"
			if ip -N "$family" rule show | grep -q '^0:[[:space:]]*from all lookup 255'; then
				echo "rule add pref 1 protocol $PROTOCOL lookup local"
				echo "rule del pref 0 lookup local"
				echo "rule add pref 0 protocol kernel lookup local"
				echo "rule del pref 1 protocol $PROTOCOL lookup local"
			fi
			echo "rule add pref $FENCE protocol $PROTOCOL iif $GWI blackhole"
		} | ip "$family" -force -batch - 2>/dev/null || : # some may be there, or not there
	done
	for family in -4 -6; do
		ip "$family" rule flush pref "$NUMBER" protocol "$PROTOCOL" 2>/dev/null || :
		ip "$family" route flush table "$NUMBER" proto "$PROTOCOL" 2>/dev/null || :
	done
}

# Call it when all else is done that can fail.
open_endpoint() {
	for family in -4 -6; do
		ip "$family" rule del pref "$FENCE" protocol "$PROTOCOL" iif "$GWI" 2>/dev/null || :
	done
}

# ruleset: makes the endpoint's nftables table of the chains on standard input. It replaces one that is there in one step.
ruleset() {
	{
		printf 'table inet %s\ndelete table inet %s\ntable inet %s {\n' "$RULESET" "$RULESET" "$RULESET"
		cat
		echo '}'
	} | nft -f -
}

# For ruleset(): the host's own sockets are not for packets of an endpoint, which no security group has seen.
# shellcheck disable=SC2034  # for the hooks
NOT_TO_THE_HOST="chain input {
	type filter hook input priority filter
	iifname \"$GWI\" counter drop
}"

# For ruleset(), where NAT would make an endpoint's requests look like the host's own (create-nat.sh).
# shellcheck disable=SC2034  # for the hooks
NOT_IN_ITS_NAME="chain forward {
	type filter hook forward priority filter
	iifname \"$GWI\" ip daddr 169.254.0.0/16 counter drop
	iifname \"$GWI\" ip6 daddr fd00:ec2::/32 counter drop
	iifname \"$GWI\" udp dport 6081 counter drop
}"

# Removes the endpoint's nftables table, if it is there.
ruleset_forget() {
	printf 'table inet %s\ndelete table inet %s\n' "$RULESET" "$RULESET" | nft -f -
}

# All that a DESTROY has to do after close_endpoint().
forget_endpoint() {
	ruleset_forget
	open_endpoint
	for family in -4 -6; do
		ip "$family" rule del pref 0 protocol "$PROTOCOL" iif "$GWI" 2>/dev/null || :
	done
	sysctls_restore
	rp_filter_forget
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

# sysctl_host NAME VALUE [BEFOREHAND]: as sysctl(), and notes what it was.
sysctl_host() {
	old=$(cat "/proc/sys/$1")
	if [ "$old" != "$2" ]; then
		[ ! -w "/proc/sys/$1" ] || sysctl_note "$1" "$old" "$2"
		write "$@"
	fi
}

# sysctl_note NAME OLD NEW. The notes are a chain that nothing runs: they last as long as the settings do, in each network
# namespace separately.
sysctl_note() {
	nft -f - <<-EOF
		table inet gwlbtun {
			chain sysctls {
				continue comment "$*"
			}
		}
	EOF
}

# If no endpoint is left, restores what is still as the hooks have set it. Call it after open_endpoint().
sysctls_restore() {
	if own_rules | grep -q ' iif [^ ]* [^[]'; then # [detached]: the interface is gone
		return
	fi
	# It reads all before it writes any: net.ipv6.conf.all.forwarding overwrites that of each interface.
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

# Linux gives an ICMP error or TCP reset the mark of the packet that it answers, and so its route.
reflect_marks() {
	sysctl_host net/ipv4/fwmark_reflect 1
	[ "$FAMILIES" = -4 ] || sysctl_host net/ipv6/fwmark_reflect 1
}

# Turns on forwarding of what comes from gwi. For IPv4 the interface has a setting of its own. IPv6 has only the one for
# the whole host. A forwarding host ignores router advertisements, where its own default route may come from, so accept_ra
# is first set to accept them all the same.
forward() {
	sysctl "net/ipv4/conf/$GWI/forwarding" 1 net.ipv4.ip_forward=1
	if [ "$FAMILIES" = -4 ] || [ "$(cat /proc/sys/net/ipv6/conf/all/forwarding)" = 1 ]; then
		return
	fi
	if [ ! -w /proc/sys/net/ipv6/conf/all/forwarding ]; then
		missing net.ipv6.conf.all.forwarding=1
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

# Turns on forwarding of answers, too: from the interfaces that the host's own routes lead out of.
forward_answers() {
	for interface in $(ip -4 route show table main | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sort -u); do
		sysctl_host "net/ipv4/conf/$interface/forwarding" 1 net.ipv4.ip_forward=1
	done
}
