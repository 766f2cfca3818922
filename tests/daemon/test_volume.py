# SPDX-License-Identifier: MIT-0
"""Many packets over many flows and endpoints: all come back, none altered, none under another's header."""
import itertools
import random

import packets
from lab import ENI

PACKETS = 100_000
FLOWS = 1000
ENDPOINTS = 4
IN_FLIGHT = 512  # fewer than any queue on the way holds, so that what is lost was lost by gwlbtun
BURST = 12

# What systems put into the ID of IPv4, with and without DF.
IDENTS = [
    lambda rng: (0 for _ in itertools.count()),
    lambda rng: (0x1234 for _ in itertools.count()),
    lambda rng: (rng.getrandbits(16) for _ in itertools.count()),
    lambda rng: (number & 0xFFFF for number in itertools.count(rng.getrandbits(16))),
]


class Sender:
    """One direction of a flow. The same 5-tuples are in every endpoint, half of them IPv6."""

    def __init__(self, rng, flow, back):
        self._rng = rng
        tuples, version = flow // (2 * ENDPOINTS), flow % 2
        ends = ((f"2001:db8:1::{tuples:x}", f"2001:db8:2::{tuples % 7:x}") if version else
                (f"10.1.0.{tuples}", f"10.2.0.{tuples % 7}"))
        ports = 1024 + tuples, 53
        self._ends, self._ports = (ends[::-1], ports[::-1]) if back else (ends, ports)
        self._protocol = tuples % 3
        self._fields = {} if version else {"dont_fragment": tuples // 3 % 2 == 0}
        self._idents = None if version else IDENTS[tuples // 6 % len(IDENTS)](rng)
        self._identifier, self._back, self._seq = tuples, back, rng.getrandbits(32)

    def packet(self, payload):
        if self._idents:
            self._fields["ident"] = next(self._idents)
        if self._protocol == 0:
            seq, self._seq = self._seq, (self._seq + len(payload)) & 0xFFFFFFFF
            return packets.tcp(*self._ends, *self._ports, payload, seq=seq, ack=1, **self._fields)
        if self._protocol == 1:
            return packets.udp(*self._ends, *self._ports, payload, **self._fields)
        return packets.echo(*self._ends, self._identifier, 1, payload, self._back, **self._fields)


def test_a_hundred_thousand_packets_over_a_thousand_flows_and_four_endpoints(lab):
    daemon = lab.start()
    rng = random.Random(2)
    endpoints = [lab.endpoint(ENI + number) for number in range(ENDPOINTS)]
    senders = [[Sender(rng, flow, back) for back in (False, True)] for flow in range(FLOWS)]
    counters = lab.balancer.counters
    while counters.sent < PACKETS:
        flow = rng.randrange(FLOWS)
        sender, size = rng.choice(senders[flow]), rng.randrange(1, 300)
        assert lab.balancer.wait(lambda: counters.sent - counters.returned < IN_FLIGHT), "packets are lost"
        for number in range(counters.sent, min(counters.sent + rng.randint(1, BURST), PACKETS)):
            endpoints[flow // 2 % ENDPOINTS].send(sender.packet(number.to_bytes(4, "big") * size))
    assert lab.balancer.wait(lambda: counters.returned == PACKETS), f"{PACKETS - counters.returned} packets are lost"
    assert counters.sent == PACKETS
    assert lab.balancer.violations == []
    assert lab.balancer.awaited == 0
    assert [len(endpoint.flows) for endpoint in endpoints] == [FLOWS // ENDPOINTS] * ENDPOINTS
    assert all(endpoint.flows.keys() == endpoints[0].flows.keys() for endpoint in endpoints)

    # What goes to Linux is counted after it was written.
    assert lab.wait(lambda: sum(eni["tunnelIn"]["pktsOut"] for eni in daemon.health()["enis"]) == PACKETS)
    health = daemon.health()
    assert health["totals"]["framesToLinux"] < PACKETS, "none was merged"
    threads = health["udp"]["UDPPacketReceiver"]["threads"]
    assert sum(thread["pktsIn"] for thread in threads) + health["ebpf"]["ingress"]["accelerated"] == PACKETS
    if lab.kernel_path != "off":  # of the flows of TCP and UDP, whose packets come one after the other
        assert min(health["ebpf"][way]["accelerated"] for way in ("ingress", "egress")) > PACKETS / 20, health["ebpf"]
    assert health["totals"]["pktsFromGwlb"] == PACKETS and health["totals"]["bytesFromGwlb"] == counters.sent_bytes
    for eni in health["enis"]:
        endpoint, = (endpoint for endpoint in endpoints if endpoint.id == eni["eniStr"])
        sent = sum(flow.sent for flow in endpoint.flows.values())
        assert eni["tunnelIn"]["pktsOut"] == sent
        assert eni["tunnelOut"]["pktsIn"] == sent
        versions = [key[0] for key in endpoint.flows]
        assert 0 < eni["v4FlowCache"]["size"] == versions.count(4)
        assert 0 < eni["v6FlowCache"]["size"] == versions.count(6)
    assert len(health["enis"]) == ENDPOINTS
