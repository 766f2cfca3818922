# SPDX-License-Identifier: MIT-0
"""A receiver by itself, on loopback, with endpoints whose rings nobody drains."""
import contextlib
import os
import socket
import struct
from unittest import mock

import packets
from gwlbtun import fastpath, geneve
from gwlbtun.receiver import Receiver
from gwlbtun.settings import Place

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_RCVBUFFORCE, IP_PKTINFO = 33, 8
ROOM = 64 << 20
SEGMENTS = 64  # in one datagram, before Linux 6.9

PACKET = packets.udp("10.0.0.1", "10.0.0.2", 1, 2, b"x" * 20)


def encapsulated(eni: int, packet: bytes = PACKET) -> bytes:
    return geneve.gwlb_header(eni, eni, 7, geneve.PROTOCOLS[packet[0] >> 4]).pack() + packet


def drops(counters: dict) -> dict:
    return {name[len("drop_"):]: value for name, value in counters.items() if name.startswith("drop_") and value}


def udp_sockets():
    """One to receive by, and one that sends to it, on loopback."""
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)  # no more than net.core.rmem_max
    with contextlib.suppress(PermissionError):
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    receiver.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    receiver.setsockopt(SOL_UDP, UDP_GRO, 1)
    receiver.bind(("127.0.0.1", 0))
    sender.connect(receiver.getsockname())
    return receiver, sender


def unix_sockets():
    """As udp_sockets(), but their datagrams may be larger than any of UDP's."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.bind(f"\0gwlbtun-test-{os.getpid()}")  # who has no name is taken for nobody
    return receiver, sender


class Bench:
    """A handler with one receiver, and a socket that sends to it. No endpoint is made but those that were added."""

    def __init__(self, **limits):
        self.handler = fastpath.Handler(limits.get("shim") or fastpath.Shim(), 1, 1, limits.get("endpoints", 16),
                                        limits.get("flows", 4096), 350, 120,
                                        fastpath.OFFLOAD_MERGE_TCP | fastpath.OFFLOAD_MERGE_UDP)
        self.endpoints = {}
        self._in, self._out = limits.get("sockets", udp_sockets)()

    def add(self, eni: int) -> None:
        self.endpoints[eni] = self.handler.endpoint(eni)

    @property
    def socket(self) -> socket.socket:
        """By which it receives."""
        return self._in

    def send(self, payload: bytes) -> None:
        self._out.send(payload)

    def send_together(self, payloads) -> None:
        """Payloads of one size, in as few datagrams as can be."""
        size, = {len(payload) for payload in payloads}
        for at in range(0, len(payloads), SEGMENTS):
            self._out.sendmsg([b"".join(payloads[at:at + SEGMENTS])], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))])

    def receive(self) -> dict:
        """Handles all that was sent, in batches as large as can be; the counters then."""
        receiver = Receiver(0, Place("U", 0, None), self.handler, self._in, mock.Mock())
        self.handler.stop()
        receiver.worker.start()
        receiver.worker.join()
        assert receiver.worker.failure is None
        return receiver.counters()

    def close(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.unpublish()
            endpoint.free()
        self.handler.free()
        self._in.close()
        self._out.close()
