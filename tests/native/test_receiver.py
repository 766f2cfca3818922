# SPDX-License-Identifier: MIT-0
"""A receiver by itself: what a batch may hold, on loopback.

And a tunnel thread by itself, for what no kernel of today's hands out.
"""
import socket
import struct

import pytest

import packets
from lab import ENI
from workbench import PACKET, Bench, drops, encapsulated, unix_sockets

GWO = 1
ONE_FLOW = [0, 1, 0, 0, 0, 0]  # UDP in IPv4


@pytest.fixture
def bench(request):
    made = Bench(**getattr(request, "param", {}))
    yield made
    made.close()


def sizes(bench):
    return [flows.size for flows in bench.endpoints[ENI].flows()]


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
    assert drops(counters) == {}
    # In each ring three datagrams merged, or three frames: all that was sent to it has been published.
    assert min(endpoint.ring_bytes() for endpoint in bench.endpoints.values()) >= 48 + 3 * 20


def test_packets_of_an_endpoint_that_is_not_made_are_announced_dropped_and_counted(bench):
    bench.add(ENI)
    for eni in ENI + 1, ENI, ENI + 1, ENI + 2, ENI:
        bench.send(encapsulated(eni))
    assert drops(bench.receive()) == {"endpoint_refused": 3}
    assert bench.handler.listen(0) == [ENI + 1, ENI + 1, ENI + 2]
    assert sizes(bench) == ONE_FLOW and bench.endpoints[ENI].ring_bytes() >= 2 * len(PACKET)


def test_packets_that_are_shed_are_counted_for_their_endpoint_and_go_no_further(bench):
    for eni in ENI, ENI + 1:
        bench.add(eni)
    shed, kept = bench.endpoints[ENI], bench.endpoints[ENI + 1]
    shed.shed(0, True)
    bench.send_together([encapsulated(ENI)] * 5 + [encapsulated(ENI + 1)] * 3)
    assert drops(bench.receive()) == {"overload": 5}
    assert (shed.arrived(0), shed.flow_drops(), shed.ring_drops(), shed.ring_bytes()) == (5, 5, 0, 0)
    assert (kept.arrived(0), kept.flow_drops()) == (3, 0) and kept.ring_bytes() >= len(PACKET)
    shed.shed(0, False)
    bench.send(encapsulated(ENI))
    assert drops(bench.receive()) == {"overload": 5} and shed.arrived(0) == 6 and shed.ring_bytes() >= len(PACKET)


@pytest.mark.parametrize("bench", [{"endpoints": 1024}], indirect=True)
def test_endpoints_without_threads_share_what_may_wait(bench):
    """Who invents ENI IDs gets little memory for each: a share of 256 MiB."""
    for number in range(1024):
        bench.add(ENI + number)
    payload = encapsulated(ENI, packets.udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(1000)))
    for _ in range(10):
        bench.send_together([payload] * 40)
    counters = bench.receive()
    waiting = bench.endpoints[ENI].ring_bytes()
    assert 190 << 10 < waiting <= 256 << 10
    assert drops(counters) == {"ring_full": counters["packets_in"] - waiting // 1000}


@pytest.mark.parametrize("bench", [{"sockets": unix_sockets}], indirect=True)
def test_a_datagram_larger_than_the_buffer_is_dropped_and_counted(bench):
    bench.add(ENI)
    for payload in encapsulated(ENI) + bytes(70000), encapsulated(ENI):
        bench.send(payload)
    counters = bench.receive()
    assert drops(counters) == {"datagram_truncated": 1} and counters["packets_in"] == 2
    assert sizes(bench) == ONE_FLOW


TCP = packets.tcp("10.0.0.1", "10.0.0.2", 1, 2, b"x" * 3000)
NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 0, 1, 4, 5


@pytest.mark.parametrize("flags, gso_type, gso_size, csum_start, csum_offset", [
    (NEEDS_CSUM, GSO_TCPV4, 0, 20, 16),        # segments of no bytes
    (NEEDS_CSUM, GSO_TCPV6, 1000, 20, 16),     # of the other family
    (NEEDS_CSUM, GSO_UDP_L4, 1000, 20, 6),     # of another protocol
    (NEEDS_CSUM, 9, 1000, 20, 16),             # of a kind unknown
    (NEEDS_CSUM, GSO_TCPV4, 1000, 24, 16),     # the checksum is not where TCP has it
    (NEEDS_CSUM, GSO_TCPV4, 1000, 20, 6),
    (NEEDS_CSUM, GSO_NONE, 0, len(TCP), 16),   # nor in the packet
    (NEEDS_CSUM, GSO_NONE, 0, 20, 0xFFFF),
])
def test_what_cannot_be_cut_into_segments_is_dropped_and_counted(bench, flags, gso_type, gso_size, csum_start, csum_offset):
    bench.add(ENI)
    endpoint = bench.endpoints[ENI]
    tun, linux = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tun, linux:
        tun.setblocking(False)
        for vnet in (flags, gso_type, 40, gso_size, csum_start, csum_offset), (NEEDS_CSUM, GSO_TCPV4, 40, 1500, 20, 16):
            linux.send(struct.pack("=BBHHHH", *vnet) + TCP)
        endpoint.stop()
        endpoint.run(GWO, 0, tun.fileno())
    counters = endpoint.counters(GWO, 0)
    # The other is right, but there was no packet of its flow.
    assert drops(counters) == {"segmentation": 1, "no_flow": 2}
    assert counters["packets_in"] == 3
