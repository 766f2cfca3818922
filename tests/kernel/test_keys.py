# SPDX-License-Identifier: MIT-0
"""The programs find a flow under the very key that the shim has for it, whichever way its packet goes."""
import random
import socket
import struct
import subprocess
from pathlib import Path

import packets
import pytest
from kernelpath import REDIRECT, TO_LOOPBACK, frame, header, key, returned

NATIVE = Path(__file__).resolve().parents[1] / "native"
PACKETS = 3000


@pytest.fixture(scope="module")
def shim_keys(tmp_path_factory):
    """A function from packets to their keys, by native/packet.c."""
    directory = tmp_path_factory.mktemp("keys")
    subprocess.run(["make", "-s", "-C", NATIVE, f"OUT={directory}", "keys"], check=True)

    def keys(inners):
        lines = "".join(f"{inner.hex()}\n" for inner in inners)
        said = subprocess.run([directory / "keys"], input=lines, stdout=subprocess.PIPE, universal_newlines=True, check=True)
        return [b"".join(struct.pack("=Q", int(line[at:at + 16], 16)) for at in range(0, len(line), 16))
                for line in said.stdout.splitlines()]

    return keys


def some_packets(count):
    """Of addresses and ports that are often alike, in part or altogether."""
    draw = random.Random(6082)  # by which no checksum happens to look as if it was left to the device
    for _ in range(count):
        size = draw.choice((4, 16))
        first = bytes(draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256))) for _ in range(size))
        changed = bytearray(first)
        for _ in range(draw.randrange(3)):
            changed[draw.randrange(size)] = draw.randrange(256)
        second = bytes(changed) if draw.random() < 0.7 else bytes(draw.randrange(256) for _ in range(size))
        ports = [draw.choice((0, 1, 255, 256, 0x7FFF, 0x8000, 0xFFFF, draw.randrange(65536))) for _ in range(2)]
        protocol = draw.choice((packets.TCP, packets.UDP))
        body = struct.pack("!HH", *ports) + bytes(draw.randrange(256) for _ in range(draw.randrange(16, 60)))
        ends = [socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, end)
                for end in (first, second)]
        yield packets.ip(ends[0], ends[1], protocol, body)


def test_both_programs_know_a_packet_by_the_shims_key(world, shim_keys):
    inners = list(some_packets(PACKETS))
    for inner, known in zip(inners, shim_keys(inners)):
        assert known == key(inner)
        world.add(inner)
        run = world.run_in(frame(inner))
        assert (run.result, run.packet) == (REDIRECT, TO_LOOPBACK + inner)
        assert world.run_out(inner) == (REDIRECT, returned(inner))
        assert world.maps.forget_flow(known)


def test_whatever_comes_no_other_flow_is_found(world, shim_keys):
    """Headers with bits that were flipped: what is carried is carried for the flow that the shim would have found."""
    draw = random.Random(12)
    inners = []
    for inner in some_packets(PACKETS):
        changed = bytearray(inner)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed) if draw.random() < 0.1 else 24)] ^= 1 << draw.randrange(8)
        inners.append(bytes(changed))
    carried = 0
    for inner, known in zip(inners, shim_keys(inners)):
        for other in list(world.maps.flow_keys()):
            world.maps.forget_flow(other)
        if known:
            world.add(packets.udp("10.0.0.1", "10.0.0.2", 1, 2))
            flow = world.maps.flow(next(world.maps.flow_keys()))
            flow.header[:] = header(6 if inner[0] >> 4 == 6 else 4)
            world.maps.set_flow(known, flow)
        given = frame(inner, header(6 if inner[0] >> 4 == 6 else 4))
        run = world.run_in(given)
        if run.packet != given:
            assert known and run.packet == TO_LOOPBACK + inner
            carried += 1
    assert carried > PACKETS // 10
