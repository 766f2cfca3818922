# SPDX-License-Identifier: MIT-0
"""A receiver by itself: what a batch may hold, on loopback, with endpoints whose rings nobody drains."""
import socket
import struct
import threading

import pytest

import packets
from gwlbtun import fastpath, geneve
from lab import ENI

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_RCVBUFFORCE, IP_PKTINFO = 33, 8
SEGMENTS = 64  # in one datagram, before Linux 6.9


def encapsulated(eni: int, packet: bytes) -> bytes:
    return geneve.gwlb_header(eni, eni, 7, geneve.PROTOCOLS[packet[0] >> 4]).pack() + packet


class Bench:
    """A handler with one receiver on a socket of loopback's, and a socket that sends to it."""

    def __init__(self, **limits):
        self.handler = fastpath.Handler(fastpath.Shim(), 1, 1, limits.get("endpoints", 16), limits.get("flows", 4096), 350,
                                        fastpath.OFFLOAD_MERGE_TCP | fastpath.OFFLOAD_MERGE_UDP)
        self.endpoints = {}
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._in.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._in.setsockopt(SOL_UDP, UDP_GRO, 1)
        self._in.bind(("127.0.0.1", 0))
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.connect(self._in.getsockname())
        self.unknown = []

    def add(self, eni: int) -> None:
        self.endpoints[eni] = self.handler.endpoint(eni)

    def send(self, payload: bytes) -> None:
        self._out.send(payload)

    def send_together(self, payloads) -> None:
        """Payloads of one size, in as few datagrams as can be."""
        size, = {len(payload) for payload in payloads}
        for at in range(0, len(payloads), SEGMENTS):
            self._out.sendmsg([b"".join(payloads[at:at + SEGMENTS])], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))])

    def receive(self) -> dict:
        """Handles all that was sent, in batches as large as can be; the counters then."""
        def serve():
            while True:
                eni = self.handler.receive(0, self._in.fileno())
                if eni is None:
                    return
                self.unknown.append(eni)
                self.handler.refuse(0)

        thread = threading.Thread(target=serve)
        self.handler.stop()
        thread.start()
        thread.join()
        return self.handler.receiver_counters(0)

    def close(self) -> None:
        for endpoint in self.endpoints.values():
            endpoint.unpublish()
            endpoint.free()
        self.handler.free()
        self._in.close()
        self._out.close()


@pytest.fixture
def bench(request):
    made = Bench(**getattr(request, "param", {}))
    yield made
    made.close()


@pytest.mark.parametrize("bench", [{"endpoints": 1200}], indirect=True)
@pytest.mark.parametrize("number", [255, 256, 257, 512, 513, 1100])
def test_a_batch_for_more_endpoints_than_are_worked_off_at_once(bench, number):
    enis = [ENI + n for n in range(number)]
    for eni in enis:
        bench.add(eni)
    payloads = [encapsulated(eni, packets.udp("10.0.0.1", "10.0.0.2", n, 2, b"x" * 20)) for n, eni in enumerate(enis)]
    bench.send_together(payloads * 3)
    counters = bench.receive()
    assert counters["packets_in"] == 3 * number
    assert counters["batches"] == 1
    assert {name: value for name, value in counters.items() if name.startswith("drop_") and value} == {}
    # In each ring three datagrams merged, or three frames: all that was sent to it has been published.
    assert min(endpoint.ring_bytes() for endpoint in bench.endpoints.values()) >= 48 + 3 * 20
