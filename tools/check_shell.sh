#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# Runs shellcheck on every shell script, on bash's completion, and on the script that example-scripts/gwlbtun.yaml gives to
# its instances.
#
# Usage: tools/check_shell.sh [SHELLCHECK]
set -euo pipefail
cd "$(dirname "$0")/.."
shellcheck=${1:-shellcheck}

"$shellcheck" -x .ci/run tools/*.sh example-scripts/*.sh
tools/reference.py bash | "$shellcheck" -s bash -

# CloudFormation fills in the parameters. Here each becomes a word.
instance=$(mktemp)
trap 'rm -f "$instance"' EXIT
sed -n '/Fn::Base64: !Sub |/,/^  [A-Z]/p' example-scripts/gwlbtun.yaml |
	sed -e '1d; $d' -e 's/^ \{12\}//' -e 's/\${[^}]*}/value/g' >"$instance"
grep -q 'systemctl enable --now gwlbtun' "$instance"
"$shellcheck" "$instance"
