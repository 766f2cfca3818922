# SPDX-License-Identifier: MIT-0
"""U threads that do the work of sleeping T threads, and stop doing it when they are to."""
import os
import re
from pathlib import Path

import packets
import pytest
from lab import CLIENT, ENI, SERVER

THREADS = "--kernel-path", "off"  # all packets are theirs
ONE_EACH = *THREADS, "--udpthreads", "1", "--tunthreads", "1"
CORE = min(os.sched_getaffinity(0))
SAME_CORE = *THREADS, "--udpaffinity", CORE, "--tunaffinity", CORE


def packet(number):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number % 100, 2, number.to_bytes(4, "big"))


def one_at_a_time(lab, endpoint, count):
    """Sends packets, each when the one before it is back."""
    for number in range(count):
        returned = len(endpoint.received)
        endpoint.send(packet(number))
        assert lab.wait(lambda: len(endpoint.received) == returned + 1)


def status(daemon, kind, field):
    """What the kernel says of each of its threads of a kind (U or T)."""
    return [
        re.search(rf"^{field}:\s+(\S+)", Path(f"/proc/{daemon.pid}/task/{task}/status").read_text(), re.MULTILINE)[1]
        for task, name in daemon.threads().items() if re.match(rf"gwlbtun {kind}A?\d", name)
    ]


def sleeps(daemon, kind):
    """How often its threads of a kind have gone to sleep."""
    return sum(map(int, status(daemon, kind, "voluntary_ctxt_switches")))


def asleep(daemon, kind):
    return set(status(daemon, kind, "State")) <= {"S"}


@pytest.mark.parametrize("threads", [ONE_EACH, SAME_CORE])
def test_packets_that_come_alone_wake_no_tunnel_thread(lab, threads):
    daemon = lab.start(*threads)
    endpoint = lab.endpoint()
    sent, woken = 0, 1
    while woken and sent < 5000:  # a tunnel thread is relieved when it is found asleep, and stays so
        assert lab.wait(lambda: asleep(daemon, "T"))  # with one core for all it might be caught awake by each packet
        before = sleeps(daemon, "T")
        one_at_a_time(lab, endpoint, 100)
        sent += 100
        woken = sleeps(daemon, "T") - before
    assert woken == 0
    assert sleeps(daemon, "U") >= 50
    eni = daemon.eni(endpoint)
    assert eni["tunnelIn"]["pktsOut"] == sent  # counted for them all the same
    assert sum(thread["pktsIn"] for thread in eni["tunnelOut"]["threads"]) == sent


def test_what_linux_sends_later_is_returned_by_whoever_is_on_duty(lab):
    daemon = lab.start(*ONE_EACH, hook=None)
    endpoint = lab.endpoint()
    sides = endpoint.gwo, endpoint.gwi
    for number in range(2):
        endpoint.send(packet(number))
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["tunnelIn"]["pktsOut"] == 2)
    for number, side in enumerate(sides):
        lab.emit(side, packet(number))
        assert lab.wait(lambda: endpoint.received == [packet(known) for known in range(number + 1)])


def test_an_endpoint_goes_while_its_receiver_carries_others(lab):
    daemon = lab.start(*ONE_EACH, "-t", "1")
    busy, idle = lab.endpoint(), lab.endpoint(ENI + 1)
    for _ in range(3):  # it comes again, in the same slot
        returned = len(idle.received)
        idle.send(packet(0))
        assert lab.wait(lambda: len(idle.received) == returned + 1)
        for _ in range(100):
            one_at_a_time(lab, busy, 100)
            if daemon.eni(idle) is None:
                break
        assert daemon.eni(idle) is None
    assert daemon.eni(busy)["state"] == "up"
    assert daemon.stop() == 0
    assert lab.balancer.awaited == 0


@pytest.mark.parametrize("threads", [("1", "3"), ("3", "1"), ("2", "2")])
def test_any_numbers_of_threads_return_everything(lab, threads):
    daemon = lab.start(*THREADS, "--udpthreads", threads[0], "--tunthreads", threads[1])
    endpoints = [lab.endpoint(ENI + number) for number in range(20)]  # more than a receiver relieves
    for number in range(3000):
        endpoints[number % 20].send(packet(number))
        if number % 100 == 99:
            assert lab.wait(lambda: lab.balancer.awaited == 0)
    assert daemon.drops().keys() <= {"no_flow"}  # Linux looks for IPv6 routers
    assert daemon.stop() == 0


def test_a_way_out_without_room_is_left_to_the_tunnel_thread(lab):
    daemon = lab.start(*SAME_CORE)  # where nothing else ends relief
    endpoint = lab.endpoint()
    one_at_a_time(lab, endpoint, 100)
    assert lab.wait(lambda: asleep(daemon, "T"))
    before = sleeps(daemon, "T")
    lab.appliance.run("tc", *"qdisc add dev eth0 root tbf rate 8kbit burst 2000 limit 100000000".split())
    large, sent = packets.udp(CLIENT[0], SERVER[0], 1000, 2, bytes(1400)), 0
    while sent < 20000 and not daemon.drops().get("send"):
        for _ in range(500):  # far less than a receive buffer holds
            endpoint.send(large)
        sent += 500
        assert lab.wait(lambda: daemon.eni(endpoint)["tunnelIn"]["pktsOut"] == 100 + sent)
    assert daemon.drops().keys() == {"send"}
    assert sleeps(daemon, "T") > before
    lab.appliance.run("tc", "qdisc", "del", "dev", "eth0", "root")
    returned = len(endpoint.received)
    endpoint.send(packet(0))
    assert lab.wait(lambda: len(endpoint.received) > returned and endpoint.received[-1] == packet(0))
