# SPDX-License-Identifier: MIT-0
"""What the log says of single packets, of any packets, and what that costs nobody."""
import re


import packets
from gwlbtun import geneve
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
