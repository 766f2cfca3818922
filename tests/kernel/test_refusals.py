# SPDX-License-Identifier: MIT-0
"""What must go up goes up, and as it came: one case by one (BPF_PROG_TEST_RUN)."""
import struct

import packets
import pytest
from kernelpath import (ENI, GWI, LOOPBACK, REDIRECT, SLOT, TO_LOOPBACK, UP, frame, header, key, packet, returned)

from gwlbtun import geneve
from gwlbtun.kernel import layout


def goes_up(world, given, **context):
    """Be it straight away, or by the backlog."""
    run = world.run_in(given, **context)
    assert run.packet == given
    assert run.result == UP or world.counts().get("DETOURS")
    assert "IN_CARRIED" not in world.counts()


@pytest.mark.parametrize("version", [4, 6])
def test_every_bit_before_the_inner_packet_counts(world, version):
    """But those of the sender's Ethernet address."""
    inner = packet(version)
    whole = frame(inner)
    for bit in range(8 * (14 + layout.OUTER)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        world.add(inner)
        run = world.run_in(bytes(changed))
        if 6 <= bit // 8 < 12:
            assert run.result == REDIRECT
        else:
            assert run.packet == bytes(changed), (bit // 8, bit % 8)
            assert world.maps.flow(key(inner)).way[0].kernel == 0 or run.result == UP


@pytest.mark.parametrize("version", [4, 6])
def test_every_bit_of_the_inner_headers_that_name_the_flow_counts(world, version):
    """What a bit of the inner headers changes is another flow, or no packet that is carried, or Linux's business."""
    inner = packet(version)
    kept = set(range(8)) if version == 4 else {7}  # TTL, checksum, DSCP and so on are judged by Linux
    judged = {0, 2, 3, 6, 7} if version == 4 else {0, 4, 5}
    for bit in range(8 * ((20 if version == 4 else 40) + 4)):
        changed = bytearray(inner)
        changed[bit // 8] ^= 1 << bit % 8
        world.add(inner)
        given = frame(bytes(changed), header(version))
        run = world.run_in(given)
        if run.result == REDIRECT and run.packet != given:
            assert run.packet == TO_LOOPBACK + bytes(changed)
            at = bit // 8
            may_differ = (version, at, bit % 8) in ((4, 6, 6), (4, 6, 7)) or (version, at) == (6, 0)
            assert at not in judged or may_differ, (at, bit % 8)
            assert at in kept | {8, 10, 11} or version == 6 and at < 8


@pytest.mark.parametrize("fields", [
    dict(checksum=0xFFFF), dict(options=b"\1\1\1\0"), dict(more=True, dont_fragment=False),
    dict(fragment_offset=8, dont_fragment=False), dict(to_port=6080), dict(tail=b"\0"), dict(tail=bytes(20))],
    ids=lambda fields: next(iter(fields)))
def test_outer_headers(world, fields):
    inner = packet()
    world.add(inner)
    goes_up(world, frame(inner, **fields))


@pytest.mark.parametrize("at", [14 + 2, 14 + 20 + 4, 14 + 68 + 2], ids=["IPv4", "UDP", "inner IPv4"])
@pytest.mark.parametrize("off", [-1, 1, -20, 300])
def test_lengths_that_disagree(world, at, off):
    inner = packet()
    world.add(inner)
    given = bytearray(frame(inner))
    length = struct.unpack_from("!H", given, at)[0] + off
    struct.pack_into("!H", given, at, length)
    struct.pack_into("!H", given, 24, 0)  # the outer checksum is right again
    struct.pack_into("!H", given, 24, packets.checksum(bytes(given[14:34])))
    goes_up(world, bytes(given))


@pytest.mark.parametrize("off", [-1, 1, 8])
def test_lengths_of_inner_ipv6_that_disagree(world, off):
    inner = bytearray(packet(6))
    world.add(bytes(inner))
    struct.pack_into("!H", inner, 4, struct.unpack_from("!H", inner, 4)[0] + off)
    goes_up(world, frame(bytes(inner)))


def test_frames_that_are_cut_short(world):
    for version in 4, 6:
        inner = packet(version)
        world.add(inner)
        whole = frame(inner)
        for size in range(34, len(whole)):  # the kernel runs no program on less
            goes_up(world, whole[:size])


def test_merged_datagrams(world):
    inner = packet(payload=bytes(1000))
    world.add(inner)
    goes_up(world, frame(inner), gso_size=500, gso_segs=2)
    assert world.run_out(inner, gso_size=500, gso_segs=2) == (UP, inner)


def test_other_ethernet(world):
    inner = packet()
    world.add(inner)
    goes_up(world, frame(inner, ethernet=bytes.fromhex("0200000000ff") + TO_LOOPBACK[6:]))  # somebody else's
    goes_up(world, frame(inner, ethernet=b"\xff" * 6 + TO_LOOPBACK[6:]))
    goes_up(world, frame(inner, ethernet=TO_LOOPBACK[:12] + b"\x86\xdd"))
    goes_up(world, TO_LOOPBACK[:12] + b"\x81\x00\x00\x05" + frame(inner)[12:])


def test_other_geneve_headers(world):
    inner = packet()
    longer = header(4, extra_options=[geneve.Option(0x0102, 1, b"more")])
    reordered = header(4)[:8] + header(4)[20:32] + header(4)[8:20] + header(4)[32:]
    shorter = b"\x05" + header(4)[1:8] + header(4)[8:28]
    for other in longer, reordered, shorter, header(6), header(4, eni=ENI + 1), bytes(40), bytes(8):
        world.add(inner)
        goes_up(world, frame(inner, other))


UNFIT = {
    "ICMP": packets.echo("10.0.1.2", "10.0.2.2", 7),
    "ICMPv6": packets.echo("2001:db8:1::2", "2001:db8:2::2", 7),
    "IPv4 options": packets.udp("10.0.1.2", "10.0.2.2", 40000, 443, b"data", options=b"\1\1\1\1"),
    "first fragment": packets.fragments("10.0.1.2", "10.0.2.2", packets.UDP, packet()[20:] + bytes(40), 24, 5)[0],
    "later fragment": packets.fragments("10.0.1.2", "10.0.2.2", packets.UDP, packet()[20:] + bytes(40), 24, 5)[1],
    "IPv6 fragment": packets.fragments("2001:db8:1::2", "2001:db8:2::2", packets.UDP, packet(6)[40:] + bytes(40), 24, 5)[0],
    "hop by hop": packets.udp("2001:db8:1::2", "2001:db8:2::2", 40000, 443, extensions=((packets.HOP_BY_HOP, bytes(8)),)),
    "several extension headers": packets.udp("2001:db8:1::2", "2001:db8:2::2", 40000, 443, extensions=(
        (packets.HOP_BY_HOP, bytes(8)), (packets.DESTINATION, bytes([0, 1]) + bytes(14)), (packets.ROUTING, bytes(8)),
        (packets.FRAGMENT, bytes(8)))),
    "GRE": packets.ip("10.0.1.2", "10.0.2.2", 47, bytes(20)),
    "UDP without ports": packets.ip("10.0.1.2", "10.0.2.2", 17, b"\1\2\3"),
    "IPv6 UDP without ports": packets.ip("2001:db8:1::2", "2001:db8:2::2", 17, b"\1\2\3"),
}


@pytest.mark.parametrize("inner", UNFIT.values(), ids=UNFIT)
def test_inner_packets(world, inner):
    for known in packet(), packet(6):
        world.add(known)
    world.maps.set_flow(key(inner) if not packets.parse(inner).fragment_offset else bytes(40),
                        world.maps.flow(key(packet())))
    goes_up(world, frame(inner))
    verdict, left = world.run_out(inner)
    assert (verdict, left) == (UP, inner)


@pytest.mark.parametrize("version, name", [
    (4, "IPv4 options"), (4, "first fragment"), (6, "IPv6 fragment"), (6, "hop by hop"), (6, "several extension headers")])
def test_what_goes_up_of_a_flow_takes_its_way_along(world, version, name):
    known, header_of_it = packet(version), header(version)
    world.add(known)
    world.run_in(frame(UNFIT[name], header_of_it))
    world.run_out(UNFIT[name])
    assert [way.kernel for way in world.maps.flow(key(known)).way] == [0, 0]


@pytest.mark.parametrize("extensions", [
    ((packets.HOP_BY_HOP, bytes([0, 255]) + bytes(6)),), ((packets.HOP_BY_HOP, bytes(8)),) * 5,
    ((packets.FRAGMENT, b"\0\0\0\x0b" + bytes(4)),), ((packets.AUTHENTICATION, bytes([0, 2]) + bytes(14)),)],
    ids=["longer than the packet", "more than are looked at", "a later fragment", "AH"])
def test_extension_headers_behind_which_no_flow_is_found(world, extensions):
    world.add(packet(6))
    inner = packets.udp("2001:db8:1::2", "2001:db8:2::2", 40000, 443, bytes(100), extensions=extensions)
    goes_up(world, frame(inner))
    assert world.run_out(inner) == (UP, inner)
    assert [way.kernel for way in world.maps.flow(key(packet(6))).way] == [1, 1]


@pytest.mark.parametrize("version, protocol", [(4, packets.TCP), (4, packets.UDP), (6, packets.TCP), (6, packets.UDP)])
@pytest.mark.parametrize("size", [0, 1, 1400])
def test_checksum_that_is_left_to_the_device(world, version, protocol, size):
    """Linux then leaves the sum of the pseudo-header in the field (include/linux/skbuff.h)."""
    whole = packet(version, protocol, bytes(size))
    world.add(whole)
    parsed = packets.parse(whole)
    at = parsed.transport + (16 if protocol == packets.TCP else 6)
    pseudo = packets.pseudo_header(version, parsed.source, parsed.destination, protocol, len(whole) - parsed.transport)
    unfinished = whole[:at] + struct.pack("!H", packets.checksum(pseudo) ^ 0xffff) + whole[at + 2:]
    assert world.run_out(whole) == (REDIRECT, returned(whole))
    assert world.run_out(unfinished) == (UP, unfinished)
    assert [way.kernel for way in world.maps.flow(key(whole)).way] == [1, 0]


def test_unknown_flow_and_endpoint(world):
    inner = packet()
    goes_up(world, frame(inner))
    assert world.run_out(inner) == (UP, inner)
    assert world.counts()["OUT_NO_FLOW"] == 1
    world.add(inner)
    world.maps.forget_eni(ENI)
    goes_up(world, frame(inner))
    world.maps.forget_interface(LOOPBACK)
    assert world.run_out(inner) == (UP, inner)


def _off(world):
    world.maps.globals.on = 0


def _endpoint_off(world):
    world.endpoint.on = 0


def _next_life(world):
    world.endpoint.life += 1


def _lease_over(world):
    world.maps.globals.lease_ns = 1


@pytest.mark.parametrize("change", [_off, _endpoint_off, _next_life, _lease_over])
def test_both_ways_are_off(world, change):
    inner = packet()
    world.add(inner)
    change(world)
    goes_up(world, frame(inner))
    assert world.run_out(inner) == (UP, inner)


def test_lease_that_runs(world):
    inner = packet()
    world.add(inner)
    world.maps.globals.lease_ns = 1 << 62
    assert world.run_out(inner) == (REDIRECT, returned(inner))
    assert world.run_in(frame(inner)).packet == TO_LOOPBACK + inner


def test_aside_is_for_one_side(world):
    inner = packet()
    world.add(inner)
    world.endpoint.aside[GWI] = 1
    assert world.run_out(inner)[0] == REDIRECT
    world.maps.set_interface(LOOPBACK, SLOT, GWI)
    assert world.run_out(inner) == (UP, inner)


@pytest.mark.parametrize("field, value", [("valid", 0), ("gwlb_address", 1), ("own_address", 1), ("mtu", 103)])
def test_link_that_does_not_hold(world, field, value):
    inner = packet(payload=bytes(8))  # 104 bytes with the outer headers
    world.add(inner)
    setattr(world.link, field, value)
    assert world.run_out(inner) == (UP, inner)
    assert world.counts()["OUT_NO_LINK"] == 1
    world.link.mtu = 104


def test_widest_packet_of_a_link(world):
    inner = packet(payload=bytes(8))
    world.add(inner)
    world.link.mtu = 104
    assert world.run_out(inner)[0] == REDIRECT


def test_no_header_of_another_endpoint_is_put_back(world):
    inner = packet()
    world.add(inner, header(4, eni=ENI + 1))
    assert world.run_out(inner) == (UP, inner)
