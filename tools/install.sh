#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# Puts gwlbtun and what belongs to it in place, or takes just that away: `make install`, `make uninstall`.
#
# Usage: tools/install.sh install|uninstall
# Environment: PREFIX (/usr/local), SYSCONFDIR (/etc), DESTDIR: a directory that stands for / (empty),
#   ONEFILE: what `make dist` has built (dist/gwlbtun)
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/usr/local} SYSCONFDIR=${SYSCONFDIR:-/etc} DESTDIR=${DESTDIR:-}
ONEFILE=${ONEFILE:-dist/gwlbtun}
share=$PREFIX/share/gwlbtun
options=$SYSCONFDIR/gwlbtun.conf # the operator's
shipped=$share/gwlbtun.conf      # as it came, to tell whether the operator has changed it

# Mode, source and destination of each file. Text that is installed names the directories that it is installed for.
list() {
	printf '%s\n' \
		"755 $ONEFILE $PREFIX/bin/gwlbtun" \
		"644 build/gwlbtun.8 $PREFIX/share/man/man8/gwlbtun.8" \
		"644 build/gwlbtun.bash $PREFIX/share/bash-completion/completions/gwlbtun" \
		"644 packaging/gwlbtun.service $PREFIX/lib/systemd/system/gwlbtun.service" \
		"644 packaging/sysctl.conf $PREFIX/lib/sysctl.d/60-gwlbtun.conf" \
		"644 packaging/sysusers.conf $PREFIX/lib/sysusers.d/gwlbtun.conf" \
		"644 packaging/gwlbtun.conf $shipped"
	for hook in example-scripts/*.sh example-scripts/*.nft; do
		if [ -x "$hook" ]; then echo "755 $hook $share/$hook"; else echo "644 $hook $share/$hook"; fi
	done
}

fail() {
	echo "install.sh: $*" >&2
	exit 1
}

# Written beside and moved into place, so that nobody ever sees half a file.
put() {
	local mode=$1 source=$2 target=$DESTDIR$3
	install -D -m "$mode" "$source" "$target.new"
	case $source in
	dist/* | *.sh) ;;
	*) sed -i "s|/usr/local|$PREFIX|g; s|/etc/gwlbtun\.conf|$options|g" "$target.new" ;;
	esac
	mv -fT "$target.new" "$target"
}

is_changed() {
	[ -e "$DESTDIR$options" ] && ! cmp -s "$DESTDIR$options" "$DESTDIR$shipped"
}

install_all() {
	local keep=
	is_changed && keep=1
	while read -r mode source target; do
		[ -f "$source" ] || fail "there is no $source: run make install, which makes it"
		put "$mode" "$source" "$target"
	done < <(list)
	if [ -z "$keep" ]; then
		put 644 packaging/gwlbtun.conf "$options"
	elif is_changed; then
		echo "install.sh: keeps $options, which has been changed; $shipped is the new one"
	fi
	[ "$DESTDIR" ] || [ ! -d /run/systemd/system ] ||
		echo "install.sh: edit $options, then run: systemd-sysusers && systemctl daemon-reload &&" \
			"systemctl restart systemd-sysctl && systemctl enable --now gwlbtun"
}

uninstall_all() {
	[ "$DESTDIR" ] || [ ! -L /etc/systemd/system/multi-user.target.wants/gwlbtun.service ] ||
		fail "gwlbtun.service is enabled: first run systemctl disable --now gwlbtun"
	if is_changed; then
		echo "install.sh: leaves $options, which has been changed"
	else
		rm -f "$DESTDIR$options"
	fi
	while read -r _ _ target; do
		rm -f "$DESTDIR$target"
	done < <(list)
	for directory in "$share/example-scripts" "$share"; do
		[ ! -d "$DESTDIR$directory" ] || rmdir --ignore-fail-on-non-empty "$DESTDIR$directory"
	done
}

for directory in "$PREFIX" "$SYSCONFDIR"; do
	[[ $directory =~ ^/[A-Za-z0-9._/+-]*$ ]] ||
		fail "'$directory' cannot be installed to: give an absolute path of letters, digits and . _ / + -"
done
case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*) fail "say install or uninstall" ;;
esac
