# SPDX-License-Identifier: MIT-0
"""Who makes room in a full flow table: each endpoint has a share, and a flood in one costs no other its flows."""

import pytest

from test_native import Flows, parts  # noqa: F401  # a fixture

QUIET = 100
FLOODS = {"5-tuples": {}, "fragments": {"kind": 1}, "long headers": {"header_len": 260}}
each_flood = pytest.mark.parametrize("flood", FLOODS)


@pytest.fixture
def table(parts, request):  # noqa: F811
    made = Flows(parts, request.param, 1024)
    yield made
    made.close()


sized = pytest.mark.parametrize("table", [1024], indirect=True)


def known(table, numbers, **where):
    """How many of these flows the table still has. Looking makes none of them younger."""
    return sum(table.find(number, now=1, **where) is not None for number in numbers)


@sized
@each_flood
def test_a_flood_evicts_its_own(table, flood):
    for number in range(QUIET):
        table.learn(number, cookie=number, now=1)
    for number in range(20000):
        assert table.learn(number, cookie=number, now=5, slot=1, **FLOODS[flood]) == 0
    assert known(table, range(QUIET)) == QUIET == table.count()
    assert table.evicted() == 0
    assert table.entries() <= 1024
    entries_of_flow = 3 if flood == "long headers" else 1
    expected = 0 if flood == "fragments" else 20000 - (1024 - QUIET) // entries_of_flow
    assert abs(table.evicted(slot=1) - expected) <= 1


@sized
@each_flood
def test_who_came_first_with_a_flood_gives_up_all_but_its_share(table, flood):
    for number in range(5000):
        table.learn(number, cookie=number, now=1, slot=1, **FLOODS[flood])
    for number in range(512):
        assert table.learn(number, cookie=number, now=1) == 0
    assert known(table, range(512)) == 512
    assert table.evicted() == 0 and table.entries() <= 1024


@sized
def test_floods_in_several_leave_who_is_within_its_share_alone(table):
    for number in range(QUIET):
        table.learn(number, cookie=number, now=1, family=6)
    for number in range(20000):
        table.learn(number, cookie=number, now=5, slot=1 + number % 7)
    assert known(table, range(QUIET), family=6) == QUIET
    held = [table.count(slot=slot) for slot in range(1, 8)]
    assert sum(held) == 1024 - QUIET and max(held) - min(held) <= 16


@sized
def test_quiet_endpoints_together_fill_the_table_up_to_their_shares(table):
    for slot in range(64):
        for number in range(14):
            table.learn(number, cookie=number, now=1, slot=slot)
    for number in range(20000):
        table.learn(number, cookie=number, now=5, slot=64)
    assert sum(known(table, range(14), slot=slot) for slot in range(64)) == 64 * 14
    assert table.count(slot=64) == 1024 - 64 * 14


@pytest.mark.parametrize("table", [1 << 14], indirect=True)
def test_a_share_too_small_to_be_found_at_once_grows_by_little(table):
    """Of 512 endpoints each has its share, a flow in 512: samples may miss those of the one that floods."""
    for slot in range(512):
        for number in range(32):
            table.learn(number, cookie=number, now=1, slot=slot)
    for number in range(1000, 51000):
        assert table.learn(number, cookie=number, now=5, slot=0) == 0
    assert table.entries() == 1 << 14
    assert table.count(slot=0) <= (1 << 14) // 50
    assert min(table.count(slot=slot) for slot in range(512)) >= 24


@sized
def test_alone_in_the_table_an_endpoint_has_all_of_it_and_loses_its_oldest(table):
    for number in range(1024):
        table.learn(number, cookie=number, now=1 if number < 512 else 2)
    for number in range(2000, 2400):
        table.learn(number, cookie=number, now=3)
    assert known(table, range(512, 1024)) == 512 and known(table, range(2000, 2400)) == 400
    assert table.count() == 1024 and table.evicted() == 400


@sized
def test_what_is_forgotten_leaves_its_share_and_its_counts(table):
    for number in range(3000):
        table.learn(number, cookie=number, now=1, slot=number % 2)
    assert 450 <= table.count(slot=0) <= 575 and table.evicted(slot=0) > 900
    table.parts.gw_flows_forget(table.table, 0)
    assert table.count(slot=0) == table.evicted(slot=0) == 0
    evicted = table.evicted(slot=1)
    for number in range(5000, 5000 + 1024 - table.count(slot=1)):
        table.learn(number, cookie=number, now=1, slot=1)
    assert table.count(slot=1) == 1024 and table.evicted(slot=1) == evicted
