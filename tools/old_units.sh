#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# Names the units that start CLONE/gwlbtun. In a clone of the C++ tool that was the program; in this one it is a directory,
# and systemd says no more than "Permission denied".
#
# Usage: tools/old_units.sh CLONE [ROOT]
set -euo pipefail
shopt -s nullglob

clone=$1 root=${2:-}
units=()
for directory in /etc /run /usr/local/lib /usr/lib /lib; do
	units+=("$root$directory"/systemd/system/*.service "$root$directory"/systemd/system/*.service.d/*.conf)
done
[ ${#units[@]} -gt 0 ] || exit 0

declare -A told=()
{ grep -HE '^[[:space:]]*Exec[A-Za-z]+[[:space:]]*=.*/gwlbtun' "${units[@]}" 2>/dev/null || true; } |
	while IFS= read -r line; do
		unit=$(readlink -f "${line%%:*}")
		read -r program _ <<<"${line#*=}"
		program=$(sed 's/^[-@:+!|]*//; s/^"\(.*\)"$/\1/' <<<"$program")
		if [ "$program" -ef "$clone/gwlbtun" ] && [ -z "${told[$unit]:-}" ]; then
			told[$unit]=1
			echo "$unit starts $program, which is a directory here: write $program.py there, or python3 $program"
		fi
	done
