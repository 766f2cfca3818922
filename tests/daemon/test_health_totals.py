# SPDX-License-Identifier: MIT-0
"""The JSON of the C++ tool's release 3.2, and that its figures add up: every packet is somewhere."""
import random

import pytest

import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from test_health_live import mismatches
from workbench import encapsulated

NUMBER = int, float
CACHE = {"cacheName": str, "size": int, "timedOut": int, "idleTimeoutSecs": int}
TUNNEL = {"devname": str, "pktsOut": int, "bytesOut": int, "pktsDropped": int, "secsSincelastPacket": NUMBER, "threads": list}
RELEASE_3_2 = {
    "summary": {"totalPktsIn": int, "totalBytesIn": int, "totalPktsOut": int, "totalBytesOut": int, "totalPktsDropped": int,
                "eniCount": int},
    "enis": [{"eniStr": str, "gwlbEndpointId": str, "healthy": bool, "pktsOut": int, "bytesOut": int, "pktsDropped": int,
              "secsSinceLastPacket": NUMBER, "tunnelIn": TUNNEL, "tunnelOut": TUNNEL,
              **{f"v{family}FlowCache{kind}": CACHE for family in (4, 6) for kind in ("Tcp", "Udp", "Other", "")}}],
}

INWARD = ("source_loopback", "tun_write")  # the first and the last reason for which what the load balancer sent is dropped
OF_ENDPOINT = ("flows_full", "overload", "ring_full", "tun_write", "not_ip", "no_flow", "segmentation", "too_big", "send")


def udp(number, size=10):
    return packets.udp(CLIENT[number % 2], SERVER[number % 2], 1000 + number, 2000, bytes(size))


def drops_by_way(health):
    reasons = list(health["drops"])
    split = reasons.index(INWARD[1]) + 1
    assert reasons[0] == INWARD[0]
    return (sum(health["drops"][reason] for reason in reasons[:split]),
            sum(health["drops"][reason] for reason in reasons[split:]))


def adds_up(health):
    """Whether no packet is missing; some may be on their way."""
    totals, summary, enis = health["totals"], health["summary"], health["enis"]
    inward, outward = drops_by_way(health)
    assert (summary["totalPktsIn"], summary["totalBytesIn"]) == (totals["pktsFromGwlb"], totals["bytesFromGwlb"])
    assert (summary["totalPktsOut"], summary["totalBytesOut"]) == (totals["pktsToLinux"], totals["bytesToLinux"])
    assert summary["totalPktsDropped"] == sum(health["drops"].values()) == inward + outward
    assert summary["eniCount"] == len(enis) == health["endpoints"]["size"]
    for eni in enis:
        both = eni["tunnelIn"], eni["tunnelOut"]
        for key in "pktsOut", "bytesOut", "pktsDropped":
            assert eni[key] == sum(tunnel[key] for tunnel in both)
    return (totals["pktsFromGwlb"] == totals["pktsToLinux"] + inward
            and totals["pktsFromLinux"] == totals["pktsToGwlb"] + outward)


def test_all_keys_of_release_3_2_are_there_and_of_their_type(lab):
    daemon = lab.start()
    assert mismatches(daemon.health()["summary"], RELEASE_3_2["summary"]) == []
    endpoint = lab.endpoint()
    endpoint.send(udp(0))
    assert lab.wait(lambda: len(endpoint.received) == 1)
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] == 1)
    health = daemon.health()
    assert mismatches(health, RELEASE_3_2) == []
    eni, = health["enis"]
    assert (eni["gwlbEndpointId"], eni["healthy"]) == (f"vpce-{ENI:017x}", True)
    assert (eni["pktsOut"], eni["bytesOut"], eni["pktsDropped"]) == (1, len(udp(0)), 0)
    assert eni["secsSinceLastPacket"] <= eni["tunnelIn"]["secsSincelastPacket"]
    assert health["summary"] == {"totalPktsIn": 1, "totalBytesIn": 40 + len(udp(0)), "totalPktsOut": 1,
                                 "totalBytesOut": len(udp(0)), "totalPktsDropped": 0, "eniCount": 1}


def test_whatever_happens_to_packets_the_totals_add_up(lab):
    """Malformed ones, a full flow table, what belongs to no flow, what is too big, and what is fine, all mixed."""
    daemon = lab.start("--max-flows", "16")
    rng = random.Random(32)
    endpoints = [lab.endpoint(ENI + index) for index in range(3)]
    for endpoint in endpoints:
        endpoint.send(udp(0))
    assert lab.wait(lambda: all(endpoint.received for endpoint in endpoints))
    for step in range(600):
        endpoint, what = rng.choice(endpoints), rng.randrange(4)
        if what == 0:
            lab.balancer.inject(encapsulated(ENI)[:rng.randrange(60)])
        elif what == 1:
            lab.emit(rng.choice((endpoint.gwi, endpoint.gwo)), packets.udp(*SERVER[:1], *CLIENT[:1], 7, step + 1, b"x"))
        elif what == 2:
            lab.emit(endpoint.gwo, packets.icmp(SERVER[0], CLIENT[0], 3, 1, bytes(4), b"short"))
        else:
            endpoint.send(udp(rng.randrange(40), rng.choice((10, 1000))))
    assert lab.wait(lambda: adds_up(daemon.health()) and sum(daemon.drops().values()) > 400)
    health = daemon.health()
    assert health["drops"]["no_flow"] > 100 and health["drops"]["header_short"] > 10
    of_endpoints = sum(eni["pktsDropped"] for eni in health["enis"])
    assert of_endpoints == sum(health["drops"][reason] for reason in OF_ENDPOINT) > 100
    assert sum(cache["size"] for eni in health["enis"] for key, cache in eni.items() if key.endswith("FlowCache")) <= 16


def test_drops_are_those_of_the_endpoint_and_the_interface(lab):
    daemon = lab.start()
    first, second = (lab.endpoint(ENI + index) for index in range(2))
    for endpoint in first, second:
        endpoint.send(udp(0))
    assert lab.wait(lambda: first.received and second.received)
    stray = packets.udp(SERVER[0], CLIENT[0], 7, 7, b"x")
    for device, times in (first.gwi, 3), (first.gwo, 5), (second.gwo, 1):
        for _ in range(times):
            lab.emit(device, stray)
    assert lab.wait(lambda: daemon.drops() == {"no_flow": 9})
    assert [(eni["tunnelIn"]["pktsDropped"], eni["tunnelOut"]["pktsDropped"], eni["pktsDropped"])
            for eni in map(daemon.eni, (first, second))] == [(3, 5, 8), (0, 1, 1)]
    lab.appliance.ip("link set", first.gwi, "down")
    for number in range(4):
        first.send(udp(number))
    assert lab.wait(lambda: daemon.drops() == {"no_flow": 9, "tun_write": 4})
    assert (daemon.eni(first)["tunnelIn"]["pktsDropped"], daemon.eni(first)["pktsDropped"]) == (7, 12)
    assert adds_up(daemon.health())


def test_the_drops_and_packets_of_endpoints_that_are_gone_stay_in_the_totals(lab):
    daemon = lab.start("-t", "5")
    endpoint = lab.endpoint()
    endpoint.send(udp(0))
    assert lab.wait(lambda: endpoint.received)
    lab.emit(endpoint.gwo, packets.udp(SERVER[0], CLIENT[0], 7, 7, b"x"))
    assert lab.wait(lambda: daemon.drops() == {"no_flow": 1})
    assert lab.wait(lambda: daemon.health()["enis"] == [])
    health = daemon.health()
    assert adds_up(health)
    assert health["summary"] == {"totalPktsIn": 1, "totalBytesIn": 40 + len(udp(0)), "totalPktsOut": 1,
                                 "totalBytesOut": len(udp(0)), "totalPktsDropped": 1, "eniCount": 0}


@pytest.mark.parametrize("count", [1, 50])
def test_packets_that_waited_in_vain_are_counted_when_their_endpoint_goes(lab, count):
    daemon = lab.start("-t", "5", "--require-hook", hook=PASSTHROUGH + "exit 1\n")
    endpoint = lab.endpoint()
    for number in range(count):
        endpoint.send(udp(number))
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["failure"] != "")
    eni = daemon.eni(endpoint)
    assert eni["healthy"] is False and eni["pktsDropped"] == eni["pktsOut"] == 0
    assert lab.wait(lambda: daemon.drops() == {"endpoint_gone": count})
    assert adds_up(daemon.health())
