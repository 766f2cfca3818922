# SPDX-License-Identifier: MIT-0
"""What the kernel that the tests run on has, by its version or by a trial. gwlbtun itself finds that out by trying."""
import os
import subprocess

VERSION = tuple(map(int, os.uname().release.split(".")[:2]))
HAS_TCX = VERSION >= (6, 6)
HAS_NETDEV_EGRESS = VERSION >= (5, 16)


def refusal(kind: str) -> str:
    """What ip says when it adds an interface of a kind, such as "vlan id 7", in a namespace of its own; empty: all is well."""
    commands = f"ip link add lower type veth peer name other && ip link add link lower name upper type {kind}"
    return subprocess.run(["unshare", "--net", "sh", "-c", commands], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, check=False).stderr.strip()
