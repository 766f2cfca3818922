#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# Runs what `make arm64` has built for arm64: the C programs of tests/native under qemu-user, with the fuzzers' corpus; the
# shim, which must have the layouts of this host's; and the one file, which must say that it is for other hosts.
set -euo pipefail
cd "$(dirname "$0")/.."

built=build/aarch64
onefile=dist/gwlbtun-aarch64

fail() {
	echo "check_arm64.sh: $*" >&2
	exit 1
}

emulated() {
	timeout 300 qemu-aarch64 -L /usr/aarch64-linux-gnu "$@"
}

emulated $built/programs/stress 60000
emulated $built/programs/stress_handler 3000 >/dev/null
for corpus in tests/native/corpus/*; do
	harness=fuzz_${corpus##*/}
	emulated "$built/programs/$harness" "$corpus" -runs=2000 >/dev/null || fail "$harness fails"
done

emulated $built/programs/shim $built/gwlbtun.so >$built/shim.arm64
build/programs/host/shim native/gwlbtun.so >$built/shim.host
diff $built/shim.host $built/shim.arm64 || fail "the shim for arm64 differs from this host's in what Python must know"

if said=$($onefile -p 0 2>&1); then
	fail "$onefile runs on this host"
fi
[[ $said == "gwlbtun: "*"as it was built for aarch64: copy the file that was built for $(uname -m)" ]] ||
	fail "$onefile does not say what it was built for: $said"
echo "arm64: the shim, its programs and the one file are as they should be"
