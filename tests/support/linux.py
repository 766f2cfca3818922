# SPDX-License-Identifier: MIT-0
"""What the kernel that the tests run on has, by its version: gwlbtun itself finds that out by trying."""
import os

VERSION = tuple(map(int, os.uname().release.split(".")[:2]))
HAS_TCX = VERSION >= (6, 6)
HAS_NETDEV_EGRESS = VERSION >= (5, 16)
