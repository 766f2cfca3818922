# SPDX-License-Identifier: MIT-0
"""What the flow table is made of, part by part: the hash, the pool of entries, and who makes room."""
import ctypes
import random
import struct
import subprocess
from ctypes import POINTER, c_uint, c_uint32, c_uint64, c_void_p

import pytest

from test_native import FLAGS, NATIVE

# Inline functions and structures, as functions that ctypes can call.
ROOMS = """
#include <stdlib.h>
#include <string.h>
#include "flow_entry.h"
#include "flow_evict.h"
#include "siphash.h"

uint64_t hash(const uint64_t *secret, const uint64_t *words, unsigned count)
{
	return gw_siphash(secret, words, count);
}

static void *zeroed(size_t size)
{
	return memset(aligned_alloc(64, (size + 63) / 64 * 64), 0, size);
}

/* By the allocator that made it, which may be a sanitizer's. */
void discard(void *memory)
{
	free(memory);
}

struct gw_flow_pool *make_pool(uint32_t max)
{
	struct gw_flow_pool *pool = zeroed(sizeof(*pool) + (max + 1) * sizeof(struct gw_flow_entry));

	gw_flow_pool_init(pool, sizeof(*pool), max);
	return pool;
}

struct gw_flow_shares *make_shares(unsigned slots)
{
	struct gw_flow_shares *shares = zeroed(sizeof(*shares) + slots * sizeof(struct gw_flow_slot));

	shares->slots_at = sizeof(*shares);
	shares->slots = slots;
	return shares;
}

/* What word 4 of an entry of this slot holds; hold: whether it is counted. */
void set(struct gw_flow_shares *shares, struct gw_flow_pool *pool, uint32_t index, unsigned slot, uint32_t seen, int hold)
{
	struct gw_flow_entry *entry = gw_flow_entry_at(pool, index);

	gw_entry_put(&entry->word[4], GW_KEY_WORD(1, 17, 4, 0, slot));
	entry->seen = seen;
	if (hold)
		gw_flow_hold(shares, slot);
}

void let_go(struct gw_flow_shares *shares, unsigned slot)
{
	gw_flow_let_go(shares, slot);
}

unsigned holders(const struct gw_flow_shares *shares)
{
	return shares->holders;
}

unsigned continuations(unsigned header_len)
{
	return gw_header_continuations(header_len);
}
"""


class Victim(ctypes.Structure):
    _fields_ = [("index", c_uint32), ("seen", c_uint32), ("slot", c_uint)]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rooms")
    source, library = directory / "rooms.c", directory / "rooms.so"
    source.write_text(ROOMS)
    subprocess.run(["cc", *FLAGS, "-O2", "-fPIC", "-shared", f"-I{NATIVE}", "-o", library, source,
                    NATIVE / "flow_pool.c", NATIVE / "flow_evict.c"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.hash.restype, loaded.hash.argtypes = c_uint64, (POINTER(c_uint64), POINTER(c_uint64), c_uint)
    for name in "make_pool", "make_shares":
        getattr(loaded, name).restype = c_void_p
    loaded.gw_flow_pool_take.argtypes = (c_void_p,)
    loaded.gw_flow_pool_give.argtypes = (c_void_p, c_uint32)
    loaded.set.argtypes = (c_void_p, c_void_p, c_uint32, c_uint, c_uint32, ctypes.c_int)
    loaded.let_go.argtypes = (c_void_p, c_uint)
    loaded.holders.argtypes = (c_void_p,)
    loaded.gw_flow_victim.restype, loaded.gw_flow_victim.argtypes = Victim, (c_void_p, c_void_p, c_uint)
    loaded.discard.argtypes = (c_void_p,)
    return loaded


# ---- The hash --------------------------------------------------------------------------------------------------------


def siphash(compressions, finals, key, data):
    """SipHash as its paper describes it."""
    mask = (1 << 64) - 1
    v = [half ^ constant for half, constant in zip(key * 2, (0x736F6D6570736575, 0x646F72616E646F6D,
                                                            0x6C7967656E657261, 0x7465646279746573))]

    def turn(value, bits):
        return (value << bits | value >> (64 - bits)) & mask

    def rounds(number):
        for _ in range(number):
            for a, b, c, d, first, second in (0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21):
                v[a], v[c] = (v[a] + v[b]) & mask, (v[c] + v[d]) & mask
                v[b], v[d] = turn(v[b], first) ^ v[a], turn(v[d], second) ^ v[c]
                v[a] = turn(v[a], 32)
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for word, in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(compressions)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(finals)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash_1_3(rooms):
    assert siphash(2, 4, struct.unpack("<2Q", bytes(range(16))), bytes(range(15))) == 0xA129CA6149BE45E5  # the paper's
    rng = random.Random(13)
    for count in list(range(8)) * 10:
        key, words = ([rng.getrandbits(64) for _ in range(number)] for number in (2, count))
        found = rooms.hash((c_uint64 * 2)(*key), (c_uint64 * 8)(*words), count)
        assert found == siphash(1, 3, tuple(key), struct.pack(f"<{count}Q", *words))


# ---- The pool --------------------------------------------------------------------------------------------------------


def test_the_pool_gives_every_entry_once_and_what_came_back_first(rooms):
    pool = rooms.make_pool(20)
    assert [rooms.gw_flow_pool_take(pool) for _ in range(22)] == [*range(1, 21), 0, 0]
    for index in 3, 20, 7:
        rooms.gw_flow_pool_give(pool, index)
    assert [rooms.gw_flow_pool_take(pool) for _ in range(4)] == [7, 20, 3, 0]
    rooms.discard(pool)


def test_memory_is_used_from_the_first_entry_up(rooms):
    pool = rooms.make_pool(20)
    for _ in range(100):
        rooms.gw_flow_pool_give(pool, rooms.gw_flow_pool_take(pool))
    assert [rooms.gw_flow_pool_take(pool) for _ in range(2)] == [1, 2]
    rooms.discard(pool)


@pytest.mark.parametrize("header_len, number", [(0, 0), (64, 0), (65, 1), (184, 1), (185, 2), (260, 2)])
def test_a_long_header_takes_continuations(rooms, header_len, number):
    assert rooms.continuations(header_len) == number


# ---- Who makes room --------------------------------------------------------------------------------------------------


class Table:
    """A pool that is full, and who holds its entries: a list of pairs of slot and time, from index 1."""

    def __init__(self, rooms, entries, slots=8):
        self.rooms, self.pool, self.shares = rooms, rooms.make_pool(len(entries)), rooms.make_shares(slots)
        self.entries = entries
        for index, (slot, seen) in enumerate(entries, 1):
            rooms.set(self.shares, self.pool, index, slot, seen, slot < slots)

    def victims(self, slot, times=50):
        """Slots and times of those that would go for an entry of a slot; None: nobody."""
        found = [self.rooms.gw_flow_victim(self.shares, self.pool, slot) for _ in range(times)]
        for victim in found:
            assert not victim.index or self.entries[victim.index - 1] == (victim.slot, victim.seen)
        return {(victim.slot, victim.seen) if victim.index else None for victim in found}

    def close(self):
        self.rooms.discard(self.pool)
        self.rooms.discard(self.shares)


@pytest.fixture
def full(rooms):
    made = []

    def make(*entries):
        made.append(Table(rooms, [entry for entry, number in entries for _ in range(number)]))
        return made[-1]
    yield make
    for table in made:
        table.close()


def test_who_has_used_up_its_share_loses_its_own(full):
    table = full(((0, 1), 40), ((1, 5), 60))
    assert table.victims(1) == {(1, 5)}


def test_who_is_within_its_share_takes_from_who_is_not(full):
    table = full(((0, 1), 20), ((1, 5), 70), ((2, 3), 10))
    assert table.victims(0) == table.victims(2) == table.victims(7) == {(1, 5)}


def test_the_oldest_of_those_that_may_go_goes(full):
    table = full(((0, 1), 20), ((1, 5), 60), ((1, 2), 20))
    assert table.victims(0) == table.victims(1) == {(1, 2)}


def test_times_are_compared_across_the_end_of_their_range(full):
    assert full(((0, 0xFFFFFFFF), 50), ((0, 5), 50)).victims(0) == {(0, 0xFFFFFFFF)}


def test_a_rare_flow_is_found_that_is_the_only_one_that_may_go(full):
    """Continuations and fragments count in what a slot holds; here, nearly all that the slot holds is continuations."""
    table = full(((0, 1), 30), ((1, 0), 69), ((1, 5), 1))
    assert table.victims(1) == table.victims(0) == {(1, 5)}


def test_of_a_table_shared_evenly_each_loses_its_own(full):
    table = full(((0, 1), 25), ((1, 2), 25), ((2, 3), 25), ((3, 4), 25))
    assert table.victims(3) == {(3, 4)}
    assert table.victims(4) == {(0, 1)}, "a fifth makes the shares smaller, so all are above theirs"


def test_where_nothing_may_go_nobody_goes(full):
    assert full(((0, 0), 100)).victims(0) == {None}


def test_an_entry_that_is_no_flow_any_more_is_passed_over(full):
    """Its slot may be any number then: it has just become a continuation, and holds what a sender wrote."""
    assert full(((65535, 1), 50), ((0, 5), 50)).victims(0) == {(0, 5)}
    assert full(((65535, 1), 100)).victims(0) == {None}


def test_holders_are_the_slots_that_hold_anything(rooms, full):
    table = full(((0, 1), 2), ((3, 1), 1))
    assert rooms.holders(table.shares) == 2
    for slot, left in (0, 2), (0, 1), (3, 0):
        rooms.let_go(table.shares, slot)
        assert rooms.holders(table.shares) == left
