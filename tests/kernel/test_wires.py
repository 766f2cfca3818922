# SPDX-License-Identifier: MIT-0
"""The programs at real interfaces: what Linux makes of what they pass, in which order, and by both ways of attachment."""
import collections
import contextlib
import fcntl
import itertools
import os
import select
import socket
import struct
import threading
import time

import packets
import pytest
from kernelpath import COOKIE, RECEIVER, frame, header, packet
from kernelwires import Wires, forwarded, queued, tun
from linux import HAS_TCX
from packets import TCP, UDP

from gwlbtun import installation
from gwlbtun.kernel import layout, programs

TUNSETOFFLOAD, TUN_F_CSUM = 0x400454D0, 0x01


@pytest.fixture(params=[True, False] if HAS_TCX else [False], ids=lambda tcx: "TCX" if tcx else "cls_bpf")
def wires(request):
    made = Wires(tcx=request.param)
    yield made
    made.close()


def sent(wires, inner, *arguments, **fields):
    return frame(inner, *arguments, ethernet=wires.to_appliance, **fields)


def back(wires, inner, *arguments):
    """What the load balancer must get when Linux has routed a packet from gwi to gwo."""
    return frame(forwarded(inner), *arguments, source="192.0.2.10", destination="192.0.2.1", ethernet=wires.to_balancer)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_known_flow_passes_without_any_process(wires, version, protocol):
    inner, reply = packet(version, protocol), packet(version, protocol, payload=b"an answer", reply=True)
    wires.world.add(inner)
    wires.send(sent(wires, inner), sent(wires, reply))
    assert wires.on_gwi.read() == [inner, reply]
    assert wires.on_wire.read() == [back(wires, inner), back(wires, reply)]
    assert wires.received_up() == wires.queued() == []
    assert wires.world.tally() == (2, len(inner) + len(reply), 0, 0, 2, len(inner) + len(reply))
    assert wires.appliance.checksum_errors() == {}


def without_decap(load, monkeypatch):
    """The ingress program on a kernel before 6.3, which refuses a flag that it does not know."""
    program = programs.parse(installation.read(programs.FILE).decode())[programs.INGRESS]
    flag = bytes.fromhex("b704000000010000")  # r4 = BPF_F_ADJ_ROOM_DECAP_L3_IPV6
    assert program.instructions.count(flag) == 1
    older = program._replace(instructions=program.instructions.replace(flag, bytes.fromhex("b704000000000040")))
    monkeypatch.setattr(programs, "_programs", lambda: {programs.INGRESS: older})
    return load()


@pytest.mark.parametrize("version", [4, 6])
def test_kernel_that_cannot_strip_ipv6_at_once(monkeypatch, version):
    wires = Wires(tcx=True, attached=False)
    try:
        os.close(wires.world.ingress)
        wires.world.ingress = without_decap(lambda: programs.load(programs.INGRESS, wires.world.maps.fd), monkeypatch)
        with wires.appliance.entered():
            wires.attach(tcx=True)
        for protocol, size in (TCP, 0), (UDP, 1), (UDP, 1400):
            inner = packet(version, protocol, payload=bytes(range(200)) * 7 + bytes(size))
            wires.world.add(inner)
            wires.send(sent(wires, inner))
            assert wires.on_gwi.read() == [inner]
            assert wires.on_wire.read() == [back(wires, inner)]
    finally:
        wires.close()


@pytest.mark.parametrize("size", [8472, 8473])
def test_longest_packet(wires, size):
    inner = packet(payload=bytes(size))
    wires.world.add(inner)
    wires.send(sent(wires, inner))
    if size == 8472:
        assert wires.on_gwi.read() == [inner]
        assert wires.on_wire.read() == [back(wires, inner)]
    else:
        assert wires.on_gwi.read() == []
        assert wires.received_up() == [header(4) + inner]


def test_unknown_flow_goes_to_the_sockets_and_the_queue(wires):
    inner = packet()
    wires.send(sent(wires, inner))
    assert wires.received_up() == [header(4) + inner]
    assert wires.on_gwi.read() == []
    other = packet(payload=b"by another way")
    wires.world.add(inner)
    wires.world.endpoint.aside[:] = 1, 1
    wires.send(sent(wires, other))
    assert wires.on_gwi.read() == [other]
    assert wires.queued() == [forwarded(other)]
    assert wires.on_wire.read() == []


def test_filter_of_tc_takes_packets_from_gwi_to_gwo(wires):
    """As example-scripts/create-passthrough.sh has it: they never meet Linux's IP."""
    wires.appliance.run("tc", "qdisc", "replace", "dev", "gwi", "clsact")
    wires.appliance.run(*"tc filter add dev gwi ingress protocol all u32 match u32 0 0".split(),
                        *"action mirred egress redirect dev gwo".split())
    for version in 4, 6:
        inner = packet(version)
        wires.world.add(inner)
        wires.send(sent(wires, inner))
        assert wires.on_gwi.read() == [inner]
        assert wires.on_wire.read() == [frame(inner, source="192.0.2.10", destination="192.0.2.1", ethernet=wires.to_balancer)]
    assert wires.queued() == []


def test_next_hop_is_that_of_a_packet_from_a_thread(wires):
    """Linux may choose it by a hash that the uplink has made of the outer headers, which say nothing of the inner packet."""
    wires.appliance.run("sh", "-c", "echo 3 >/sys/class/net/uplink/queues/rx-0/rps_cpus")  # what makes the hash here
    wires.appliance.sysctl("net.ipv4.fib_multipath_hash_policy", 1)
    with contextlib.ExitStack() as stack, wires.appliance.entered():
        hops = [tun(name) for name in ("hop0", "hop1")]
        for number, fd in enumerate(hops):
            stack.callback(os.close, fd)
            wires.appliance.ip(f"link set hop{number} up")
        wires.appliance.ip("route add 10.0.2.2/32 nexthop dev hop0 nexthop dev hop1")
        flows = [packets.udp("10.0.1.2", "10.0.2.2", port, 443, b"to one of two") for port in range(1000, 1032)]

        def chosen():
            return [{packets.flow_key(one)[2][1] for one in queued(fd) if one[0] >> 4 == 4} for fd in hops]

        chosen()
        for inner in flows:
            os.write(wires.gwi, inner)
        by_thread = chosen()
        assert all(by_thread) and sum(map(len, by_thread)) == len(flows)
        for inner in flows:
            wires.world.add(inner)
        wires.send(*[sent(wires, inner) for inner in flows])
        assert chosen() == by_thread


@pytest.mark.parametrize("left", [True, False])
def test_local_sender_goes_up_if_its_checksum_is_left_to_the_device(wires, left):
    inner = packets.udp("10.9.9.9", "10.0.2.2", 40000, 443, b"from here")
    wires.world.add(inner)
    fcntl.ioctl(wires.gwo, TUNSETOFFLOAD, TUN_F_CSUM if left else 0)
    wires.appliance.ip("address add 10.9.9.9/32 dev lo")
    with wires.appliance.entered():
        local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with local:
        local.bind(("10.9.9.9", 40000))
        local.sendto(b"from here", ("10.0.2.2", 443))
        queued = wires.queued()
    assert [packets.parse(one).length for one in queued] == [len(inner)] * left
    carried = [one[-len(inner):] for one in wires.on_wire.read()]
    assert [packets.faults(one) for one in carried] == [[]] * (not left)


def test_way_in_goes_up_behind_what_took_the_kernel(wires):
    """Those that the change of a header sends up come after those that were redirected, though they had come right behind."""
    inner = packet()
    wires.world.add(inner)
    before = [packet(payload=struct.pack("!I", number)) for number in range(100)]
    after = [packet(payload=struct.pack("!I", 100 + number)) for number in range(100)]
    under_another = header(4, cookie=COOKIE + 1)
    frames = [sent(wires, one) for one in before] + [sent(wires, one, under_another) for one in after]
    end = time.monotonic() + 60
    while True:
        wires.world.add(inner)
        counts = collections.Counter(wires.world.counts())
        wires.send(*frames[:100])
        begin = time.monotonic()
        wires.send(*frames[100:])
        up = []
        while len(up) < 100 and select.select([wires.udp], [], [], 1)[0]:
            up.append(wires.udp.recv(65536))
        took = time.monotonic() - begin
        carried, up = wires.on_gwi.read(), up + wires.received_up()
        if took < 0.09:  # later than 100 ms after the first of them they come straight up
            break
        assert time.monotonic() < end
    assert carried == before
    assert up == [under_another + one for one in after]
    counts = collections.Counter(wires.world.counts()) - counts
    assert (counts["IN_TOTAL"], counts["IN_CARRIED"], counts["IN_UP"], counts["DETOURS"]) == (200, 100, 100, 100)
    time.sleep(0.11)
    detours = wires.world.counts()["DETOURS"]
    wires.send(sent(wires, after[0]))
    assert wires.received_up() == [header(4) + after[0]]
    assert wires.world.counts()["DETOURS"] == detours


class Threads(threading.Thread):
    """A U thread and thread K, in little: what goes up is written to gwi, and fences pass."""

    def __init__(self, wires):
        super().__init__(daemon=True)
        self.wires, self.stopping, self.passed = wires, False, 0

    def run(self):
        shared, endpoint = self.wires.world.maps.globals, self.wires.world.endpoint
        while not self.stopping:
            begun = time.monotonic_ns()
            time.sleep(0.0005)
            wanted, endpoint.wanted = endpoint.wanted, 0
            self.pass_on()
            if wanted:
                shared.done_in_ns[RECEIVER] = begun

    def pass_on(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.wires.gwi, self.wires.udp.recv(65536)[layout.HEADER:])
                self.passed += 1


@pytest.mark.parametrize("leaving", ["a packet that does not fit", "the endpoint steps aside"])
def test_no_packet_overtakes_another(wires, leaving):
    """A flow goes to and fro; each of its packets appears on gwi, in the order in which they were sent."""
    wires.world.add(packet(), kernel=False)
    wires.world.endpoint.aside[:] = 1, 1
    threads = Threads(wires)
    threads.start()
    numbers = itertools.count()
    try:
        for _ in range(8):
            before, end = wires.world.tally()[0], time.monotonic() + 60
            while wires.world.tally()[0] < before + 20:
                assert time.monotonic() < end, "the way does not come back to the kernel"
                wires.send(*[sent(wires, packet(payload=struct.pack("!I", next(numbers)))) for _ in range(8)])
                time.sleep(0.002)
            if leaving.startswith("the endpoint"):
                wires.world.endpoint.on = 0
            burst = [sent(wires, packet(payload=struct.pack("!I", next(numbers))), checksum=number == 16 and 0xFFFF or 0)
                     for number in range(64)]
            wires.send(*burst)
            wires.world.endpoint.on = 1
    finally:
        threads.stopping = True
        threads.join()
    while select.select([wires.udp], [], [], 0.2)[0]:
        threads.pass_on()
    seen = [struct.unpack("!I", one[28:])[0] for one in wires.on_gwi.read()]
    lost = wires.world.counts().get("IN_MALFORMED", 0)  # of a wrong checksum
    assert seen == sorted(seen)
    assert len(seen) >= next(numbers) - 8 - lost
    assert threads.passed
