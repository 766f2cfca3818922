# SPDX-License-Identifier: MIT-0
"""A kernel and a network that refuse packets: each is counted, told with its end, and traffic goes on by itself."""
import errno
import os
import re

import pytest

import packets
from faulty import Faulty
from lab import APPLIANCE, CLIENT, SERVER
from spinning import busiest

OVER = "That is over: for 2 s no packet has been dropped because "


def packet(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x")


@pytest.fixture
def faulty(tmp_path, impatient):
    return Faulty(tmp_path)


@pytest.mark.parametrize("call, reason, numbers", [
    ("write", "tun_write", [errno.EIO, errno.ENOBUFS, errno.EINVAL, errno.ENOMEM, errno.EAGAIN]),
    ("send", "send", [errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS, errno.EINVAL, errno.EAGAIN, errno.ENOMEM]),
])
def test_whatever_a_call_says(lab, faulty, call, reason, numbers):
    daemon = lab.start("--kernel-path", "off", command=faulty.command)
    endpoint = lab.endpoint()
    assert lab.carries_all(endpoint, [packet(number) for number in range(100)])
    lost = 0
    for number in numbers:
        with faulty.refusing(**{call: number}):
            for count in range(50):
                endpoint.send(packet(count))
            lost += 50
            assert lab.wait(lambda: daemon.drops() == {reason: lost}), (os.strerror(number), daemon.drops())
        assert lab.carries_all(endpoint, [packet(number) for number in range(20)]), os.strerror(number)
    with faulty.refusing(**{call: numbers[0]}):
        endpoint.send(packet())
        assert busiest(daemon.pid) < 0.5
        assert daemon.get()[0] == 200

    def all_told():
        return sum(map(int, re.findall(r"Packets dropped: (\d+) because", daemon.log()))) == lost + 1
    assert lab.wait(lambda: all_told() and daemon.log().rfind(OVER) > daemon.log().rfind("Packets dropped")), daemon.log()
    assert daemon.log().count(OVER) <= len(numbers) + 1  # one, unless one of the faults came late
    with faulty.refusing(**{call: numbers[-1]}):
        endpoint.send(packet())
        assert daemon.stop(timeout=60) == 0


def test_the_uplink_goes_and_comes_back(lab, faulty):
    daemon = lab.start(command=faulty.command)
    endpoint = lab.endpoint()
    assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
    for undo in ("link set eth0 down", "link set eth0 up"), (f"address del {APPLIANCE}/24 dev eth0",
                                                            f"address add {APPLIANCE}/24 dev eth0"):
        lab.appliance.ip(undo[0])
        for number in range(30):
            lab.emit(endpoint.gwo, packet(number % 20))
        assert busiest(daemon.pid, 0.5) < 0.5
        assert lab.wait(lambda: daemon.drops().get("send", 0) % 30 == 0 and daemon.drops().get("send")), daemon.drops()
        assert daemon.get()[0] == 200
        lab.appliance.ip(undo[1])
        assert lab.wait(lambda: carries_one(lab, endpoint))
    assert daemon.drops() == {"send": 60}
    assert lab.wait(lambda: OVER in daemon.log())


def carries_one(lab, endpoint):
    """The neighbour may have to be found first."""
    before = len(endpoint.received)
    endpoint.send(packet())
    return lab.balancer.wait(lambda: len(endpoint.received) > before, 0.2)


def test_the_uplink_has_another_address(lab, faulty):
    daemon = lab.start(command=faulty.command)
    endpoint = lab.endpoint()
    assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
    lab.appliance.ip("address add 192.0.2.77/24 dev eth0")
    lab.appliance.ip(f"address del {APPLIANCE}/24 dev eth0")
    lab.appliance.ip("address replace 192.0.2.77/24 dev eth0")
    lab.balancer.appliance = "192.0.2.77"
    assert lab.wait(lambda: carries_one(lab, endpoint))
    assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
    assert daemon.get()[0] == 200
