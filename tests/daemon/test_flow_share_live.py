# SPDX-License-Identifier: MIT-0
"""Quiet flows live on while another endpoint of the daemon floods the flow table."""
import time

import pytest

import gwlb
import packets
from gwlbtun import geneve
from lab import CLIENT, ENI, SERVER

QUIET = 100
FLOOD = 100_000
LONG = geneve.Option(0x0FFF, 1, bytes(124)), geneve.Option(0x0FFF, 1, bytes(88))


def five_tuple(number):
    return packets.ipv4(CLIENT[0], f"10.2.{number >> 16}.1", packets.UDP,
                        (number & 0xFFFF).to_bytes(2, "big") + b"\0\x35\0\x08\0\0")


def fragment(number):
    header = bytes(2) + b"\0\x09" + number.to_bytes(4, "big")
    return packets.ipv6(CLIENT[1], SERVER[1], packets.UDP, bytes(16), extensions=((packets.FRAGMENT, header),))


@pytest.mark.parametrize("packet, options", [(five_tuple, ()), (fragment, ()), (five_tuple, LONG)],
                         ids=["5-tuples", "fragments", "long headers"])
def test_replies_of_quiet_flows_find_their_way_after_a_flood_in_another_endpoint(lab, packet, options):
    daemon = lab.start("--max-flows", 1024, "--udp-idle", 86400, hook=None)
    quiet = lab.endpoint(expectation=gwlb.WellFormed())
    ports = range(2000, 2000 + QUIET)
    for port in ports:
        quiet.send(packets.udp(CLIENT[0], SERVER[0], port, 53, b"asked"))
    assert lab.wait(lambda: daemon.eni(quiet) and daemon.eni(quiet)["v4FlowCache"]["size"] == QUIET)
    time.sleep(2.1)  # the clock of the table ticks once a second
    flood(lab, daemon, lab.endpoint(ENI + 1, extra_options=options), packet)

    caches = [daemon.eni(endpoint)["v4FlowCache"] for endpoint in lab.balancer.endpoints]
    assert (caches[0]["size"], caches[0]["evictedTotal"]) == (QUIET, 0)
    assert packet is fragment or caches[1]["evictedTotal"] > FLOOD * 0.9
    assert 1000 < daemon.health()["flows"]["size"] <= 1024
    for port in ports:
        lab.emit(quiet.gwo, packets.udp(SERVER[0], CLIENT[0], 53, port, b"answered"))
    assert lab.wait(lambda: len(quiet.received) == QUIET)
    assert "flows_full" not in daemon.drops()


def flood(lab, daemon, endpoint, packet):
    """Sends FLOOD packets, each of a flow of its own, no faster than they are received."""
    flow = endpoint.flow(packet(0))
    for number in range(FLOOD):
        lab.balancer.transmit(flow.envelope.address, flow.envelope.port, flow.envelope.header + packet(number))
        if number % 5000 == 4999:
            assert lab.wait(lambda: daemon.health()["totals"]["pktsFromGwlb"] == QUIET + number + 1), "packets are lost"
