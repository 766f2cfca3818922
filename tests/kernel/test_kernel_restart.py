# SPDX-License-Identifier: MIT-0
"""A restart in place while flows take the kernel: they go on there, and nobody notices."""
import signal
import socket
import sys

import pytest

from gwlbtun.kernel import bpf
from kernelrestarts import Restarting, slowed

RESTARTS = 10


@pytest.fixture
def restarting(lab, tmp_path):
    return Restarting(lab, tmp_path)


@pytest.fixture
def slow(lab, tmp_path, copy):
    """One whose new program waits for begin() after a restart in place."""
    slowed(copy, tmp_path)
    return Restarting(lab, tmp_path, command=[sys.executable, copy])


def waiting(lab):
    """Bytes of packets that a receiver has yet to read."""
    return sum(int(line.split()[1]) for line in lab.appliance.run("ss", "-lunH", "sport", "=", ":6081").stdout.splitlines())


@pytest.mark.parametrize("version, protocol", [(4, "udp"), (6, "tcp")])
def test_a_flow_takes_the_kernel_as_before(restarting, version, protocol):
    flow = {"version": version, "protocol": protocol}
    assert restarting.until_carried(**flow)
    for _ in range(3):
        restarting.restart()
        assert restarting.takes_kernel(20, **flow) == (20, 20)
    assert restarting.until_carried(**{**flow, "port": 2000})
    assert restarting.ebpf()["flowsPromoted"] == 2


@pytest.mark.alone
def test_restarts_under_traffic_lose_nothing_and_keep_its_order(restarting):
    for port in range(3000, 3004):
        assert restarting.until_carried(port=port)
    with restarting.traffic():
        for number in range(RESTARTS):
            before = restarting.carried()
            restarting.restart()
            assert restarting.lab.wait(lambda then=before: all(map(int.__gt__, restarting.carried(), then))), number
    assert restarting.all_back() and restarting.in_order(), (restarting.sent, len(restarting.endpoint.received))
    health = restarting.daemon.health()
    assert not set(restarting.daemon.drops()) - {"no_flow"}  # Linux itself sends some IPv6
    assert health["totals"]["pktsFromGwlb"] == restarting.sent
    carried = health["ebpf"]["ingress"]["accelerated"]
    assert carried > 0.9 * restarting.sent - 400, (carried, restarting.sent)


def test_while_the_process_is_being_replaced(slow):
    """There is no thread, and nobody who reads a socket or a queue."""
    assert slow.until_carried()
    slow.hang_up()
    assert slow.lab.wait(slow.is_replaced)
    slow.send(100)
    assert slow.all_back() and slow.is_replaced() and slow.done() == 0
    slow.begin()
    assert slow.takes_kernel() == (20, 20)


def test_while_the_process_is_stopped_by_a_debugger(restarting):
    assert restarting.until_carried()
    before = restarting.carried()
    restarting.daemon.process.send_signal(signal.SIGSTOP)
    try:
        restarting.send(100)
        assert restarting.all_back()
    finally:
        restarting.daemon.process.send_signal(signal.SIGCONT)
    assert tuple(now - then for now, then in zip(restarting.carried(), before)) == (100, 100)


def test_what_goes_up_meanwhile_waits_and_stays_in_order(slow):
    """A flow leaves the kernel while nobody is there to take it: what follows must not overtake what waits."""
    lab = slow.lab
    assert slow.until_carried()
    flow, = set(slow.endpoint.flows.values())
    slow.hang_up()
    assert lab.wait(slow.is_replaced)
    slow.send(10)
    assert slow.all_back()
    flow.renew(cookie=0x11111111)
    slow.send(30)
    assert slow.is_replaced() and len(slow.endpoint.received) == slow.sent - 30
    slow.begin()
    slow.send(30)
    assert slow.all_back() and slow.in_order()
    assert slow.until_carried()


def test_the_kernel_sends_nothing_under_a_header_that_has_changed_meanwhile(slow):
    """What Linux sends waits for the threads, as does the packet that brought the new header."""
    lab = slow.lab
    assert slow.until_carried(port=2000) and slow.all_back()
    flow, = set(slow.endpoint.flows.values())
    slow.hang_up()
    assert lab.wait(slow.is_replaced)
    flow.renew(cookie=0x22222222)
    returned = lab.balancer.returned
    slow.send(port=2000)
    assert lab.wait(lambda: waiting(lab))
    for _ in range(20):
        lab.emit(slow.endpoint.gwo, slow.packet(port=2000, reply=True))
    lab.wait(lambda: lab.balancer.returned > returned, 0.3)
    assert slow.is_replaced() and lab.balancer.returned == returned
    slow.begin()
    assert slow.ebpf()["headerChanges"] == 1
    assert slow.all_back() and lab.wait(lambda: lab.balancer.returned == returned + 21)
    assert all("not a packet that this flow awaits" in line for line in lab.balancer.violations)
    lab.balancer.violations.clear()  # nobody had sent what Linux answered
    assert slow.until_carried(port=2000)


def test_counters_add_up(restarting):
    for _ in range(3):
        assert restarting.until_carried()
        with restarting.traffic():
            restarting.restart()
    assert restarting.all_counted(), restarting.daemon.health()["totals"]
    sent, inner = restarting.sent, sum(map(len, restarting.endpoint.received))
    health, eni = restarting.daemon.health(), restarting.daemon.eni(restarting.endpoint)
    totals = health["totals"]
    assert (totals["pktsFromGwlb"], totals["pktsToLinux"], totals["pktsToGwlb"]) == (sent, sent, sent)
    assert (totals["bytesFromGwlb"], totals["bytesToLinux"], totals["bytesToGwlb"]) == (inner + 40 * sent, inner, inner)
    assert (eni["pktsOut"], eni["bytesOut"], eni["tunnelOut"]["pktsSent"]) == (sent, inner, sent)
    by_sockets = sum(thread["pktsIn"] for thread in health["udp"]["UDPPacketReceiver"]["threads"])
    assert by_sockets + health["ebpf"]["ingress"]["accelerated"] == sent


def test_a_neighbour_that_changes_meanwhile_is_followed(slow):
    lab = slow.lab
    assert slow.until_carried()
    slow.hang_up()
    assert lab.wait(slow.is_replaced)
    lab.outside.ip("link set eth0 address 02:00:00:00:99:01")
    lab.appliance.ip("neighbour flush dev eth0")
    assert slow.is_replaced()
    slow.begin()
    assert slow.lab.wait(lambda: slow.ebpf()["links"] == [])
    slow.send(20)
    assert slow.all_back() and slow.until_carried()


def test_an_interface_that_is_deleted_meanwhile(slow):
    lab = slow.lab
    assert slow.until_carried()
    slow.hang_up()
    assert lab.wait(slow.is_replaced)
    lab.appliance.ip(f"link delete {slow.endpoint.gwi}")
    slow.begin()
    slow.skip_lost()
    assert slow.until_carried() and slow.all_back()


def test_nothing_is_left_behind_by_a_kill(restarting):
    lab = restarting.lab
    assert restarting.until_carried()
    for _ in range(2):
        restarting.restart()
    with lab.appliance.entered():
        uplink = socket.if_nametoindex("eth0")
        assert len(bpf.programs_at(uplink, bpf.TCX_INGRESS)) == 1
    restarting.daemon.kill()
    lab.daemons.remove(restarting.daemon)
    with lab.appliance.entered():
        assert bpf.programs_at(uplink, bpf.TCX_INGRESS) == []
    again = Restarting(lab, restarting.directory)
    assert again.until_carried()


def test_descriptors_do_not_pile_up(restarting):
    assert restarting.until_carried()
    restarting.restart()
    before = restarting.footprint()
    for _ in range(3):
        restarting.restart()
    after = restarting.footprint()
    assert after[0] < before[0] + 3 and after[1] <= before[1], (before, after)
