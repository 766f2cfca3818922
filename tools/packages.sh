#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# The system packages of the project, by purpose. Only this script lists them: `make` and .ci/run ask it, and
# tests/unit/test_packages.py checks README.md and CONTRIBUTING.md against it.
#
# Usage: tools/packages.sh command PURPOSE... [debian|amazon]   prints the command that installs them, here or there
#        tools/packages.sh install PURPOSE...                   installs those that are missing here, and names them
# Purposes: run (build and run gwlbtun), test, lint; on Debian alone arm64 (build for it on other hosts) and kernels (tests on
#           other kernels)
set -euo pipefail

declare -A PACKAGES=(
	[debian run]="gcc make python3 iproute2 nftables"
	[debian test]="python3-venv curl iputils-ping traceroute tcpdump procps iptables systemd prometheus mandoc chromium chromium-driver"
	[debian lint]="python3-venv clang clang-format clang-tidy"
	[debian arm64]="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
	[debian kernels]="qemu-system-x86 busybox-static kmod"
	[amazon run]="gcc make python3 iproute iproute-tc nftables util-linux gawk"
	[amazon test]="iputils traceroute tcpdump procps-ng iptables-nft libasan libubsan libtsan systemd"
	[amazon lint]="clang clang-tools-extra"
)
declare -A INSTALL=([debian]="apt-get install -y" [amazon]="dnf install -y")

fail() {
	echo "packages.sh: $*" >&2
	exit 2
}

is_installed() {
	case $system in
	debian) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$' ;;
	amazon) rpm -q --whatprovides "$1" >/dev/null 2>&1 ;;
	esac
}

install() {
	local missing=()
	for name; do
		is_installed "$name" || missing+=("$name")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || fail "packages are missing: sudo ${INSTALL[$system]} ${missing[*]}"
	echo "packages.sh: installs what is missing: ${INSTALL[$system]} ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	[ "$system" != debian ] || apt-get update -qq
	# shellcheck disable=SC2086
	${INSTALL[$system]} "${missing[@]}" >/dev/null
}

system=
for candidate in debian:apt-get amazon:dnf; do
	[ "$system" ] || ! command -v "${candidate#*:}" >/dev/null || system=${candidate%:*}
done
action=${1:-nothing}
names=()
for word in "${@:2}"; do
	case $word in
	debian | amazon) system=$word ;;
	run | test | lint | arm64 | kernels) names+=("$word") ;;
	*) fail "no purpose is named $word: there are run, test, lint, arm64 and kernels" ;;
	esac
done
[ "$system" ] || fail "there is neither apt-get nor dnf here: install by other means what README.md lists"
[ ${#names[@]} -gt 0 ] || fail "say what for: run, test, lint, arm64 or kernels"
packages=()
for purpose in "${names[@]}"; do
	[ "${PACKAGES[$system $purpose]-}" ] || fail "there are no packages for $purpose here: use Debian"
	read -ra more <<<"${PACKAGES[$system $purpose]}"
	packages+=("${more[@]}")
done

case $action in
command) echo "sudo ${INSTALL[$system]} ${packages[*]}" ;;
install) install "${packages[@]}" ;;
*) fail "$action is none of its actions: they are command and install" ;;
esac
