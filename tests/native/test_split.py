# SPDX-License-Identifier: MIT-0
"""Super-packets taken apart (native/split.c): as the oracle does it, and what is refused."""
import struct

import pytest

import packets
from offload import Offload, VnetHeader, offload_fixture  # noqa: F401  # a fixture
from packets import ACK, DESTINATION, FIN, ROUTING, TCP, UDP
from superpackets import (CSUM_OFFSET, CWR, DATA_VALID, ECE, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP,
                          GSO_UDP_L4, NEEDS_CSUM, PSH, ROUTER_ALERT, TIMESTAMPS, URG, cut, each_kind, get16, put,
                          put16, stream, super_packet, transport, with_flags, with_zero_checksum)


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
def test_split_goes_by_csum_start_behind_more_extension_headers_than_are_parsed(offload, protocol):
    for number in (16, 17, 40):
        extensions = ((DESTINATION, bytes(8)),) * number
        vnet, data = super_packet(stream(6, protocol, [550], extensions=extensions)[0], 100)
        assert offload.split(vnet, data) == cut(vnet, data), number
        assert refused(offload, vnet, data, flags=0), "what the pseudo-header's addresses are cannot be known"


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
