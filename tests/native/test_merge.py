# SPDX-License-Identifier: MIT-0
"""Super-packets made (native/merge.c): every rule, and how they are written."""
import ctypes
import random
from typing import List, NamedTuple, Tuple

import pytest

import packets
from offload import Merge, Packet, offload_fixture  # noqa: F401  # a fixture
from packets import ACK, DESTINATION, FIN, SYN, TCP, UDP
from superpackets import (AE, CSUM_OFFSET, CWR, ECE, ENDS, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, KINDS, KIND_IDS,
                          NEEDS_CSUM, PSH, ROUTER_ALERT, RST, TIMESTAMPS, URG, counts, each_kind, flip, get16, put,
                          put16, random_stream, refreshed, stream, super_packet, transport, with_flags, with_zero_checksum)


# ---- What is merged, and how it is written ---------------------------------------------------------------------------


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


@each_kind
def test_what_is_known_of_a_packet_goes_along_with_it(offload, version, protocol):
    for flags, size, mergeable in ((ACK, 100, True), (ACK, 0, False), (ACK | FIN, 100, protocol == UDP)):
        fields = {"options": TIMESTAMPS, "flags": flags} if protocol == TCP else {}
        [packet] = stream(version, protocol, [size], **fields)
        _, (parsed, _) = offload.inspect(packet)
        assert (parsed.l4_offset, parsed.payload_offset) == (transport(packet), len(packet) - size)
        assert (parsed.protocol, parsed.mergeable) == (protocol, mergeable)


def test_of_a_packet_that_follows_another_the_same_is_known_as_if_it_were_parsed(offload):
    follow = {True: 0, False: 0}
    for seed in range(300):
        before = None  # with the memory that it lies in
        for packet in random_stream(random.Random(seed)):
            _, (parsed, memory) = offload.inspect(packet)
            found = Packet()
            if before and offload.library.gw_packet_follows(before[0], memory, len(packet), found):
                assert found.found() == {**offload.parse(memory, found.len).found(), "fragment_id": 0}, f"seed {seed}"
                assert found.data == ctypes.addressof(memory)
                follow[found.mergeable] += 1
            before = (parsed, memory) if parsed.family else None
    assert min(follow.values()) > 100, "hardly any packet followed another: this test shows nothing"


# ---- Rules -----------------------------------------------------------------------------------------------------------


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
