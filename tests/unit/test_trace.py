# SPDX-License-Identifier: MIT-0
"""What the log says of any packet."""
import random

import pytest

import packets
from gwlbtun import trace
from lab import CLIENT, SERVER


@pytest.mark.parametrize("packet, text", [
    (packets.udp(*CLIENT[:1], SERVER[0], 1, 2), f"UDP {CLIENT[0]} to {SERVER[0]}, ports 1 to 2"),
    (packets.tcp(CLIENT[1], SERVER[1], 80, 99), f"TCP {CLIENT[1]} to {SERVER[1]}, ports 80 to 99"),
    (packets.echo(CLIENT[0], SERVER[0], 7), f"ICMP {CLIENT[0]} to {SERVER[0]}, type 8, code 0, identifier 7"),
    (packets.echo(CLIENT[1], SERVER[1], 7), f"ICMPv6 {CLIENT[1]} to {SERVER[1]}, type 128, code 0, identifier 7"),
    (packets.ip(CLIENT[0], SERVER[0], 47, b"gre"), f"protocol 47 {CLIENT[0]} to {SERVER[0]}"),
    (b"", "an IP packet cut short"), (b"\x45", "an IP packet cut short"), (b"\x60" * 39, "an IP packet cut short"),
    (b"\x00" * 40, "no IP packet"),
])
def test_what_a_packet_is(packet, text):
    assert trace.describe_inner(packet) == text


@pytest.mark.parametrize("version", [4, 6])
def test_later_fragments_have_no_ports(version):
    source, destination = CLIENT[version == 6], SERVER[version == 6]
    body = packets.udp_datagram(source, destination, 5, 6, b"x" * 3000)
    first, *later = packets.fragments(source, destination, 17, body, 1480, 9)
    assert trace.describe_inner(first).endswith("ports 5 to 6")
    assert all(trace.describe_inner(packet).endswith("later fragment") for packet in later)


def test_no_packet_upsets_it():
    chance = random.Random(1)
    for _ in range(20_000):
        packet = bytes([chance.choice((0x45, 0x4F, 0x60, 0x40))]) + chance.randbytes(chance.randrange(80))
        assert isinstance(trace.describe_inner(packet), str)


def test_hex_dump():
    assert trace.hex_dump(b"") == ""
    assert trace.hex_dump(b"0123456789abcdef\x00\xff") == (
        "\n  0000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"
        "\n  0010  00 ff                                            ..")
