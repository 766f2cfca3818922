# SPDX-License-Identifier: MIT-0
"""What the log says of single packets, of any packets, and what that costs nobody."""
import random
import re

import pytest

import packets
from gwlbtun import geneve, trace
from lab import CLIENT, ENI, SERVER
from logbook import LINE


def texts(daemon, section, level=None):
    whole = daemon.log().rpartition("\n")[0]
    found = [LINE.fullmatch(line) for line in whole.splitlines()]
    return [match["text"] for match in found if match["section"] == section and level in (None, match["level"])]


def test_every_packet_in_and_out(lab):
    daemon = lab.start("--offload", "none", "--logging", "udp=debug,geneve=debug,tunnel=debug")
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1234, 80, b"hello")
    flow = endpoint.flow(packet)
    for _ in range(3):
        endpoint.send(packet)
    assert lab.wait(lambda: len(texts(daemon, "tunnel")) == 6)
    inner = f"{len(packet)} bytes, UDP {CLIENT[0]} to {SERVER[0]}, ports 1234 to 80"
    envelope = flow.envelope
    assert texts(daemon, "udp", "debug") == [
        f"{len(packet) + 40} bytes from {envelope.address}:{envelope.port} to 192.0.2.10"] * 3
    for text in texts(daemon, "geneve", "debug"):
        assert f"eni {ENI:016x}" in text and f"cookie {flow.cookie:08x}" in text
    assert sorted(texts(daemon, "tunnel", "debug")) == sorted([
        f"gwi-887epl1g9A: to Linux, {inner}",
        f"gwo-887epl1g9A: from Linux, {inner}: flow cookie {flow.cookie:08x}, to {envelope.address}, source port "
        f"{envelope.port}"] * 3)
    threads = {LINE.fullmatch(line)["thread"] for line in daemon.log().splitlines() if "(udp," in line}
    assert all(re.fullmatch(r"gwlbtun U00\d", thread) for thread in threads)


def test_the_reason_of_a_drop(lab):
    daemon = lab.start("--logging", "geneve=debug,tunnel=debug")
    lab.balancer.inject(b"\x40" + b"\0" * 30)
    lab.balancer.inject(b"")
    assert lab.wait(lambda: len(texts(daemon, "geneve")) == 2)
    assert set(texts(daemon, "geneve")) == {"Dropped, the Geneve version is not 0",
                                            "Dropped, the Geneve header is cut short"}
    header = geneve.gwlb_header(ENI, 1, 2)
    lab.balancer.inject(header.pack() + b"\x45")
    assert lab.wait(lambda: len(texts(daemon, "geneve")) == 3)
    assert texts(daemon, "geneve")[-1].endswith(": an IP packet cut short: dropped, the inner packet is cut short")


def test_hex_dumps(lab):
    daemon = lab.start("-x")
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1234, 80, b"-what is in it-")
    endpoint.send(packet)
    assert lab.wait(lambda: len(texts(daemon, "tunnel")) == 2 * 4)  # 43 bytes: three lines, behind one that names it
    header, payload = endpoint.flow(packet).envelope.header, None

    def dumped(section):
        lines = [match for match in (re.match(r"  ([0-9a-f]{4})  ((?:[0-9a-f]{2} )+) ", text + "  ")
                                     for text in texts(daemon, section, "debugdetail")) if match]
        return bytes.fromhex("".join(match[2] for match in lines))
    payload = header + packet
    assert dumped("udp") == payload
    assert dumped("geneve") == header
    assert dumped("tunnel") == packet * 2


def test_the_default_says_nothing_of_packets(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    for _ in range(10):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1234, 80))
    lab.balancer.inject(b"")
    assert lab.wait(lambda: lab.balancer.counters.returned == 10)
    assert lab.wait(lambda: "Packets dropped" in daemon.log())
    assert texts(daemon, "udp") == texts(daemon, "geneve") == texts(daemon, "tunnel") == []


def test_a_log_that_cannot_keep_up_says_so_and_traffic_does_not_notice(lab):
    daemon = lab.start("-x", "--offload", "none")
    endpoint = lab.endpoint()
    made = [packets.udp(CLIENT[0], SERVER[0], 1000 + number % 50, 80, b"x" * 1000) for number in range(3000)]
    for packet in made:
        endpoint.send(packet)
    assert lab.wait(lambda: lab.balancer.counters.returned == len(made))
    # Each packet has its line, or is among those that are said to have none.
    pattern = re.compile(r"(\d+) packets were not logged")

    def accounted():
        lost = sum(int(match[1]) for match in map(pattern.match, texts(daemon, "core")) if match)
        shown = sum("bytes from" in text for text in texts(daemon, "udp"))
        shown += sum("from Linux" in text for text in texts(daemon, "tunnel"))
        return lost + shown
    assert lab.wait(lambda: accounted() == 2 * len(made), timeout=60)


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
