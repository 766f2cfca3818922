# SPDX-License-Identifier: MIT-0
"""A sender that invents ENI IDs: it slows nobody, takes little, and makes room for endpoints that are genuine."""
import json
import random
import sys

import pytest

import packets
import traffic
from gwlbtun import geneve
from lab import APPLIANCE, CLIENT, ENI, SERVER

pytestmark = pytest.mark.one_path

GOOD, FORGER = "192.0.2.3", "192.0.2.4"


@pytest.fixture
def play(lab):
    """Starts one of the programs of traffic.py; what it says is returned by the function that this returns."""
    for address in GOOD, FORGER:
        lab.outside.ip("address add", f"{address}/24", "dev eth0")

    def start(*arguments):
        process = lab.outside.start(sys.executable, traffic.__file__, *arguments, APPLIANCE)

        def result():
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors.decode()
            return json.loads(output)
        return result
    return start


def forged(draw, number=1):
    """A Geneve packet of an invented ENI ID."""
    eni = draw.getrandbits(64)
    return geneve.gwlb_header(eni, eni, 1, geneve.PROTOCOL_IPV4).pack() + packets.udp(CLIENT[0], SERVER[0], number, 2, b"x")


def accounted(daemon):
    """Packets from the load balancer that were handed to Linux, or dropped under a reason."""
    health = daemon.health()
    return health["totals"]["pktsToLinux"] + sum(health["drops"].values())


@pytest.mark.alone
@pytest.mark.costs
@pytest.mark.parametrize("count, rate", [(1000, 0), (40_000, 20_000)])
def test_a_flood_of_invented_ids_holds_up_nobody(lab, play, count, rate):
    daemon = lab.start("--max-endpoints", 100)
    assert play("pulse", ENI, 0.5, GOOD)()["lost"] == 0
    good = play("pulse", ENI, 4, GOOD)
    assert play("flood", count, rate, FORGER)()["sent"] == count
    good = good()
    assert (good["sent"], good["lost"], good["wrong"]) == (4000, 0, 0)
    assert good["worst"] < 1.0  # seconds; the making of endpoints took five, which everybody waited for
    assert daemon.get()[0] == 200
    assert lab.wait(lambda: accounted(daemon) == daemon.health()["totals"]["pktsFromGwlb"] == count + 4500)
    assert daemon.health()["udp"]["UDPPacketReceiver"]["socketDrops"] == 0
    assert len(daemon.health()["enis"]) <= 100
    assert lab.wait(lambda: lab.balancer.counters.returned == daemon.health()["totals"]["pktsToGwlb"] - 4500)
    del lab.balancer.violations[:]  # what the forged endpoints returned


@pytest.mark.costs
def test_an_invented_endpoint_costs_little(lab):
    """Threads and memory come with traffic, however many of each it may have."""
    daemon = lab.start("--udpthreads", 2, "--tunthreads", 32)
    assert lab.wait(lambda: "gwlbtun U001" in daemon.threads().values())  # the last to be started
    memory, threads = daemon.memory(), len(daemon.threads())
    draw = random.Random(6)
    for _ in range(40):
        lab.balancer.inject(forged(draw))
    assert lab.wait(lambda: [eni["state"] for eni in daemon.health()["enis"]] == ["up"] * 40)
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] == 40)
    assert len(daemon.threads()) - threads <= 40 * 2 + 6  # one of each interface; before, 64
    assert (daemon.memory() - memory) / 40 < 1 << 20    # bytes; before, 12 MB
    assert all(eni["tunnelIn"]["queues"] == 32 for eni in daemon.health()["enis"])
    assert lab.wait(lambda: len(lab.balancer.violations) == 40)
    del lab.balancer.violations[:]


def test_a_forged_endpoint_makes_room_for_a_genuine_one(lab):
    daemon = lab.start("--max-endpoints", 8)
    lab.one_wire()
    draw = random.Random(7)
    for _ in range(8):
        lab.balancer.inject(forged(draw))
    assert lab.wait(lambda: [eni["state"] for eni in daemon.health()["enis"]] == ["up"] * 8)
    assert lab.wait(lambda: len(lab.balancer.violations) == 8)
    del lab.balancer.violations[:]
    endpoint = lab.endpoint()
    sent = [packets.udp(CLIENT[0], SERVER[0], 1, 2, b"%d" % number) for number in range(600)]
    for packet in sent:
        endpoint.send(packet)
    assert lab.wait(lambda: endpoint.received == sent), (len(endpoint.received), daemon.drops())
    assert daemon.drops() == {}
    assert lab.wait(lambda: len(daemon.health()["enis"]) == 8)


def test_endpoints_that_carry_traffic_make_room_for_nobody(lab):
    daemon = lab.start("--max-endpoints", 2)
    genuine = [lab.endpoint(ENI + number) for number in range(2)]
    for endpoint in genuine:
        for number in range(40):
            endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b"%d" % number))
        assert lab.wait(lambda: len(endpoint.received) == 40)
    draw = random.Random(8)
    one = forged(draw)
    for _ in range(30):
        lab.balancer.inject(one)
    assert lab.wait(lambda: daemon.drops() == {"endpoints_full": 30})
    assert {eni["eniStr"] for eni in daemon.health()["enis"]} == {endpoint.id for endpoint in genuine}
    assert lab.wait(lambda: "as many as --max-endpoints allows" in daemon.log())


def test_packets_that_wait_come_before_those_that_come_later(lab):
    """In order, over many endpoints that come up while their packets go on coming."""
    lab.start()
    lab.one_wire()
    endpoints = [lab.endpoint(ENI + number) for number in range(20)]
    for number in range(100):
        for endpoint in endpoints:
            endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b"%d" % number))
    for endpoint in endpoints:
        assert lab.wait(lambda: len(endpoint.received) == 100)
        assert endpoint.received == [packets.udp(CLIENT[0], SERVER[0], 1, 2, b"%d" % number) for number in range(100)]
