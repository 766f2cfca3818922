# SPDX-License-Identifier: MIT-0
"""What the programs do to packets that are as they should be, and how ways change hands (BPF_PROG_TEST_RUN)."""
import socket
import time

import pytest
from kernelpath import (COOKIE, GWI, GWO, LOOPBACK, RECEIVER, REDIRECT, SLOT, TO_LOOPBACK, UP, frame, header, number, packet,
                        returned)
from packets import TCP, UDP

from gwlbtun.kernel import layout

KINDS = [(version, protocol) for version in (4, 6) for protocol in (TCP, UDP)]
MS = 1_000_000


def in_(world, key):
    return world.maps.flow(key).way[layout.WAY_IN]


def out(world, key):
    return world.maps.flow(key).way[layout.WAY_OUT]


def set_way(world, key, number, **fields):
    flow = world.maps.flow(key)
    for name, value in fields.items():
        setattr(flow.way[number], name, value)
    world.maps.set_flow(key, flow)


# ---- Carried


@pytest.mark.parametrize("version, protocol", KINDS)
@pytest.mark.parametrize("reply", [False, True])
def test_packet_of_a_known_flow_is_stripped(world, version, protocol, reply):
    inner = packet(version, protocol, reply=reply)
    world.add(inner)
    run = world.run_in(frame(inner))
    assert (run.result, run.packet) == (REDIRECT, TO_LOOPBACK + inner)
    assert world.counts() == {"IN_TOTAL": 1, "IN_CARRIED": 1}
    assert world.tally() == (1, len(inner), 0, 0, 0, 0)


@pytest.mark.parametrize("version, protocol", KINDS)
@pytest.mark.parametrize("reply", [False, True])
def test_header_is_put_back(world, version, protocol, reply):
    inner = packet(version, protocol, reply=reply)
    world.add(inner)
    assert world.run_out(inner) == (REDIRECT, returned(inner))
    assert world.counts() == {"OUT_TOTAL": 1, "OUT_CARRIED": 1}
    assert world.tally() == (0, 0, 0, 0, 1, len(inner))


def test_what_leaves_by_gwi_counts_there(world):
    inner = packet()
    world.add(inner)
    world.maps.set_interface(LOOPBACK, SLOT, GWI)
    assert world.run_out(inner)[0] == REDIRECT
    assert world.tally() == (0, 0, 1, len(inner), 0, 0)


@pytest.mark.parametrize("size", [0, 1, 2, 1400, 3300])
def test_any_length_is_carried(world, size):
    inner = packet(payload=bytes(size))
    world.add(inner)
    assert world.run_in(frame(inner)).result == REDIRECT
    assert world.run_out(inner) == (REDIRECT, returned(inner))


def test_outer_fields_that_say_nothing_may_be_any(world):
    inner = packet()
    world.add(inner)
    for fields in {"ttl": 1}, {"tos": 0xB9}, {"ident": 4711}, {"dont_fragment": False}:
        run = world.run_in(frame(inner, **fields))
        assert (run.result, run.packet) == (REDIRECT, TO_LOOPBACK + inner), fields


def test_marks_of_the_uplink_are_gone(world):
    inner = packet()
    world.add(inner)
    context = world.run_in(frame(inner), mark=5, priority=6).context
    assert context[8:12] == bytes(4) and context[32:36] == bytes(4)


def test_flow_tells_when_it_was_seen(world):
    inner = packet()
    key = world.add(inner, seen_s=1)
    world.run_in(frame(inner))
    assert world.maps.flow(key).seen_s == 1000
    world.maps.globals.now_s = 1001
    world.run_out(inner)
    assert world.maps.flow(key).seen_s == 1001


# ---- Ways


def test_first_packet_goes_up_with_a_stamp_and_asks(world):
    inner = packet()
    key = world.add(inner, kernel=False)
    before = time.monotonic_ns()
    assert world.run_in(frame(inner)).result == UP
    way = in_(world, key)
    assert before < way.up_ns < time.monotonic_ns()
    assert (way.kernel, way.left_ns, world.endpoint.wanted) == (0, 0, 1)
    assert out(world, key).up_ns == 0  # each way has its own


def test_way_in_is_in_the_kernel_after_the_fence_of_its_receiver(world):
    inner = packet()
    key = world.add(inner, kernel=False)
    world.run_in(frame(inner))
    world.maps.globals.done_in_ns[RECEIVER + 1] = world.maps.globals.done_out_ns = time.monotonic_ns()
    assert world.run_in(frame(inner)).result == UP
    world.maps.globals.done_in_ns[RECEIVER] = in_(world, key).up_ns
    assert world.run_in(frame(inner)).result == UP
    world.maps.globals.done_in_ns[RECEIVER] = in_(world, key).up_ns + 1
    assert world.run_in(frame(inner)).result == REDIRECT
    assert in_(world, key).kernel == 1
    world.maps.globals.done_in_ns[RECEIVER] = 0
    assert world.run_in(frame(inner)).result == REDIRECT  # once there, it stays


def test_way_out_is_in_the_kernel_after_its_fence(world):
    inner = packet()
    key = world.add(inner, kernel=False)
    assert world.run_out(inner) == (UP, inner)
    assert world.endpoint.wanted == 1
    world.maps.globals.done_in_ns[RECEIVER] = time.monotonic_ns()
    assert world.run_out(inner) == (UP, inner)
    world.maps.globals.done_out_ns = out(world, key).up_ns + 1
    assert world.run_out(inner) == (REDIRECT, returned(inner))
    assert out(world, key).kernel == 1


def test_packet_that_cannot_take_the_kernel_asks_for_nothing(world):
    inner = packet()
    key = world.add(inner, kernel=False)
    world.run_in(frame(inner))
    world.endpoint.wanted = 0
    world.run_in(frame(inner, checksum=1))
    assert (in_(world, key).up_ns, world.endpoint.wanted) == (0, 0)
    world.maps.globals.done_in_ns[RECEIVER] = time.monotonic_ns()
    assert world.run_in(frame(inner)).result == UP  # for what went up before was not in that fence
    assert world.endpoint.wanted == 1


def test_way_in_leaves_by_the_backlog(world):
    inner = packet()
    key = world.add(inner)
    run = world.run_in(frame(inner, checksum=1))
    assert (run.result, run.packet) == (REDIRECT, frame(inner, checksum=1))  # to the uplink once more
    assert world.counts() == {"IN_TOTAL": 1, "IN_UP": 1, "DETOURS": 1}
    assert (in_(world, key).kernel, out(world, key).kernel) == (0, 1)
    assert world.run_in(frame(inner)).packet == frame(inner)
    set_way(world, key, layout.WAY_IN, left_ns=time.monotonic_ns() - layout.DETOUR_NS)
    assert world.run_in(frame(inner)).result == UP


def test_way_comes_back_no_earlier_than_the_last_detour_is_over(world):
    inner = packet()
    key = world.add(inner, kernel=False)
    now = time.monotonic_ns()
    set_way(world, key, layout.WAY_IN, left_ns=now - 250 * MS, up_ns=now - 150 * MS)
    world.maps.globals.done_in_ns[RECEIVER] = now - 100 * MS
    assert world.run_in(frame(inner)).result == UP
    set_way(world, key, layout.WAY_IN, left_ns=now - 250 * MS, up_ns=now - 150 * MS)
    world.maps.globals.done_in_ns[RECEIVER] = now
    assert world.run_in(frame(inner)).result == REDIRECT


def test_way_out_leaves_at_once(world):
    inner = packet()
    key = world.add(inner)
    world.endpoint.aside[GWO] = 1
    assert world.run_out(inner) == (UP, inner)
    assert (in_(world, key).kernel, out(world, key).kernel) == (1, 0)


# ---- A header that changes


@pytest.mark.parametrize("change", [
    dict(geneve_header=header(4, cookie=COOKIE + 1)), dict(port=51235),
    dict(geneve_header=header(4, cookie=COOKIE + 1), checksum=1), dict(geneve_header=b"\x08\x40" + header(4)[2:])])
def test_no_reply_leaves_under_an_old_header(world, change):
    inner = packet()
    key = world.add(inner)
    run = world.run_in(frame(inner, **change))
    assert run.packet == frame(inner, **change)
    assert world.run_out(inner) == (UP, inner)
    assert world.counts()["CHANGES"] == 1
    flow = world.maps.flow(key)
    assert (flow.life, flow.way[0].kernel, flow.way[1].kernel) == (0, 0, 0)
    # However long it lasts, and even if the old header comes back: K has the word.
    world.maps.globals.done_in_ns[RECEIVER] = world.maps.globals.done_out_ns = time.monotonic_ns() + 1000 * MS
    assert world.run_in(frame(inner)).packet == frame(inner)
    assert world.run_out(inner) == (UP, inner)
    assert world.counts()["CHANGES"] == 1


@pytest.mark.parametrize("change", [dict(source="192.0.2.2"), dict(destination="192.0.2.11")])
@pytest.mark.parametrize("more", [{}, dict(geneve_header=header(4, cookie=COOKIE + 1)), dict(checksum=1)])
def test_what_another_sender_sends_is_for_the_threads_to_judge_and_does_nothing_to_the_flow(world, change, more):
    inner = packet()
    key = world.add(inner)
    before = bytes(world.maps.flow(key))
    assert world.run_in(frame(inner, **change, **more)).packet == frame(inner, **change, **more)
    assert bytes(world.maps.flow(key)) == before and world.endpoint.wanted == 0
    assert world.counts() == {"IN_TOTAL": 1, "IN_UP": 1}
    assert world.run_out(inner) == (REDIRECT, returned(inner))
    assert world.run_in(frame(inner)).result == REDIRECT


def test_thread_k_may_say_anything_of_a_flow(world):
    """A flow goes by what is in the map: another port, other addresses, another link."""
    inner = packet()
    world.maps.links[17].gwlb_address, world.maps.links[17].own_address = number("198.51.100.7"), number("198.51.100.8")
    world.maps.links[17].valid, world.maps.links[17].mtu = 1, 1500
    world.maps.links[17].ethernet[:] = bytes(range(14))
    world.add(inner, header(4, cookie=1), gwlb_address=number("198.51.100.7"), own_address=number("198.51.100.8"),
              gwlb_port=socket.htons(1), link=17)
    expected = frame(inner, header(4, cookie=1), source="198.51.100.8", destination="198.51.100.7", port=1,
                     ethernet=bytes(range(14)))
    assert world.run_out(inner) == (REDIRECT, expected)
