# SPDX-License-Identifier: MIT-0
"""Hosts whose traffic the load balancer carries."""
import fcntl
import os
import struct
from typing import Sequence

from .netns import Namespace

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 8500


class Host:
    """One end of the traffic: a namespace whose default route is a TUN interface that the balancer reads and writes."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], name: str = "gwlb", mtu: int = MTU):
        self.namespace = namespace
        self.addresses = tuple(addresses)
        self.name = name
        with namespace.entered():
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        namespace.ip("link set", name, "mtu", mtu, "txqueuelen 10000 up")
        for address in addresses:
            namespace.ip("address add", address, "dev", name, "nodad" if ":" in address else "")
            namespace.ip("-6" if ":" in address else "-4", "route replace default dev", name, "src", address)

    @property
    def ipv4(self) -> str:
        return next(address for address in self.addresses if ":" not in address)

    @property
    def ipv6(self) -> str:
        return next(address for address in self.addresses if ":" in address)

    def address(self, version: int) -> str:
        return self.ipv4 if version == 4 else self.ipv6

    def deliver(self, packet: bytes) -> None:
        os.write(self.fd, packet)

    def close(self) -> None:
        os.close(self.fd)
