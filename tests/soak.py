#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""gwlbtun under mixed traffic, churn and faults, for as long as it is told to: tests/support/soak.py says what happens.

Usage: tests/soak.py SECONDS
"""
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

WARM_UP_S = 60  # at most; a fifth of the time


def main(arguments):
    if len(arguments) != 1 or not arguments[0].isdigit():
        print("usage: tests/soak.py SECONDS", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("soak: it makes network namespaces and TUN interfaces: run it as root", file=sys.stderr)
        return 1
    from lab import Lab
    from soak import soak  # tests/support/soak.py: the directory of this file is no longer first
    Lab.kernel_path = os.environ.get("KERNEL_PATH", "auto")  # as users have it
    seconds = int(arguments[0])
    warm_up = min(seconds / 5, WARM_UP_S)
    with tempfile.TemporaryDirectory() as directory:
        try:
            print(soak(Path(directory), warm_up, seconds - warm_up))
        except AssertionError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
