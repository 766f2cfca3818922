# SPDX-License-Identifier: MIT-0
"""Super-packets both ways: nothing changes on the wire, and the kernel does the same."""
import contextlib
import fcntl
import os
import random
import select
import struct
from typing import Callable, Iterator

import pytest

import netns
from offload import VnetHeader, offload_fixture  # noqa: F401  # a fixture
from packets import ACK, TCP
from superpackets import (GSO_ECN, GSO_NONE, KINDS, PSH, TIMESTAMPS, cut, each_kind, put, random_stream,
                          random_super_packet, stream, super_packet, with_flags, with_zero_checksum)


# ---- Nothing changes on the wire -------------------------------------------------------------------------------------


def test_what_was_merged_splits_into_what_it_was(offload):
    packets_in = runs_in = 0
    for seed in range(1000):
        parts = random_stream(random.Random(seed))
        rest = parts
        for run in offload.merge(parts):
            part, rest = rest[:run.count], rest[run.count:]
            assert offload.split(run.vnet, run.data) == part, f"seed {seed}"
            packets_in, runs_in = packets_in + run.count, runs_in + 1
        assert rest == [], f"seed {seed}"
    assert packets_in > 1.5 * runs_in, "hardly anything was merged: this test shows nothing"


def test_random_super_packets_are_split_as_the_oracle_does(offload):
    for seed in range(400):
        vnet, data, last = random_super_packet(random.Random(seed))
        assert offload.split(vnet, data) == cut(vnet, data, last), f"seed {seed}"


# ---- Against the kernel ----------------------------------------------------------------------------------------------

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
TUN_F_ALL = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6


class Wire:
    """Two TUN devices: what is written to the one, Linux hands on, untouched, to the other."""

    def __init__(self, namespace: netns.Namespace, offloads: int):
        self.vnet_out = bool(offloads)
        with contextlib.ExitStack() as stack:
            with namespace.entered():
                self.into = self.open("in", IFF_VNET_HDR, stack)
                self.out = self.open("out", IFF_VNET_HDR if offloads else 0, stack)
            if offloads:
                fcntl.ioctl(self.out, TUNSETOFFLOAD, offloads)
            for name in "in", "out":
                namespace.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", 1)
                namespace.ip("link set", name, "mtu 9000 txqueuelen 5000 up")
            namespace.run("tc", "qdisc", "add", "dev", "in", "clsact")
            namespace.run("tc", "filter", "add", "dev", "in", "ingress", "protocol", "all", "u32", "match", "u32", "0",
                          "0", "action", "mirred", "egress", "redirect", "dev", "out")
            self.close = stack.pop_all().close

    @staticmethod
    def open(name: str, flags: int, stack: contextlib.ExitStack) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, fd)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags))
        return fd

    def send(self, vnet: VnetHeader, data: bytes) -> None:
        assert os.write(self.into, bytes(vnet) + data) == 10 + len(data)

    def receive(self) -> bytes:
        assert select.select([self.out], [], [], 10)[0], "nothing came out"
        return os.read(self.out, 70000)

    def is_quiet(self) -> bool:
        return not select.select([self.out], [], [], 0)[0]


@pytest.fixture
def wire() -> Iterator[Callable[[int], Wire]]:
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(netns.Namespace("offload"))

        def build(offloads: int) -> Wire:
            built = Wire(namespace, offloads)
            stack.callback(built.close)
            return built

        yield build


@each_kind
def test_the_kernel_cuts_a_merged_packet_into_what_it_was(offload, wire, version, protocol):
    wire = wire(0)
    fields = {"options": TIMESTAMPS} if protocol == TCP else {}
    for sizes in ([1448] * 44 + [1], [100] * 64, [8500 - 60] * 7 + [5000], [1, 1], [3] * 5 + [2]):
        parts = stream(version, protocol, sizes, ident=0xFFF0, seq=2 ** 32 - 5000, **fields)
        if protocol == TCP:
            parts[-1] = with_flags(parts[-1], ACK | PSH)
        [run] = offload.merge(parts)
        wire.send(run.vnet, run.data)
        assert [wire.receive() for _ in parts] == parts
    assert wire.is_quiet()


def test_the_kernel_takes_a_lone_packet_as_it_is(offload, wire):
    wire = wire(0)
    for version, protocol in KINDS:
        for packet in stream(version, protocol, [0, 1, 100, 8500 - 60]):
            wrong = put(packet, len(packet) - 1, bytes([packet[-1] ^ 1]))
            for one in (packet, wrong):
                [run] = offload.merge([one])
                wire.send(run.vnet, run.data)
                assert wire.receive() == one
    assert wire.is_quiet()


def test_split_does_what_the_kernel_does(offload, wire):
    """The kernel has no part in what split makes of a super-packet, nor split in what the kernel makes of it."""
    wire = wire(0)
    for seed in range(300):
        vnet, data, _ = random_super_packet(random.Random(seed))
        wire.send(vnet, data)
        for part in offload.split(vnet, data):
            assert wire.receive() == part, f"seed {seed}"
    assert wire.is_quiet()


@each_kind
def test_split_completes_checksums_as_the_kernel_does(offload, wire, version, protocol):
    wire = wire(0)
    for size in (2, 100, 101, 1400):
        [packet] = stream(version, protocol, [size])
        for one in (packet, with_zero_checksum(packet, len(packet) - size)):
            vnet, data = super_packet(one, 0)
            vnet.gso_type = GSO_NONE
            wire.send(vnet, data)
            assert [wire.receive()] == offload.split(vnet, data)
    assert wire.is_quiet()


def test_what_comes_from_a_tun_with_offloads_splits_into_what_went_in(offload, wire):
    """Merged, through the kernel as a super-packet, and split: the appliance's own path."""
    wire = wire(TUN_F_ALL)
    for seed in range(300):
        parts = random_stream(random.Random(seed))
        rest = parts
        for run in offload.merge(parts):
            part, rest = rest[:run.count], rest[run.count:]
            if not packets_of_ip(run.data):
                continue
            wire.send(run.vnet, run.data)
            read = wire.receive()
            assert (read[1] & ~GSO_ECN == GSO_NONE) == (run.count == 1)
            assert offload.split(VnetHeader.from_buffer_copy(read), read[10:]) == part, f"seed {seed}"
    assert wire.is_quiet()


def packets_of_ip(data: bytes) -> bool:
    """TUN refuses to take what is neither IPv4 nor IPv6."""
    return data[:1] != b"" and data[0] >> 4 in (4, 6)


def test_random_super_packets_come_from_a_tun_with_offloads_and_split(offload, wire):
    wire = wire(TUN_F_ALL)
    for seed in range(300):
        vnet, data, last = random_super_packet(random.Random(seed))
        wire.send(vnet, data)
        read = wire.receive()
        assert read[1] == vnet.gso_type
        assert offload.split(VnetHeader.from_buffer_copy(read), read[10:]) == cut(vnet, data, last), f"seed {seed}"
    assert wire.is_quiet()
