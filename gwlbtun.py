#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""The gwlbtun command. Kept to syntax that any Python can read, so that one too old can be told so."""
import os
import signal
import sys

if sys.version_info < (3, 9):
    sys.exit("gwlbtun: needs Python 3.9 or newer, this is %d.%d: run it with a newer python3" % sys.version_info[:2])

if os.getpid() == 1:  # as in a container: Linux throws a signal away for which there is no handler yet, unless it is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from gwlbtun.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
