# SPDX-License-Identifier: MIT-0
"""Hostile packets: each is counted under its own reason, and the traffic beside it goes on."""
import contextlib
import random
import socket

import pytest

import packets
from gwlbtun import geneve
from lab import CLIENT, ENI, SERVER
from malformed import GOOD, GOOD6, HEADER, HEADER6, MALFORMED


@pytest.fixture
def beside(lab):
    """A daemon, and an endpoint whose traffic must go on."""
    daemon = lab.start()
    endpoint = lab.endpoint()
    endpoint.send(GOOD)
    assert lab.wait(lambda: endpoint.received == [GOOD])
    yield daemon, endpoint
    endpoint.send(GOOD)
    assert lab.wait(lambda: endpoint.received[-1:] == [GOOD] and lab.balancer.awaited == 0)


def settled(lab, daemon):
    """Health when the daemon has received all that was sent."""
    counters = lab.balancer.counters
    assert lab.wait(lambda: daemon.health()["totals"]["pktsFromGwlb"] == counters.sent + counters.injected)
    return daemon.health()


@pytest.mark.parametrize("reason", sorted({reason for reason, _ in MALFORMED}))
def test_each_fault_is_counted_under_its_own_reason(lab, beside, reason):
    daemon, endpoint = beside
    payloads = [payload for known, payload in MALFORMED if known == reason]
    for payload in payloads:
        lab.balancer.inject(payload)
    settled(lab, daemon)
    assert daemon.drops() == {reason: len(payloads)}
    assert [eni["eniStr"] for eni in daemon.health()["enis"]] == [endpoint.id]
    assert lab.balancer.counters.returned == 1


def test_faults_cost_no_flow_and_no_endpoint(lab):
    daemon = lab.start()
    for _, payload in MALFORMED:
        lab.balancer.inject(payload)
    health = settled(lab, daemon)
    assert sum(health["drops"].values()) == len(MALFORMED)
    assert health["enis"] == [] and health["flows"]["size"] == 0
    assert daemon.get()[0] == 200


@pytest.mark.parametrize("payload, dropped", [
    (bytes(65507), "protocol"),
    (b"\xff" * 65507, "version"),
    (HEADER + bytes(65507 - 40), "inner_mismatch"),
    (HEADER + packets.udp(CLIENT[0], SERVER[0], 5, 6, bytes(65507 - 40 - 28)), "too_big"),
], ids=["zeros", "ones", "a header", "an inner packet"])
def test_the_largest_datagram_is_dropped_and_counted(lab, beside, payload, dropped):
    daemon, _ = beside
    for _ in range(3):
        lab.balancer.inject(payload)
    assert lab.wait(lambda: daemon.drops() == {dropped: 3}), daemon.drops()
    assert lab.balancer.counters.returned == 1
    assert daemon.get()[0] == 200


def test_the_largest_datagram_with_a_small_packet_in_it(lab, beside):
    daemon, endpoint = beside
    envelope = endpoint.flow(GOOD).envelope
    padded = envelope.header + GOOD + bytes(65507 - 40 - len(GOOD))
    for _ in range(3):
        lab.balancer.inject(padded, envelope.port, envelope.address)
    assert lab.wait(lambda: lab.balancer.counters.returned == 4)
    # Returned, and without the padding; what was injected is not awaited.
    returned = envelope.header + GOOD
    found, lab.balancer.violations[:] = list(lab.balancer.violations), []
    assert [text.startswith("not a packet that this flow awaits") for text in found] == [True] * 3
    assert [text.endswith(f"{len(returned)} bytes {returned.hex()}") for text in found] == [True] * 3
    assert daemon.drops() == {}
    assert daemon.get()[0] == 200


def test_a_packet_larger_than_the_way_out_is_dropped_and_counted(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2, bytes(8900))
    endpoint.send(packet)
    assert lab.wait(lambda: endpoint.received == [packet])
    lab.appliance.ip("link set eth0 mtu 5000")
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, bytes(5000 - 68 - 28)))
    assert lab.wait(lambda: len(endpoint.received) == 2)
    lab.emit(endpoint.gwo, packets.udp(CLIENT[0], SERVER[0], 1, 2, bytes(5000 - 68 - 28 + 1)))
    assert lab.wait(lambda: daemon.drops() == {"too_big": 1})
    endpoint.send(GOOD)
    assert lab.wait(lambda: endpoint.received[-1] == GOOD)


def test_a_scan_of_ports_changes_nothing(lab, beside):
    daemon, _ = beside
    with lab.outside.entered(), contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as scanner:
        for port in range(1, 65536, 13):
            if port != geneve.PORT:
                with contextlib.suppress(ConnectionRefusedError):
                    scanner.sendto(b"?", (lab.balancer.appliance, port))
    for port in range(6000, 6100):
        lab.balancer.inject(b"?", destination_port=port)
        lab.balancer.counters.injected -= port != geneve.PORT
    settled(lab, daemon)
    assert daemon.drops() == {"header_short": 1}


def test_noise_does_no_harm(lab, beside):
    daemon, endpoint = beside
    rng = random.Random(5)
    expected = {}
    for _ in range(3000):
        base = bytearray(rng.choice((HEADER + GOOD, HEADER6 + GOOD6)))
        for _ in range(rng.randrange(1, 6)):
            base[rng.randrange(len(base))] = rng.randrange(256)
        payload = bytes(base[:rng.randrange(len(base) + 1)])
        try:
            header = geneve.parse(payload)
        except geneve.GeneveError as error:
            reason = error.reason[len("drop_"):]
            expected[reason] = expected.get(reason, 0) + 1
            lab.balancer.inject(payload)
        else:
            assert header.size
    health = settled(lab, daemon)
    assert len(expected) > 8
    assert {reason: count for reason, count in health["drops"].items() if count} == expected
    assert [eni["eniStr"] for eni in health["enis"]] == [endpoint.id]


def test_what_is_wrong_is_told_once_a_second_at_most(lab, beside):
    daemon, _ = beside
    before = len(daemon.log().splitlines())
    first = daemon.health()["uptimeSecs"]
    for _ in range(50):
        for _, payload in MALFORMED:
            lab.balancer.inject(payload)
    settled(lab, daemon)
    seconds = daemon.health()["uptimeSecs"] - first
    assert len(daemon.log().splitlines()) - before <= seconds + 2


def test_a_flood_of_unknown_endpoints_is_bounded(lab):
    daemon = lab.start("--max-endpoints", "3", hook=None)
    for number in range(200):
        lab.balancer.inject(geneve.gwlb_header(ENI + number, 1, 2).pack() + GOOD)
    settled(lab, daemon)
    assert lab.wait(lambda: daemon.drops() == {"endpoints_full": 197}), daemon.drops()
    health = daemon.health()
    assert len(health["enis"]) == health["endpoints"]["size"] == 3
    assert daemon.get()[0] == 200


def test_enis_at_the_ends_of_their_range_are_endpoints_like_others(lab):
    daemon = lab.start()
    endpoints = [lab.endpoint(eni) for eni in (0, 1, 2 ** 64 - 1)]
    for endpoint in endpoints:
        endpoint.send(GOOD)
    assert lab.wait(lambda: all(endpoint.received == [GOOD] for endpoint in endpoints))
    assert sorted(eni["tunnelIn"]["devname"] for eni in daemon.health()["enis"]) == [
        "gwi-0", "gwi-1", "gwi-uur953OEv0f"]
