# SPDX-License-Identifier: MIT-0
"""What gwlbtun takes of the host, and that floods meet bounds and harm nobody."""
import random
import time

import pytest

import gwlb
import packets
from gwlbtun import geneve
from lab import CLIENT, ENI, SERVER

from test_transmit import all_return, datagram, drops, send_all

pytestmark = pytest.mark.one_path


def is_up(daemon, number):
    enis = daemon.health()["enis"]
    return len(enis) == number and all(eni["state"] == "up" for eni in enis)


@pytest.mark.costs
def test_a_hundred_endpoints(lab):
    daemon = start_with_one_endpoint(lab, "--udpthreads", 2, "--tunthreads", 2)
    bytes_before, descriptors_before = daemon.memory(), daemon.descriptors()
    endpoints = [lab.endpoint(ENI + 1 + number) for number in range(100)]
    for endpoint in endpoints:
        endpoint.send(datagram(1))
    assert lab.balancer.wait(lambda: is_up(daemon, 101))
    assert all_return(lab)
    assert daemon.memory() - bytes_before < 100 * (1 << 20)
    # Two for each of four T threads, the sockets back, at most one for each interface, and a program there.
    assert daemon.descriptors() - descriptors_before <= 100 * (4 * 2 + 2 + 2)
    for endpoint in endpoints:
        send_all(lab, endpoint, [datagram(1)] * 2)
    assert all_return(lab)
    assert drops(daemon) == {}


def start_with_one_endpoint(lab, *arguments):
    daemon = lab.start(*arguments)
    lab.endpoint().send(datagram(1))
    assert all_return(lab)
    return daemon


def test_more_than_128_threads(lab):
    daemon = lab.start("--udpthreads", 150, "--tunthreads", 1)
    expected = {f"gwlbtun U{number:03d}" for number in range(150)}
    assert lab.balancer.wait(lambda: expected <= set(daemon.threads().values()))
    endpoint = lab.endpoint()
    sent = [datagram(number) for number in range(600)]
    for _ in range(3):
        send_all(lab, endpoint, sent)
        assert all_return(lab)
    threads = daemon.health()["udp"]["UDPPacketReceiver"]["threads"]
    assert sum(thread["pktsIn"] for thread in threads) == 1800
    assert sum(thread["pktsIn"] > 0 for thread in threads) > 75
    assert drops(daemon) == {}


def test_as_many_threads_as_there_may_be(lab):
    daemon = lab.start("--udpthreads", 1024, "--tunthreads", 1)
    assert lab.balancer.wait(lambda: "gwlbtun U1023" in daemon.threads().values())
    endpoint = lab.endpoint()
    send_all(lab, endpoint, [datagram(number) for number in range(100)])
    assert all_return(lab)
    assert drops(daemon) == {}


def test_a_flood_of_endpoints(lab):
    """Above the bound they are dropped and counted; those that are there go on."""
    daemon = lab.start("--max-endpoints", 8)
    endpoint = lab.endpoint()
    good = [datagram(number) for number in range(20)]
    send_all(lab, endpoint, good)
    assert all_return(lab)
    rng = random.Random(1)
    injected = 0
    for _ in range(20):
        for _ in range(50):
            eni = rng.getrandbits(64)
            header = geneve.gwlb_header(eni, eni, 1, geneve.PROTOCOL_IPV4).pack()
            lab.balancer.inject(header + b"\x45" + bytes(3))  # cut short: makes no endpoint
            lab.balancer.inject(header + datagram(1))
            injected += 1
        for packet in good:
            endpoint.send(packet)
    assert lab.balancer.wait(lambda: lab.balancer.awaited == 0)
    assert lab.balancer.wait(lambda: len(lab.balancer.violations) == 7)
    del lab.balancer.violations[:]  # the seven endpoints' replies, which nobody announced
    # Packets wait a while, for an endpoint might be made yet.
    assert lab.balancer.wait(lambda: drops(daemon).get("endpoints_full", 0) == injected - 7), drops(daemon)
    assert drops(daemon)["inner_truncated"] == injected
    assert len(daemon.health()["enis"]) == 8


def test_a_flood_of_flows(lab):
    """The table stays within its bound, and a flow that has traffic stays in it."""
    daemon = lab.start("--max-flows", 1000, "--tunthreads", 1)
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    active = packets.tcp(CLIENT[0], SERVER[0], 4000, 443, b"asked")
    answer = packets.tcp(SERVER[0], CLIENT[0], 443, 4000, b"answered")
    for number in range(4):
        endpoint.send(active)
        send_all(lab, endpoint, [datagram(number * 600 + n) for n in range(600)])
        assert all_return(lab)
        lab.emit(endpoint.gwo, answer)
        assert lab.balancer.wait(lambda: endpoint.flow(active).returned == 2 * (number + 1)), drops(daemon)
        lab.balancer.counters.sent += 1  # for the answer, that what has returned may be compared
        time.sleep(1.2)  # the clock of the table ticks once a second
    flows = daemon.health()["flows"]
    assert flows["size"] <= flows["bound"] == 1000
    assert daemon.health()["drops"]["no_flow"] == 0
