#!/usr/bin/env bash
# SPDX-License-Identifier: MIT-0
# sanitized_python.sh PYTHON LIBRARY DIRECTORY: makes DIRECTORY/bin/python3, which is PYTHON with a sanitizer's run-time library
# (libasan.so, say) loaded before all others, as a sanitized shim needs it.
#
# It tells the dynamic linker so by an option. All programs that Python starts, hooks among them, would inherit LD_PRELOAD.
# Tests fork, and what is forked starts threads, which ThreadSanitizer allows only when told.
set -euo pipefail

python=$1 directory=$3
library=$(gcc -print-file-name="$2")
interpreter=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
linker=$(readelf -lW "$interpreter" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
environment=$("$python" -c 'import sys; print(sys.prefix if sys.prefix != sys.base_prefix else "")')

mkdir -p "$directory/bin"
cat >"$directory/bin/python3" <<END
#!/bin/sh
preload=$library\${LD_PRELOAD:+:\$LD_PRELOAD}
unset LD_PRELOAD
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=die_after_fork=0
exec $linker --argv0 "\$0" --preload "\$preload" $interpreter "\$@"
END
chmod +x "$directory/bin/python3"

if [ "$environment" ]; then
	cp "$environment/pyvenv.cfg" "$directory"
	ln -sfn "$environment/lib" "$directory/lib"
fi
