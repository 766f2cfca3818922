# SPDX-License-Identifier: MIT-0
"""Packets of one flow to merge, and super-packets to split: made by hand or at random, and what must come of them."""
import random
import struct
from typing import List, Optional, Tuple

import pytest

import packets
from offload import Super, VnetHeader
from packets import ACK, FIN, ROUTING, SYN, TCP, UDP

RST, PSH, URG, ECE, CWR, AE = 0x04, 0x08, 0x20, 0x40, 0x80, 0x100
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
CSUM_OFFSET = {TCP: 16, UDP: 6}

ENDS = {4: ("10.1.0.1", "10.2.0.2"), 6: ("fd00:1::1", "fd00:2::2")}
KINDS = [(4, TCP), (6, TCP), (4, UDP), (6, UDP)]
KIND_IDS = ["tcp4", "tcp6", "udp4", "udp6"]

TIMESTAMPS = b"\x01\x01\x08\x0a" + struct.pack("!II", 1000, 2000)
ROUTER_ALERT = b"\x94\x04\x00\x00"

each_kind = pytest.mark.parametrize("version, protocol", KINDS, ids=KIND_IDS)


def make(version: int, protocol: int, payload: bytes, *, ident=0, ip_options=b"", **fields) -> bytes:
    """A packet of the flow that all tests use."""
    if version == 4:
        fields["ident"] = ident & 0xFFFF
    if protocol == TCP:
        fields["seq"] = fields.get("seq", 0) & 0xFFFFFFFF
    packet = {TCP: packets.tcp, UDP: packets.udp}[protocol](*ENDS[version], 40000, 443, payload, **fields)
    if ip_options:
        packet = refreshed(struct.pack("!BBH", 0x45 + len(ip_options) // 4, packet[1], len(packet) + len(ip_options))
                           + packet[4:20] + ip_options + packet[20:])
    return packet


def stream(version: int, protocol: int, sizes: List[int], *, ident=100, id_step=1, seq=1000, **fields) -> List[bytes]:
    """Consecutive packets with payloads of these sizes."""
    made, sent = [], 0
    for i, size in enumerate(sizes):
        payload = bytes((sent + n) * 7 + 3 & 0xFF for n in range(size))
        if protocol == TCP:
            fields["seq"] = seq + sent
        made.append(make(version, protocol, payload, ident=ident + i * id_step, **fields))
        sent += size
    return made


def transport(packet: bytes) -> int:
    return packets.parse(packet).transport


def put(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value):]


def put16(packet: bytes, at: int, value: int) -> bytes:
    return put(packet, at, struct.pack("!H", value))


def get16(packet: bytes, at: int) -> int:
    return struct.unpack_from("!H", packet, at)[0]


def refreshed(packet: bytes, pseudo_destination: Optional[bytes] = None) -> bytes:
    """The packet with its checksums put right."""
    parsed = packets.parse(packet)
    if parsed.version == 4:
        packet = put16(packet, 10, 0)
        packet = put16(packet, 10, packets.checksum(packet[:parsed.transport]))
    at = parsed.transport + CSUM_OFFSET[parsed.protocol]
    body = put16(packet, at, 0)[parsed.transport:]
    pseudo = packets.pseudo_header(parsed.version, parsed.source, pseudo_destination or parsed.destination,
                                   parsed.protocol, len(body))
    value = packets.checksum(pseudo, body)
    return put16(packet, at, value or (0xFFFF if parsed.protocol == UDP else 0))


def flip(packet: bytes, at: int, bits: int) -> bytes:
    """The packet with these bits of one byte changed, and right checksums."""
    return refreshed(put(packet, at, bytes([packet[at] ^ bits])))


def with_flags(packet: bytes, flags: int) -> bytes:
    at = transport(packet) + 12
    return refreshed(put16(packet, at, get16(packet, at) & 0xF000 | flags))


def super_packet(packet: bytes, gso_size: int, *, ecn=False, pseudo_destination: Optional[bytes] = None
                 ) -> Tuple[VnetHeader, bytes]:
    """A packet as the kernel hands it over, to be cut: its checksum field holds the sum of its pseudo-header."""
    parsed = packets.parse(packet)
    offset = CSUM_OFFSET[parsed.protocol]
    pseudo = packets.pseudo_header(parsed.version, parsed.source, pseudo_destination or parsed.destination,
                                   parsed.protocol, len(packet) - parsed.transport)
    packet = put16(packet, parsed.transport + offset, 0xFFFF - packets.checksum(pseudo))
    gso_type = GSO_UDP_L4 if parsed.protocol == UDP else {4: GSO_TCPV4, 6: GSO_TCPV6}[parsed.version]
    return VnetHeader(NEEDS_CSUM, gso_type | (GSO_ECN if ecn else 0), parsed.transport, gso_size, parsed.transport,
                      offset), packet


def counts(runs: List[Super]) -> List[int]:
    return [run.count for run in runs]


def with_zero_checksum(packet: bytes, spare: int) -> bytes:
    """The packet with the 16 bits at spare set so that its transport checksum is computed as zero."""
    packet = put16(packet, spare, 0)
    packet = refreshed(packet)
    at = transport(packet) + CSUM_OFFSET[packets.parse(packet).protocol]
    packet = refreshed(put16(packet, spare, get16(packet, at)))
    assert get16(packet, at) in (0, 0xFFFF)
    return packet


# ---- The oracle --------------------------------------------------------------------------------------------------------


def cut(vnet: VnetHeader, packet: bytes, pseudo_destination: Optional[bytes] = None) -> List[bytes]:
    """The oracle: a super-packet's segments as the kernel would send them, by the book and slowly."""
    parsed = packets.parse(packet)
    at = parsed.transport
    header_len = at + (8 if parsed.protocol == UDP else (packet[at + 12] >> 4) * 4)
    payload, made = packet[header_len:], []
    pieces = [payload[n:n + vnet.gso_size] for n in range(0, len(payload), vnet.gso_size)]
    for i, piece in enumerate(pieces):
        part = packet[:header_len] + piece
        if parsed.version == 4:
            part = put16(put16(part, 2, len(part)), 4, get16(part, 4) + i & 0xFFFF)
        else:
            part = put16(part, 4, len(part) - 40)
        if parsed.protocol == UDP:
            part = put16(part, at + 4, len(part) - at)
        else:
            seq = struct.unpack_from("!I", packet, at + 4)[0] + i * vnet.gso_size
            flags = packet[at + 13]
            if i:
                flags &= ~CWR
            if i < len(pieces) - 1:
                flags &= ~(FIN | PSH)
            part = put(part, at + 4, struct.pack("!I", seq & 0xFFFFFFFF))
            part = put(part, at + 13, bytes([flags]))
        made.append(refreshed(part, pseudo_destination))
    return made


# ---- At random ---------------------------------------------------------------------------------------------------------


def random_stream(rng: random.Random) -> List[bytes]:
    """Some packets of one flow, mostly in order, with all that may come between."""
    version, protocol = rng.choice(KINDS)
    size = rng.choice([1, 2, 11, 100, 536, 1448])
    fields = {"ttl": rng.randrange(1, 256), "tos": rng.randrange(256)}
    if version == 4:
        fields.update(dont_fragment=rng.random() < 0.6, ip_options=rng.choice([b"", b"", ROUTER_ALERT]))
    if protocol == TCP:
        fields.update(options=rng.choice([b"", TIMESTAMPS]), window=rng.randrange(65536), ack=rng.getrandbits(32))
    ident, id_step = rng.choice([(rng.getrandbits(16), 1)] * 3 + [(0xFFF0, 1), (0, 0), (0, 0), (0, 1), (7, 0)])
    seq, calm = rng.getrandbits(32), rng.choice([6, 80])
    made = []
    for _ in range(rng.randrange(1, 80)):
        now, event = dict(fields), rng.choice(["none"] * calm + EVENTS[protocol])
        payload = rng.randbytes(size)
        if event == "short":
            payload = payload[:rng.randrange(size + 1)]
        elif event == "long":
            payload += rng.randbytes(rng.randrange(1, 100))
        elif event == "field":
            name = rng.choice([name for name in fields if name != "ip_options"])
            now[name] = {"dont_fragment": version == 4 and not fields.get(name), "options": b"\x01" * 4}.get(
                name, rng.randrange(1, 256))
        elif event == "field from now on":
            fields["ttl"] = now["ttl"] = rng.randrange(1, 256)
        elif event == "flags":
            now["flags"] = rng.choice([ACK | PSH] * 3 + [ACK | FIN, RST, SYN, ACK | CWR, ACK | ECE, ACK | URG | PSH])
        elif event == "pure ACK":
            payload = b""
        elif event == "gap":
            seq += rng.choice([-size, size, 1])
            ident += rng.choice([0, 1, 2])
        if protocol == TCP:
            now["seq"] = seq
            seq += len(payload)
        packet = make(version, protocol, payload, ident=ident, **now)
        ident += id_step
        if event == "wrong":
            at = rng.randrange(len(packet))
            packet = put(packet, at, bytes([packet[at] ^ 1 << rng.randrange(8)]))
        elif event == "no checksum":
            packet = put16(packet, transport(packet) + CSUM_OFFSET[protocol], rng.choice([0, 0xFFFF]))
        elif event == "fragment" and version == 4:
            packet = refreshed(put16(packet, 6, rng.choice([0x2000, 0x2001, 0x0001])))
        elif event == "lost":
            continue
        elif event == "swapped" and made:
            made.insert(-1, packet)
            continue
        made += [packet] * (2 if event == "twice" else 1)
    return made


EVENTS = {UDP: ["short", "long", "field", "field from now on", "wrong", "no checksum", "fragment", "gap", "lost",
                "swapped", "twice"]}
EVENTS[TCP] = EVENTS[UDP] + ["flags", "flags", "pure ACK"]


def random_super_packet(rng: random.Random) -> Tuple[VnetHeader, bytes, Optional[bytes]]:
    version, protocol = rng.choice(KINDS)
    fields = {"ttl": rng.randrange(1, 256), "tos": rng.randrange(256)}
    last = None
    if version == 4:
        fields.update(dont_fragment=rng.random() < 0.5, ip_options=rng.choice([b"", ROUTER_ALERT]),
                      ident=rng.getrandbits(16))
    elif rng.random() < 0.3:
        last = rng.randbytes(16)
        fields["extensions"] = ((ROUTING, bytes([0, 2, 4, 1, 0, 0, 0, 0]) + last),)
    if protocol == TCP:
        fields.update(options=rng.choice([b"", TIMESTAMPS]), window=rng.randrange(65536), ack=rng.getrandbits(32),
                      seq=rng.getrandbits(32), flags=ACK | rng.choice([0, PSH, FIN, PSH | FIN, CWR, CWR | ECE | PSH]))
    gso_size = rng.choice([rng.randrange(1, 100), rng.randrange(100, 9000)])
    pieces = rng.randrange(1, min(64, 60000 // gso_size))
    payload = rng.randbytes(gso_size * pieces + rng.randrange(1, gso_size + 1))
    packet = make(version, protocol, payload, **fields)
    vnet, data = super_packet(packet, gso_size, ecn=bool(fields.get("flags", 0) & CWR), pseudo_destination=last)
    return vnet, data, last
