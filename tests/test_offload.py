# SPDX-License-Identifier: MIT-0
"""Super-packets (native/offload.c): every rule of merging and splitting, against packets.py and against the kernel."""
import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

import pytest

import netns
import packets
from packets import ACK, DESTINATION, FIN, ROUTING, SYN, TCP, UDP

TESTS = Path(__file__).resolve().parent
NATIVE = TESTS.parent / "native"

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


# ---- The functions under test ----------------------------------------------------------------------------------------


class VnetHeader(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint8), ("gso_type", ctypes.c_uint8), ("hdr_len", ctypes.c_uint16),
                ("gso_size", ctypes.c_uint16), ("csum_start", ctypes.c_uint16), ("csum_offset", ctypes.c_uint16)]


class Segment(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("len", ctypes.c_uint32), ("l4_offset", ctypes.c_uint16),
                ("payload_offset", ctypes.c_uint16), ("ip_version", ctypes.c_uint8), ("protocol", ctypes.c_uint8),
                ("mergeable", ctypes.c_bool), ("verified", ctypes.c_bool)]


class Merge(ctypes.Structure):
    _fields_ = [("segment", ctypes.POINTER(Segment) * 64), ("count", ctypes.c_uint), ("length", ctypes.c_uint32),
                ("ended", ctypes.c_bool)]


class Split(ctypes.Structure):
    _fields_ = [("packet", ctypes.c_void_p), ("len", ctypes.c_uint32), ("count", ctypes.c_uint32),
                ("header_len", ctypes.c_uint16), ("l4_offset", ctypes.c_uint16), ("gso_size", ctypes.c_uint16),
                ("ip_sum", ctypes.c_uint16), ("l4_sum", ctypes.c_uint16), ("ip_version", ctypes.c_uint8),
                ("protocol", ctypes.c_uint8)]


class Super(NamedTuple):
    """A run as it was written: count packets in data, behind vnet."""

    vnet: VnetHeader
    data: bytes
    count: int


class Offload:
    """native/offload.c, taking and giving bytes."""

    def __init__(self, path: Path):
        self.library = library = ctypes.CDLL(str(path))
        library.gw_sum.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        library.gw_sum.restype = ctypes.c_uint64
        library.gw_sum_copy.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        library.gw_sum_copy.restype = ctypes.c_uint64
        library.gw_fold.argtypes = ctypes.c_uint64,
        library.gw_fold.restype = ctypes.c_uint16
        library.gw_pseudo_sum.argtypes = ctypes.c_char_p, ctypes.c_uint8, ctypes.c_uint32
        library.gw_pseudo_sum.restype = ctypes.c_uint64
        library.gw_segment_inspect.argtypes = ctypes.POINTER(Segment), ctypes.c_void_p, ctypes.c_uint32
        library.gw_segment_inspect.restype = None
        library.gw_merge_start.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(Segment)
        library.gw_merge_start.restype = None
        library.gw_merge_join.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(Segment)
        library.gw_merge_join.restype = ctypes.c_bool
        library.gw_merge_write.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(VnetHeader), ctypes.c_void_p
        library.gw_merge_write.restype = None
        library.gw_split_begin.argtypes = (ctypes.POINTER(Split), ctypes.POINTER(VnetHeader), ctypes.c_void_p,
                                           ctypes.c_size_t)
        library.gw_split_write.argtypes = ctypes.POINTER(Split), ctypes.c_uint, ctypes.c_void_p
        library.gw_split_write.restype = None
        library.gw_split_segment.argtypes = (ctypes.POINTER(Split), ctypes.c_uint, ctypes.c_void_p,
                                             ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint32))
        library.gw_split_segment.restype = None

    def checksum(self, *parts: bytes) -> int:
        """The Internet checksum, taken part by part."""
        total = 0
        for part in parts:
            total = self.library.gw_sum(part, len(part), total)
        return int.from_bytes(struct.pack("=H", self.library.gw_fold(total) ^ 0xFFFF), "big")

    def inspect(self, packet: bytes) -> Tuple[Segment, ctypes.Array]:
        """The segment, and the memory that it points to."""
        memory = (ctypes.c_char * max(len(packet), 1)).from_buffer_copy(packet or b"\0")
        segment = Segment()
        self.library.gw_segment_inspect(segment, memory, len(packet))
        return segment, memory

    def merge(self, stream: List[bytes]) -> List[Super]:
        """As a receiver does with the packets of one flow."""
        inspected = [self.inspect(packet) for packet in stream]
        merge, runs, done = Merge(), [], 0
        while done < len(inspected):
            self.library.gw_merge_start(merge, inspected[done][0])
            for segment, _ in inspected[done + 1:]:
                if not self.library.gw_merge_join(merge, segment):
                    break
            runs.append(self.write(merge))
            done += runs[-1].count
        return runs

    def write(self, merge: Merge) -> Super:
        """As many packets of the run as can be one."""
        vnet, guard, room = VnetHeader(), b"\xa5" * 16, merge.length
        out = ctypes.create_string_buffer(b"\x5a" * room + guard, room + len(guard))
        self.library.gw_merge_write(merge, vnet, out)
        assert out.raw[room:] == guard and merge.length <= room
        return Super(vnet, out.raw[:merge.length], merge.count)

    def split(self, vnet: VnetHeader, data: bytes) -> Optional[List[bytes]]:
        """The packets of a super-packet; None where it is refused."""
        memory = (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")
        split, payload, size = Split(), ctypes.c_void_p(), ctypes.c_uint32()
        count = self.library.gw_split_begin(split, vnet, memory, len(data))
        if count < 0:
            return None
        assert count == split.count >= 1
        made = []
        for i in range(count):
            header = ctypes.create_string_buffer(b"\xa5" * (split.header_len + 1), split.header_len + 1)
            self.library.gw_split_segment(split, i, header, payload, size)
            assert header.raw[split.header_len:] == b"\xa5"
            made.append(header.raw[:split.header_len] + ctypes.string_at(payload.value, size.value))
            whole = ctypes.create_string_buffer(b"\xa5" * (len(made[-1]) + 1), len(made[-1]) + 1)
            self.library.gw_split_write(split, i, whole)
            assert whole.raw == made[-1] + b"\xa5"
        return made


@pytest.fixture(scope="module")
def offload(tmp_path_factory) -> Offload:
    shared_object = tmp_path_factory.mktemp("offload") / "offload.so"
    subprocess.run(["gcc", "-std=gnu11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wshadow", "-Wconversion",
                    "-Werror", "-o", shared_object, NATIVE / "offload.c"], check=True)
    return Offload(shared_object)


# ---- Packets to try it with ------------------------------------------------------------------------------------------


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


# ---- Checksums -------------------------------------------------------------------------------------------------------


def test_sum_is_the_internet_checksum_at_any_length_and_alignment(offload):
    rng = random.Random(1)
    for length in [*range(0, 300), 1499, 1500, 8499, 8500, 65535]:
        data = rng.randbytes(length)
        for shift in range(0, 4):
            memory = (ctypes.c_char * (length + shift)).from_buffer_copy(bytes(shift) + data)
            total = offload.library.gw_sum(ctypes.addressof(memory) + shift, length, 0)
            folded = struct.pack("=H", offload.library.gw_fold(total) ^ 0xFFFF)
            assert int.from_bytes(folded, "big") == packets.checksum(data), (length, shift)
            out = ctypes.create_string_buffer(b"\xa5" * (length + 1), length + 1)
            copied = offload.library.gw_sum_copy(out, ctypes.addressof(memory) + shift, length, 0)
            assert offload.library.gw_fold(copied) == offload.library.gw_fold(total)
            assert out.raw == data + b"\xa5"


def test_sum_may_be_taken_in_pieces_of_even_length(offload):
    rng = random.Random(2)
    for _ in range(200):
        data = rng.randbytes(rng.randrange(2000))
        cut = rng.randrange(len(data) + 1) & ~1
        assert offload.checksum(data[:cut], data[cut:]) == packets.checksum(data)


@pytest.mark.parametrize("byte", [0x00, 0xFF], ids=["zeros", "ones"])
def test_sum_of_extremes(offload, byte):
    for length in (0, 1, 2, 7, 8, 20, 64, 65, 128, 65535):
        data = bytes([byte]) * length
        assert offload.checksum(data) == packets.checksum(data)


def test_sum_keeps_every_carry(offload):
    ones = 2 ** 64 - 1
    for length in (2, 4, 8, 16, 64, 72):
        total = offload.library.gw_sum(b"\xff" * length, length, ones)
        assert offload.library.gw_fold(total) == 0xFFFF
    one = offload.library.gw_sum(struct.pack("=H", 1), 2, ones)
    assert offload.library.gw_fold(one) == 1


@pytest.mark.parametrize("value, folded", [(0, 0), (1, 1), (0xFFFF, 0xFFFF), (0x10000, 1), (2 ** 64 - 1, 0xFFFF),
                                           (0xFFFF0001FFFFFFFF, 1), (0x0001000100010001, 4)])
def test_fold(offload, value, folded):
    assert offload.library.gw_fold(value) == folded


@each_kind
def test_pseudo_header(offload, version, protocol):
    for length in (8, 1500, 65535):
        packet = make(version, protocol, b"x")
        parsed = packets.parse(packet)
        expected = packets.checksum(packets.pseudo_header(version, parsed.source, parsed.destination, protocol, length))
        folded = offload.library.gw_fold(offload.library.gw_pseudo_sum(packet, protocol, length))
        assert int.from_bytes(struct.pack("=H", folded ^ 0xFFFF), "big") == expected


# ---- Merge: what is merged, and how it is written --------------------------------------------------------------------


@each_kind
def test_consecutive_packets_of_one_size_are_merged(offload, version, protocol):
    parts = stream(version, protocol, [100] * 5)
    [run] = offload.merge(parts)
    header_len = len(parts[0]) - 100
    at = transport(parts[0])
    assert run.count == 5
    assert run.data[header_len:] == b"".join(part[header_len:] for part in parts)
    assert packets.parse(run.data).length == len(run.data) == header_len + 500
    assert version == 6 or packets.checksum(run.data[:at]) == 0
    if protocol == UDP:
        assert get16(run.data, at + 4) == 508
    vnet = run.vnet
    assert (vnet.flags, vnet.hdr_len, vnet.gso_size) == (NEEDS_CSUM, header_len, 100)
    assert vnet.gso_type == (GSO_UDP_L4 if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6)
    assert (vnet.csum_start, vnet.csum_offset) == (at, CSUM_OFFSET[protocol])
    partial = super_packet(run.data, 100)[1]
    assert run.data == partial, "the checksum field must hold the sum of the pseudo-header"


@each_kind
def test_nothing_else_of_the_first_header_changes(offload, version, protocol):
    fields = {"ttl": 33, "tos": 0xB9}
    if version == 6:
        fields["flow_label"] = 0xABCDE
    if protocol == TCP:
        fields.update(options=TIMESTAMPS, window=77, ack=0xDEADBEEF)
    parts = stream(version, protocol, [64, 64], **fields)
    [run] = offload.merge(parts)
    changed = {at for at in range(len(parts[0]) - 64) if run.data[at] != parts[0][at]}
    at = transport(parts[0])
    allowed = {2, 3, 10, 11} if version == 4 else {4, 5}
    allowed |= {at + CSUM_OFFSET[protocol], at + CSUM_OFFSET[protocol] + 1}
    allowed |= {at + 4, at + 5} if protocol == UDP else set()
    assert changed <= allowed


@each_kind
def test_a_lone_packet_is_written_as_it_came(offload, version, protocol):
    [packet] = stream(version, protocol, [100])
    wrong = put(packet, len(packet) - 1, bytes([packet[-1] ^ 1]))
    for one in (packet, wrong, packet[:len(packet) - 100], b"\x45", b""):
        [run] = offload.merge([one])
        assert (run.data, run.count, bytes(run.vnet)) == (one, 1, bytes(10))


@each_kind
def test_checksums_are_verified_only_for_company(offload, version, protocol):
    first, second, other = stream(version, protocol, [100, 100, 200])
    segments = [offload.inspect(packet) for packet in (first, second, other)]
    merge = Merge()
    offload.library.gw_merge_start(merge, segments[0][0])
    assert not offload.library.gw_merge_join(merge, segments[2][0])
    offload.write(merge)
    assert [segment.verified for segment, _ in segments] == [False] * 3
    offload.library.gw_merge_start(merge, segments[0][0])
    assert offload.library.gw_merge_join(merge, segments[1][0])
    offload.write(merge)
    assert [segment.verified for segment, _ in segments] == [True, True, False]


@each_kind
def test_the_caller_may_forbid_a_packet_to_merge(offload, version, protocol):
    for forbidden in (0, 1):
        segments = [offload.inspect(packet) for packet in stream(version, protocol, [100, 100])]
        assert all(segment.mergeable for segment, _ in segments)
        segments[forbidden][0].mergeable = False
        merge = Merge()
        offload.library.gw_merge_start(merge, segments[0][0])
        assert not offload.library.gw_merge_join(merge, segments[1][0])


# ---- Merge: rules ----------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """Bits of a header that must be equal: at byte at, counted from the IP header or from the transport header."""

    label: str
    kinds: List[Tuple[int, int]]
    layer: str
    at: int
    bits: int


TCP_KINDS, UDP_KINDS = KINDS[:2], KINDS[2:]
IPV4_KINDS, IPV6_KINDS = KINDS[::2], KINDS[1::2]

DIFFERENCES = [
    Difference("DSCP", IPV4_KINDS, "ip", 1, 0x04),
    Difference("ECN", IPV4_KINDS, "ip", 1, 0x01),
    Difference("IPv4 ID", IPV4_KINDS, "ip", 4, 0x80),
    Difference("DF", IPV4_KINDS, "ip", 6, 0x40),
    Difference("TTL", IPV4_KINDS, "ip", 8, 0x01),
    Difference("IPv4 source, first byte", IPV4_KINDS, "ip", 12, 0x80),
    Difference("IPv4 source, last byte", IPV4_KINDS, "ip", 15, 0x01),
    Difference("IPv4 destination, first byte", IPV4_KINDS, "ip", 16, 0x80),
    Difference("IPv4 destination, last byte", IPV4_KINDS, "ip", 19, 0x01),
    Difference("DSCP", IPV6_KINDS, "ip", 0, 0x01),
    Difference("ECN", IPV6_KINDS, "ip", 1, 0x10),
    Difference("flow label, first bits", IPV6_KINDS, "ip", 1, 0x08),
    Difference("flow label, last bit", IPV6_KINDS, "ip", 3, 0x01),
    Difference("hop limit", IPV6_KINDS, "ip", 7, 0x01),
    Difference("IPv6 source, first byte", IPV6_KINDS, "ip", 8, 0x80),
    Difference("IPv6 source, last byte", IPV6_KINDS, "ip", 23, 0x01),
    Difference("IPv6 destination, first byte", IPV6_KINDS, "ip", 24, 0x80),
    Difference("IPv6 destination, last byte", IPV6_KINDS, "ip", 39, 0x01),
    Difference("source port", KINDS, "l4", 1, 0x01),
    Difference("destination port", KINDS, "l4", 3, 0x01),
    Difference("sequence number", TCP_KINDS, "l4", 4, 0x80),
    Difference("ACK number, first byte", TCP_KINDS, "l4", 8, 0x80),
    Difference("ACK number, last byte", TCP_KINDS, "l4", 11, 0x01),
    Difference("window", TCP_KINDS, "l4", 15, 0x01),
    Difference("urgent pointer", TCP_KINDS, "l4", 19, 0x01),
    Difference("TCP option's kind", TCP_KINDS, "l4", 20, 0x01),
    Difference("TCP timestamp's last byte", TCP_KINDS, "l4", 31, 0x01),
]


@pytest.mark.parametrize("difference, kind", [(d, kind) for d in DIFFERENCES for kind in d.kinds],
                         ids=[f"{KIND_IDS[KINDS.index(kind)]}, {d.label}" for d in DIFFERENCES for kind in d.kinds])
def test_packets_that_differ_are_not_merged(offload, difference, kind):
    """The second and third agree with each other, so that they are merged, but not with the first."""
    parts = stream(*kind, [100] * 3, **({"options": TIMESTAMPS} if kind[1] == TCP else {}))
    assert counts(offload.merge(parts)) == [3]
    at = difference.at + (transport(parts[0]) if difference.layer == "l4" else 0)
    changed = [parts[0]] + [flip(part, at, difference.bits) for part in parts[1:]]
    assert counts(offload.merge(changed)) == [1, 2]


def test_versions_and_protocols_are_not_mixed(offload):
    for kind in KINDS:
        for other in KINDS:
            pair = stream(*kind, [100]) + stream(*other, [100, 100])[1:]
            assert counts(offload.merge(pair)) == ([2] if kind == other else [1, 1])


@each_kind
def test_equal_ipv4_options_are_merged_and_others_not(offload, version, protocol):
    if version == 6:
        return
    parts = stream(version, protocol, [100] * 3, ip_options=ROUTER_ALERT)
    assert counts(offload.merge(parts)) == [3]
    assert counts(offload.merge([parts[0]] + [flip(part, 23, 1) for part in parts[1:]])) == [1, 2]
    assert counts(offload.merge([stream(version, protocol, [100])[0]] + parts[1:])) == [1, 2]


def test_tcp_options_of_another_length_are_not_merged(offload):
    for version in (4, 6):
        short = stream(version, TCP, [100] * 3, options=b"\x01\x01\x01\x00")
        long = stream(version, TCP, [100] * 3, options=TIMESTAMPS)
        assert counts(offload.merge([short[0], long[1], long[2]])) == [1, 2]


@each_kind
def test_ipv6_extension_headers_are_not_merged(offload, version, protocol):
    if version == 4:
        return
    extensions = ((DESTINATION, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)
    assert counts(offload.merge(stream(version, protocol, [100, 100], extensions=extensions))) == [1, 1]


FLAGS = [FIN, SYN, RST, URG, ECE, CWR, AE, 0x200, 0x400, 0x800]


@pytest.mark.parametrize("flag", FLAGS, ids=["FIN", "SYN", "RST", "URG", "ECE", "CWR", "AE", "0x200", "0x400", "0x800"])
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_with_other_flags_than_ack_is_not_merged(offload, version, flag):
    for psh in (0, PSH):
        parts = stream(version, TCP, [100] * 5)
        parts[2] = with_flags(parts[2], ACK | psh | flag)
        assert counts(offload.merge(parts)) == [2, 1, 2]
        everywhere = [with_flags(part, ACK | flag) for part in parts]
        assert counts(offload.merge(everywhere)) == [1] * 5


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_without_ack_is_not_merged(offload, version):
    assert counts(offload.merge(stream(version, TCP, [100] * 3, flags=0))) == [1, 1, 1]
    assert counts(offload.merge(stream(version, TCP, [100] * 3, flags=PSH))) == [1, 1, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_psh_ends_a_run_and_is_kept(offload, version):
    parts = stream(version, TCP, [100] * 5)
    parts[1] = with_flags(parts[1], ACK | PSH)
    runs = offload.merge(parts)
    assert counts(runs) == [2, 3]
    assert [run.data[transport(run.data) + 13] for run in runs] == [ACK | PSH, ACK]
    parts[0] = with_flags(parts[0], ACK | PSH)
    assert counts(offload.merge(parts)) == [1, 1, 3]


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_without_payload_is_not_merged(offload, version):
    assert counts(offload.merge(stream(version, TCP, [0, 0, 0]))) == [1, 1, 1]
    assert counts(offload.merge(stream(version, TCP, [100, 0, 100]))) == [1, 1, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_udp_without_payload_is_not_merged(offload, version):
    assert counts(offload.merge(stream(version, UDP, [0, 0]))) == [1, 1]
    assert counts(offload.merge(stream(version, UDP, [100, 0]))) == [1, 1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("distance", [-100, -1, 1, 100, 1 << 31], ids=str)
def test_tcp_out_of_sequence_is_not_merged(offload, version, distance):
    first = stream(version, TCP, [100, 100])
    later = stream(version, TCP, [100, 100], seq=1200 + distance, ident=102)
    assert counts(offload.merge(first + later)) == [2, 2]


@pytest.mark.parametrize("version", [4, 6])
def test_the_tcp_sequence_wraps(offload, version):
    assert counts(offload.merge(stream(version, TCP, [100] * 4, seq=2 ** 32 - 250))) == [4]


@each_kind
def test_a_shorter_packet_ends_the_run(offload, version, protocol):
    assert counts(offload.merge(stream(version, protocol, [100, 100, 99, 99, 1]))) == [3, 2]


@each_kind
def test_a_longer_packet_starts_a_run(offload, version, protocol):
    assert counts(offload.merge(stream(version, protocol, [100, 100, 101, 101]))) == [2, 2]


@each_kind
def test_at_most_64_packets_are_merged(offload, version, protocol):
    assert counts(offload.merge(stream(version, protocol, [10] * 130))) == [64, 64, 2]


@each_kind
def test_a_super_packet_has_at_most_65535_bytes(offload, version, protocol):
    header_len = len(stream(version, protocol, [0])[0])
    fits = 65535 - header_len - 7 * 9000
    assert counts(offload.merge(stream(version, protocol, [9000] * 7 + [fits]))) == [8]
    assert counts(offload.merge(stream(version, protocol, [9000] * 7 + [fits + 1]))) == [7, 1]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("dont_fragment", [False, True], ids=["fragmentable", "DF"])
def test_ipv4_ids_that_grow_by_one_are_merged(offload, protocol, dont_fragment):
    assert counts(offload.merge(stream(4, protocol, [100] * 4, ident=0xFFFE, dont_fragment=dont_fragment))) == [4]
    for step in (-1, 2, 0x100):
        parts = stream(4, protocol, [100] * 3, id_step=step, dont_fragment=dont_fragment)
        assert counts(offload.merge(parts)) == [1, 1, 1]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_ipv4_ids_of_0_are_merged_with_df(offload, protocol):
    """As hosts send them that leave the ID of atomic datagrams (RFC 6864, 4.1) alone."""
    parts = stream(4, protocol, [100] * 3, ident=0, id_step=0)
    [run] = offload.merge(parts)
    assert run.count == 3
    assert offload.split(run.vnet, run.data) == parts
    assert counts(offload.merge(stream(4, protocol, [100] * 3, ident=0, id_step=0, dont_fragment=False))) == [1] * 3


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("dont_fragment", [False, True], ids=["fragmentable", "DF"])
def test_another_constant_ipv4_id_is_not_merged(offload, protocol, dont_fragment):
    parts = stream(4, protocol, [100] * 3, ident=7, id_step=0, dont_fragment=dont_fragment)
    assert counts(offload.merge(parts)) == [1, 1, 1]


@pytest.mark.parametrize("dont_fragment, expected", [(False, [4]), (True, [1, 3])], ids=["fragmentable", "DF"])
def test_ipv4_ids_that_grow_from_0(offload, dont_fragment, expected):
    """With DF, a super-packet of ID 0 has that ID in all its segments."""
    assert counts(offload.merge(stream(4, TCP, [100] * 4, ident=0, dont_fragment=dont_fragment))) == expected


@pytest.mark.parametrize("idents, expected", [((5, 5, 6, 7), [1, 3]), ((0, 0, 1, 2), [2, 2]), ((5, 6, 5, 6), [2, 2]),
                                              ((0, 0, 7, 8), [2, 2]), ((5, 6, 8, 9), [2, 2]), ((8, 9, 0, 0), [2, 2])])
def test_constant_and_growing_ipv4_ids_are_not_mixed(offload, idents, expected):
    parts = [refreshed(put16(part, 4, ident)) for part, ident in zip(stream(4, TCP, [100] * 4), idents)]
    assert counts(offload.merge(parts)) == expected


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("bits", [0x8000, 0x2000, 0x0001, 0x1FFF], ids=["reserved", "MF", "offset 8", "offset max"])
def test_ipv4_fragments_are_not_merged(offload, protocol, bits):
    for dont_fragment in (0, 0x4000):
        parts = stream(4, protocol, [100] * 3)
        parts = [refreshed(put16(part, 6, dont_fragment | bits)) for part in parts]
        assert counts(offload.merge(parts)) == [1, 1, 1]


@each_kind
def test_wrong_transport_checksums_are_not_merged(offload, version, protocol):
    parts = stream(version, protocol, [100] * 5)
    for wrong in (put(parts[2], len(parts[2]) - 1, bytes([parts[2][-1] ^ 1])),
                  put16(parts[2], transport(parts[2]) + CSUM_OFFSET[protocol], 0x1234)):
        runs = offload.merge(parts[:2] + [wrong] + parts[3:])
        assert counts(runs) == [2, 1, 2]
        assert runs[1].data == wrong


@each_kind
def test_a_wrong_checksum_first_lets_nobody_join(offload, version, protocol):
    parts = stream(version, protocol, [100] * 4)
    parts[0] = put(parts[0], len(parts[0]) - 1, bytes([parts[0][-1] ^ 1]))
    runs = offload.merge(parts)
    assert counts(runs) == [1, 3]
    assert runs[0].data == parts[0]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_wrong_ipv4_header_checksums_are_not_merged(offload, protocol):
    parts = stream(4, protocol, [100] * 5)
    parts[2] = put16(parts[2], 10, get16(parts[2], 10) ^ 0x0100)
    assert counts(offload.merge(parts)) == [2, 1, 2]


def with_zero_checksum(packet: bytes, spare: int) -> bytes:
    """The packet with the 16 bits at spare set so that its transport checksum is computed as zero."""
    packet = put16(packet, spare, 0)
    packet = refreshed(packet)
    at = transport(packet) + CSUM_OFFSET[packets.parse(packet).protocol]
    packet = refreshed(put16(packet, spare, get16(packet, at)))
    assert get16(packet, at) in (0, 0xFFFF)
    return packet


@each_kind
def test_of_two_zeros_only_the_one_that_is_computed_is_merged(offload, version, protocol):
    """Splitting writes 0 for TCP and 0xffff for UDP; where the other is right too, it could not be restored."""
    first, second = stream(version, protocol, [100, 100])
    second = with_zero_checksum(second, len(second) - 2)
    at = transport(second) + CSUM_OFFSET[protocol]
    [run] = offload.merge([first, second])
    assert offload.split(run.vnet, run.data) == [first, second]
    other = put16(second, at, get16(second, at) ^ 0xFFFF)
    assert counts(offload.merge([first, other])) == [1, 1]


def test_an_ipv4_header_checksum_of_ones_is_not_merged(offload):
    first, second = stream(4, TCP, [100, 100], tos=0)
    rest = packets.checksum(put16(put16(second, 10, 0), 4, 0)[:20])
    parts = [refreshed(put16(first, 4, rest - 1)), refreshed(put16(second, 4, rest))]
    assert get16(parts[1], 10) == 0
    assert counts(offload.merge(parts)) == [2]
    assert counts(offload.merge([parts[0], put16(parts[1], 10, 0xFFFF)])) == [1, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_udp_without_checksum_is_not_merged(offload, version):
    parts = [put16(part, transport(part) + 6, 0) for part in stream(version, UDP, [100] * 3)]
    assert counts(offload.merge(parts)) == [1, 1, 1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 7, 8, 107, 109, 65535])
def test_udp_of_another_length_than_ip_is_not_merged(offload, version, length):
    parts = [refreshed(put16(part, transport(part) + 4, length)) for part in stream(version, UDP, [100] * 3)]
    assert counts(offload.merge(parts)) == [1, 1, 1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("words", [0, 4, 15])
def test_tcp_with_an_impossible_data_offset_is_not_merged(offload, version, words):
    parts = stream(version, TCP, [20] * 3)
    parts = [flip(part, transport(part) + 12, (5 ^ words) << 4) for part in parts]
    assert counts(offload.merge(parts)) == [1, 1, 1]


@each_kind
def test_ip_of_another_length_is_not_merged(offload, version, protocol):
    for change in (-1, 1):
        at = 2 if version == 4 else 4
        parts = [refreshed(put16(part, at, get16(part, at) + change)) for part in stream(version, protocol, [100] * 3)]
        assert counts(offload.merge(parts)) == [1, 1, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_other_protocols_are_not_merged(offload, version):
    echoes = [packets.echo(*ENDS[version], 5, n, bytes(100)) for n in range(3)]
    udplite = [put(part, 9 if version == 4 else 6, b"\x88") for part in stream(version, UDP, [100] * 3)]
    for parts in (echoes, udplite):
        assert counts(offload.merge(parts)) == [1, 1, 1]


# ---- Split -----------------------------------------------------------------------------------------------------------


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


@each_kind
@pytest.mark.parametrize("size", [1, 99, 100, 101, 199, 200, 201, 1000])
def test_split_cuts_the_payload_in_equal_pieces_but_the_last(offload, version, protocol, size):
    [packet] = stream(version, protocol, [size])
    vnet, data = super_packet(packet, 100)
    parts = offload.split(vnet, data)
    header_len = len(packet) - size
    assert [len(part) - header_len for part in parts] == [100] * (size // 100) + [size % 100] * (size % 100 > 0)
    assert parts == cut(vnet, data)
    assert [fault for part in parts for fault in packets.faults(part)] == []


@each_kind
def test_split_of_the_largest_packet_into_single_bytes(offload, version, protocol):
    size = 65535 - len(stream(version, protocol, [0])[0])
    vnet, data = super_packet(stream(version, protocol, [size])[0], 1)
    parts = offload.split(vnet, data)
    assert len(parts) == size
    assert [fault for part in parts[:50] + parts[-50:] for fault in packets.faults(part)] == []


def test_split_takes_an_ipv6_payload_of_65535_bytes(offload):
    vnet, data = super_packet(stream(6, TCP, [65535 - 20])[0], 1400)
    assert offload.split(vnet, data) == cut(vnet, data)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_split_counts_the_ipv4_id_up_and_around(offload, protocol):
    vnet, data = super_packet(stream(4, protocol, [400], ident=0xFFFE)[0], 100)
    assert [get16(part, 4) for part in offload.split(vnet, data)] == [0xFFFE, 0xFFFF, 0, 1]


@pytest.mark.parametrize("version", [4, 6])
def test_split_counts_the_tcp_sequence_up_and_around(offload, version):
    vnet, data = super_packet(stream(version, TCP, [400], seq=2 ** 32 - 150)[0], 100)
    sequence = [struct.unpack_from("!I", part, transport(part) + 4)[0] for part in offload.split(vnet, data)]
    assert sequence == [2 ** 32 - 150, 2 ** 32 - 50, 50, 150]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags, expected", [
    (ACK, [ACK, ACK, ACK]),
    (ACK | PSH, [ACK, ACK, ACK | PSH]),
    (ACK | FIN, [ACK, ACK, ACK | FIN]),
    (ACK | CWR, [ACK | CWR, ACK, ACK]),
    (ACK | ECE, [ACK | ECE] * 3),
    (ACK | URG, [ACK | URG] * 3),
    (ACK | PSH | FIN | CWR | ECE, [ACK | CWR | ECE, ACK | ECE, ACK | PSH | FIN | ECE]),
])
def test_split_gives_each_segment_its_flags(offload, version, flags, expected):
    packet = with_flags(stream(version, TCP, [300])[0], flags)
    vnet, data = super_packet(packet, 100, ecn=bool(flags & CWR))
    parts = offload.split(vnet, data)
    assert [part[transport(part) + 13] for part in parts] == expected
    assert [fault for part in parts for fault in packets.faults(part)] == []


@each_kind
def test_split_repeats_the_rest_of_the_headers(offload, version, protocol):
    fields = {"ttl": 33, "tos": 0xB9}
    if version == 6:
        fields.update(flow_label=0xABCDE)
    else:
        fields.update(ip_options=ROUTER_ALERT, dont_fragment=False)
    if protocol == TCP:
        fields.update(options=TIMESTAMPS, window=77, ack=0xDEADBEEF)
    vnet, data = super_packet(stream(version, protocol, [550], **fields)[0], 100)
    assert offload.split(vnet, data) == cut(vnet, data)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_split_repeats_ipv6_extension_headers(offload, protocol):
    for size in (8, 24, 408 if protocol == TCP else 448):
        extensions = ((DESTINATION, bytes([0, size // 8 - 1]) + bytes(size - 2)),)
        vnet, data = super_packet(stream(6, protocol, [550], extensions=extensions)[0], 100)
        parts = offload.split(vnet, data)
        assert parts == cut(vnet, data)
        assert [fault for part in parts for fault in packets.faults(part)] == []


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_split_keeps_the_pseudo_header_of_a_routing_headers_last_stop(offload, protocol):
    last = packets.address("fd00:3::3")
    extensions = ((ROUTING, bytes([0, 2, 4, 1, 0, 0, 0, 0]) + last),)
    vnet, data = super_packet(stream(6, protocol, [550], extensions=extensions)[0], 100, pseudo_destination=last)
    assert offload.split(vnet, data) == cut(vnet, data, pseudo_destination=last)


@each_kind
def test_split_without_a_partial_checksum_computes_it_all(offload, version, protocol):
    [packet] = stream(version, protocol, [550])
    vnet, data = super_packet(packet, 100)
    vnet.flags, vnet.csum_start, vnet.csum_offset = DATA_VALID, 0, 0
    assert offload.split(vnet, packet) == cut(vnet, data)


@each_kind
def test_split_writes_zero_checksums_as_the_kernel_does(offload, version, protocol):
    first, second = stream(version, protocol, [100, 100])
    header_len = len(first) - 100
    second = with_zero_checksum(second, header_len + 50)
    joined = stream(version, protocol, [200])[0][:header_len] + first[header_len:] + second[header_len:]
    parts = offload.split(*super_packet(joined, 100))
    assert parts == [first, second]
    assert get16(parts[1], transport(second) + CSUM_OFFSET[protocol]) == (0 if protocol == TCP else 0xFFFF)


@each_kind
def test_hdr_len_is_only_a_hint(offload, version, protocol):
    vnet, data = super_packet(stream(version, protocol, [550])[0], 100)
    for hdr_len in (0, 1, 0xFFFF):
        vnet.hdr_len = hdr_len
        assert offload.split(vnet, data) == cut(vnet, data)


@each_kind
def test_what_needs_nothing_passes_as_it_is(offload, version, protocol):
    [packet] = stream(version, protocol, [100])
    wrong = put(packet, len(packet) - 1, b"\xEE")
    for flags in (0, DATA_VALID):
        for data in (packet, wrong, b"\x45", b"\xFF" * 100):
            assert offload.split(VnetHeader(flags, GSO_NONE, 9, 9, 9, 9), data) == [data]


@each_kind
@pytest.mark.parametrize("size", [0, 1, 100, 101, 8500])
def test_a_checksum_left_to_us_is_completed(offload, version, protocol, size):
    [packet] = stream(version, protocol, [size])
    vnet, data = super_packet(packet, 0)
    vnet.gso_type = GSO_NONE
    assert data != packet
    assert offload.split(vnet, data) == [packet]


@each_kind
def test_a_completed_checksum_of_zero_is_written_as_ones(offload, version, protocol):
    packet = with_zero_checksum(stream(version, protocol, [100])[0], 60)
    at = transport(packet) + CSUM_OFFSET[protocol]
    vnet, data = super_packet(packet, 0)
    vnet.gso_type = GSO_NONE
    assert offload.split(vnet, data) == [put16(packet, at, 0xFFFF)]


def refused(offload: Offload, vnet: VnetHeader, data: bytes, **changes) -> bool:
    changed = VnetHeader.from_buffer_copy(bytes(vnet))
    for name, value in changes.items():
        setattr(changed, name, value)
    return offload.split(changed, data) is None


@each_kind
def test_split_refuses_a_header_that_does_not_fit_the_packet(offload, version, protocol):
    vnet, data = super_packet(stream(version, protocol, [550])[0], 100)
    assert not refused(offload, vnet, data)
    for gso_type in {GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, 2, 6, 0x7F} - {vnet.gso_type}:
        assert refused(offload, vnet, data, gso_type=gso_type)
        assert refused(offload, vnet, data, gso_type=gso_type | GSO_ECN)
    assert refused(offload, vnet, data, gso_size=0)
    for csum_start in (0, vnet.csum_start - 4, vnet.csum_start + 4, len(data) - 1, len(data), 0xFFFF):
        assert refused(offload, vnet, data, csum_start=csum_start)
    for offset in (0, CSUM_OFFSET[TCP + UDP - protocol], 0xFFFF):
        assert refused(offload, vnet, data, csum_offset=offset)


@each_kind
def test_split_refuses_packets_that_lie_about_their_lengths(offload, version, protocol):
    vnet, data = super_packet(stream(version, protocol, [550])[0], 100)
    assert refused(offload, vnet, data + b"\0")
    for length in range(len(data)):
        assert refused(offload, vnet, data[:length])
    header_len = len(data) - 550
    for length in range(1, header_len + 1):
        at = 2 if version == 4 else 4
        short = put16(data, at, max(length - (40 if version == 6 else 0), 0))[:length]
        assert refused(offload, vnet, short)
    assert refused(offload, vnet, data + bytes(70000))


@each_kind
def test_split_refuses_other_versions_protocols_and_header_lengths(offload, version, protocol):
    vnet, data = super_packet(stream(version, protocol, [550])[0], 100)
    for first_byte in (0x00, 0x40, 0x44, 0x46, 0x4F, 0x55, 0xF5, 0x60 if version == 4 else 0x45):
        assert refused(offload, vnet, put(data, 0, bytes([first_byte])))
    if version == 4:
        for words in range(5):
            lying = put(data, 0, bytes([0x40 + words]))
            assert refused(offload, vnet, lying, flags=0)
            assert refused(offload, vnet, lying, csum_start=words * 4)
    at = 9 if version == 4 else 6
    assert refused(offload, vnet, put(data, at, bytes([1])), flags=0)
    if version == 4:
        assert refused(offload, vnet, put(data, at, bytes([1])))
    if protocol == TCP:
        for words in range(5):
            assert refused(offload, vnet, put(data, transport(data) + 12, bytes([words << 4])))


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_split_refuses_more_extension_headers_than_a_header_may_hold(offload, protocol):
    size = 512 - 40 - (20 if protocol == TCP else 8)
    for fits, length in ((True, size // 8 * 8), (False, size // 8 * 8 + 8)):
        extensions = ((DESTINATION, bytes([0, length // 8 - 1]) + bytes(length - 2)),)
        vnet, data = super_packet(stream(6, protocol, [550], extensions=extensions)[0], 100)
        assert refused(offload, vnet, data) != fits


@pytest.mark.parametrize("start, offset", [(100, 0), (99, 0), (0, 99), (0, 100), (50, 49), (0xFFFF, 0), (0, 0xFFFF),
                                           (0xFFFF, 0xFFFF)])
def test_a_checksum_outside_the_packet_is_refused(offload, start, offset):
    assert offload.split(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset), b"\x45" * 100) is None
    assert offload.split(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, 50, 48), b"\x45" * 100) is not None


def test_nothing_is_refused(offload):
    for gso_type in (GSO_NONE, GSO_TCPV4, GSO_UDP_L4):
        assert offload.split(VnetHeader(NEEDS_CSUM, gso_type, 0, 100, 0, 0), b"") is None


# ---- Both: nothing changes on the wire -------------------------------------------------------------------------------


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


# ---- Hostile bytes ---------------------------------------------------------------------------------------------------


def test_random_bytes_do_no_harm_under_sanitizers(tmp_path):
    program = tmp_path / "fuzz_offload"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror",
                    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", program,
                    TESTS / "native" / "fuzz_offload.c", NATIVE / "offload.c"], check=True)
    done = subprocess.run([program, "4000", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    joined, cut_up = map(int, done.stdout.split())
    assert joined > 1000 and cut_up > 1000, "hardly anything got past the checks: this test shows nothing"
