# SPDX-License-Identifier: MIT-0
"""Many packets over many flows and endpoints: all come back, none altered, none under another's header."""
import random

import packets
from lab import ENI

PACKETS = 100_000
FLOWS = 1000
ENDPOINTS = 4
IN_FLIGHT = 512  # fewer than any queue on the way holds, so that what is lost was lost by gwlbtun


def one_packet(rng, flow, number):
    """Packet of a flow, unlike all others; every other flow is IPv6, and the directions alternate at random."""
    ends = ((f"2001:db8:1::{flow:x}", f"2001:db8:2::{flow % 7:x}") if flow % 2 else
            (f"10.1.{flow >> 8}.{flow & 255}", f"10.2.0.{flow % 7}"))
    ports = 1024 + flow, 53
    if rng.random() < 0.5:
        ends, ports = ends[::-1], ports[::-1]
    payload = number.to_bytes(4, "big") * rng.randrange(1, 300)
    if flow % 3 == 0:
        return packets.tcp(*ends, *ports, payload, seq=number * 2000, ack=1)
    if flow % 3 == 1:
        return packets.udp(*ends, *ports, payload)
    return packets.echo(*ends, flow, number & 0xFFFF, payload)


def test_a_hundred_thousand_packets_over_a_thousand_flows_and_four_endpoints(lab):
    daemon = lab.start()
    rng = random.Random(2)
    endpoints = [lab.endpoint(ENI + number) for number in range(ENDPOINTS)]
    counters = lab.balancer.counters
    for number in range(PACKETS):
        flow = rng.randrange(FLOWS)
        if number % 64 == 0:
            assert lab.balancer.wait(lambda: counters.sent - counters.returned < IN_FLIGHT), "packets are lost"
        endpoints[flow % ENDPOINTS].send(one_packet(rng, flow, number))
    assert lab.balancer.wait(lambda: counters.returned == PACKETS), f"{PACKETS - counters.returned} packets are lost"
    assert counters.sent == PACKETS
    assert lab.balancer.violations == []
    assert lab.balancer.awaited == 0
    assert sum(len(endpoint.flows) for endpoint in endpoints) == FLOWS

    health = daemon.health()
    threads = health["udp"]["UDPPacketReceiver"]["threads"]
    assert sum(thread["pktsIn"] for thread in threads) == PACKETS
    assert sum(thread["bytesIn"] for thread in threads) == counters.sent_bytes
    for eni in health["enis"]:
        endpoint, = (endpoint for endpoint in endpoints if endpoint.id == eni["eniStr"])
        sent = sum(flow.sent for flow in endpoint.flows.values())
        assert eni["tunnelIn"]["pktsOut"] == sent
        assert sum(thread["pktsIn"] for thread in eni["tunnelOut"]["threads"]) == sent
        versions = [key[0] for key in endpoint.flows]
        assert eni["v4FlowCache"]["size"] == versions.count(4)
        assert eni["v6FlowCache"]["size"] == versions.count(6)
    assert len(health["enis"]) == ENDPOINTS
