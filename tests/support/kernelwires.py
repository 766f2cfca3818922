# SPDX-License-Identifier: MIT-0
"""The programs in the kernel at real interfaces: uplink, gwi and gwo of an appliance, and the load balancer's end of the wire.

No gwlbtun runs. Linux routes what appears on gwi out of gwo.
"""
import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from typing import List, Tuple

import netns
from gwlbtun.demo.balancer import is_multicast
from gwlbtun.kernel import attach
from kernelpath import GWI, GWO, OWN, SLOT, World
from linux import HAS_TCX

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_ETH_P_ALL = 0x0003
SO_RCVBUFFORCE, _ROOM = 33, 64 << 20
_LOOK_S = 0.2  # how long nothing must come for there to be no more
_OUTGOING = 4  # PACKET_OUTGOING


class Tap:
    """What comes in at an interface, from now on."""

    def __init__(self, interface: str, only: bytes = b""):
        """only: the type in Ethernet headers."""
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        if interface:
            self.socket.bind((interface, _ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM)
        self._only = only

    def named(self) -> List[Tuple[str, bytes]]:
        """Names of interfaces and packets, until none comes any more."""
        found = []
        while select.select([self.socket], [], [], _LOOK_S)[0]:
            data, (name, _, kind, *_) = self.socket.recvfrom(65536)
            if kind != _OUTGOING and (not self._only or data[12:14] == self._only):
                found.append((name, data))
        return found

    def read(self) -> List[bytes]:
        return [data for _, data in self.named()]

    def close(self) -> None:
        self.socket.close()


class Wires:
    """Both namespaces, with the programs attached."""

    def __init__(self, tcx: bool, attached: bool = True):
        """tcx: by links where the kernel has them."""
        self.stack = contextlib.ExitStack()
        try:
            self._make(tcx, attached)
        except BaseException:
            self.stack.close()
            raise

    def _make(self, tcx: bool, attached: bool) -> None:
        self.world = World()
        self.stack.callback(self.world.close)
        self.balancer, self.appliance = (self.stack.enter_context(netns.Namespace(label))
                                         for label in ("balancer", "appliance"))
        netns.ip(f"link add wire netns {self.balancer.name} mtu 9001 type veth peer name uplink netns {self.appliance.name}")
        self.balancer.ip("link set wire up mtu 9001")
        self.appliance.ip("link set uplink up mtu 9001")
        self.appliance.ip(f"address add {OWN}/24 dev uplink")
        with self.appliance.entered():
            self.gwi, self.gwo = tun("gwi"), tun("gwo")
            self.index = {name: socket.if_nametoindex(name) for name in ("uplink", "gwi", "gwo")}
            for name in "gwi", "gwo":
                self.appliance.ip(f"link set {name} up mtu 8500")
                self.appliance.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
            self.appliance.sysctl("net.ipv4.conf.all.rp_filter", 0)
            self.appliance.sysctl("net.ipv4.ip_forward", 1)
            self.appliance.sysctl("net.ipv6.conf.all.forwarding", 1)
            self.appliance.ip("route add 10.0.0.0/8 dev gwo")
            self.appliance.ip("-6 route add 2001:db8::/32 dev gwo")
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # where the threads would listen
            self.udp.bind((OWN, 6081))
            self.udp.setblocking(False)
            self.udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM)
            self.on_gwi, self.anywhere = Tap("gwi"), Tap("")
            if attached:
                self.attach(tcx)
        with self.balancer.entered():
            self.on_wire = Tap("wire", b"\x08\x00")
            self.sender = Tap("wire")
        for closed in self.udp, self.on_gwi, self.anywhere, self.on_wire, self.sender:
            self.stack.callback(closed.close)
        self.stack.callback(lambda: [os.close(fd) for fd in (self.gwi, self.gwo)])
        self._fill()
        self.quiet()

    def attach(self, tcx: bool) -> List[attach.Attachment]:
        """All three programs, until the end. The calling thread must be in the appliance."""
        made = [attach.attach(self.index["uplink"], attach.Place.INGRESS, self.world.ingress, tcx=tcx)]
        made += [attach.attach(self.index[name], attach.Place.EGRESS, self.world.egress, tcx=tcx) for name in ("gwi", "gwo")]
        assert {attached.kind for attached in made} == {"TCX" if tcx and HAS_TCX else "cls_bpf"}
        for attached in made:
            if attached.link is not None:
                self.stack.callback(attached.detach)
        return made

    def _fill(self) -> None:
        world = self.world
        self.mac = {name: bytes.fromhex(space.ip(f"-br link show dev {name}").split()[2].replace(":", ""))
                    for space, name in ((self.balancer, "wire"), (self.appliance, "uplink"))}
        world.endpoint.gwi = self.index["gwi"]
        world.maps.set_interface(self.index["gwi"], SLOT, GWI)
        world.maps.set_interface(self.index["gwo"], SLOT, GWO)
        world.link.ifindex, world.link.mtu = self.index["uplink"], 9001
        world.link.ethernet[:] = self.mac["wire"] + self.mac["uplink"] + b"\x08\x00"
        self.to_appliance = self.mac["uplink"] + self.mac["wire"] + b"\x08\x00"
        self.to_balancer = bytes(world.link.ethernet)

    def send(self, *frames: bytes) -> None:
        """All on one core: each has a queue of its own at the end of a veth pair, so what is sent on two may change places."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            for frame in frames:
                self.sender.socket.send(frame)
        finally:
            os.sched_setaffinity(0, allowed)

    def received_up(self) -> List[bytes]:
        """What the threads' socket has got."""
        found = []
        while select.select([self.udp], [], [], _LOOK_S)[0]:
            found.append(self.udp.recv(65536))
        return found

    def queued(self) -> List[bytes]:
        """What the threads would read from gwo."""
        return queued(self.gwo)

    def quiet(self) -> None:
        """Forgets what has come until now."""
        time.sleep(0.1)
        for read in self.on_gwi.read, self.on_wire.read, self.anywhere.read, self.received_up, self.queued:
            read()

    def close(self) -> None:
        self.stack.close()


def queued(fd: int) -> List[bytes]:
    """What Linux sends by a TUN device, without what it tells groups of its own accord."""
    found = []
    while select.select([fd], [], [], _LOOK_S)[0]:
        found.append(os.read(fd, 65536))
    return [packet for packet in found if not is_multicast(packet)]


def tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def forwarded(inner: bytes) -> bytes:
    """An inner packet once Linux has routed it."""
    packet = bytearray(inner)
    if inner[0] >> 4 == 6:
        packet[7] -= 1
        return bytes(packet)
    packet[8] -= 1
    total = struct.unpack_from("!H", packet, 10)[0] + 0x100
    struct.pack_into("!H", packet, 10, (total & 0xFFFF) + (total >> 16))
    return bytes(packet)


