# SPDX-License-Identifier: MIT-0
"""Flows by family and protocol: when each is idle, and how many there are, against a model in Python."""
import itertools
import random

import pytest

from gwlbtun.flowcaches import CLASSES
from test_native import Flows, parts  # noqa: F401  # a fixture

FLOW, FRAGMENT, ICMP_ERROR = range(3)
TCP, UDP, GRE = 6, 17, 47
ICMP = {4: 1, 6: 58}
NOT_AT_ALL = None


def class_of(family, protocol, kind):
    """The index of what a key counts as."""
    if kind == FRAGMENT:
        return NOT_AT_ALL
    return CLASSES.index((family, {TCP: "TCP", UDP: "UDP"}.get(protocol, "Other")))


@pytest.fixture
def table(parts, request):  # noqa: F811
    made = Flows(parts, getattr(request, "param", 4096))
    yield made
    made.close()


def sizes(table, slot=0):
    return [count.size for count in table.classes(slot)]


def timed_out(table, slot=0):
    return [count.timed_out for count in table.classes(slot)]


each_family = pytest.mark.parametrize("family", [4, 6])


@each_family
@pytest.mark.parametrize("protocol, kind, idle_s", [
    (TCP, FLOW, 350), (UDP, FLOW, 120), (GRE, FLOW, 120), (0, FLOW, 120), (255, FLOW, 120), ("icmp", FLOW, 120),
    ("icmp", ICMP_ERROR, 120), (TCP, FRAGMENT, 30), (UDP, FRAGMENT, 30), ("icmp", FRAGMENT, 30)])
def test_each_kind_is_idle_after_its_own_time(table, family, protocol, kind, idle_s):
    protocol = ICMP[family] if protocol == "icmp" else protocol
    where = {"family": family, "protocol": protocol, "kind": kind}
    table.learn(1, cookie=1, now=1000, **where)
    kept = class_of(family, protocol, kind)
    expected = [int(index == kept) for index in range(len(CLASSES))]
    assert table.expire(1000 + idle_s, 350, 120) == 0
    assert sizes(table) == expected and table.entries() == 1
    assert table.expire(1001 + idle_s, 350, 120) == 1
    assert sizes(table) == [0] * 6 and timed_out(table) == expected and table.entries() == 0


@pytest.mark.parametrize("tcp_s, other_s", [(1, 1), (1, 86_400), (86_400, 1), (86_400, 86_400), (10, 29), (10, 31)])
@pytest.mark.parametrize("begin", [1, 0x7FFFFFF0, 0xFFFFFFF0], ids=["early", "half", "wrap"])
def test_times_at_their_limits_and_across_the_end_of_the_clock(table, tcp_s, other_s, begin):
    limits = {1: tcp_s, 2: other_s, 3: min(other_s, 30)}
    table.learn(1, cookie=1, now=begin, protocol=TCP)
    table.learn(2, cookie=2, now=begin)
    table.learn(3, cookie=3, now=begin, protocol=TCP, kind=FRAGMENT)
    for ahead in sorted({limit + more for limit in limits.values() for more in (0, 1)}):
        table.expire((begin + ahead) & 0xFFFFFFFF, tcp_s, other_s)
        assert table.entries() == sum(ahead <= limit for limit in limits.values())


def test_a_clock_that_is_behind_forgets_nothing(table):
    """A thread may have read the clock before another did."""
    for number, protocol in enumerate((TCP, UDP, GRE)):
        table.learn(number, cookie=1, now=500, protocol=protocol)
    assert [table.expire(now, 1, 1) for now in (499, 400, 1)] == [0, 0, 0]
    assert table.expire(502, 1, 1) == 3


def test_a_packet_in_either_direction_keeps_it_alive(table):
    table.learn(1, cookie=1, now=100)
    table.learn(2, cookie=2, now=100, protocol=TCP)
    for now in range(200, 1000, 100):
        assert table.find(1, now=now)
        assert table.learn(2, cookie=2, now=now, protocol=TCP) == 0
        assert table.expire(now, 350, 120) == 0


@pytest.mark.parametrize("table", [512], indirect=True)
def test_a_full_table_counts_what_it_evicts_under_its_own_class(table):
    """Kinds do not matter to who goes: it is the oldest of those above their share."""
    kinds = list(itertools.product((4, 6), (TCP, UDP, GRE)))
    for number in range(6000):
        family, protocol = kinds[number % 6]
        assert table.learn(number, cookie=number, now=1 + number // 512, family=family, protocol=protocol) == 0
    counts = table.classes()
    assert sum(count.size for count in counts) == table.entries() == 512
    assert all(count.size + count.evicted == 1000 and count.timed_out == 0 for count in counts)
    assert min(count.evicted for count in counts) > 800


@pytest.mark.parametrize("table", [512], indirect=True)
def test_a_flood_of_one_class_in_one_endpoint_costs_no_other_endpoint_a_flow(table):
    for number in range(100):
        table.learn(number, cookie=1, now=1, protocol=(TCP, UDP, GRE)[number % 3])
    for number in range(10000):
        table.learn(number, cookie=1, now=9, slot=1)
    assert sizes(table) == [34, 33, 33, 0, 0, 0]
    assert sizes(table, 1) == [0, 412, 0, 0, 0, 0]
    assert [count.evicted for count in table.classes(1)] == [0, 10000 - 412, 0, 0, 0, 0]


class Model:
    """What a table that is never full must hold and have counted."""

    def __init__(self, slots):
        self.seen = {}
        self.timed_out = {slot: [0] * 6 for slot in range(slots)}

    def expire(self, now, tcp_s, other_s):
        for key, seen in list(self.seen.items()):
            _, slot, family, kind, protocol = key
            limit = min(other_s, 30) if kind == FRAGMENT else tcp_s if protocol == TCP else other_s
            if now - seen > limit:
                del self.seen[key]
                index = class_of(family, protocol, kind)
                if index is not NOT_AT_ALL:
                    self.timed_out[slot][index] += 1

    def sizes(self, slot):
        found = [0] * 6
        for (_, at, family, kind, protocol) in self.seen:
            index = class_of(family, protocol, kind)
            if at == slot and index is not NOT_AT_ALL:
                found[index] += 1
        return found


@pytest.mark.parametrize("seed", range(3))
def test_under_random_churn_the_counts_are_those_of_a_model(table, seed):
    rng, model, now = random.Random(seed), Model(slots=4), 1
    for step in range(12000):
        family, kind = rng.choice((4, 6)), rng.choice((FLOW, FLOW, FLOW, FRAGMENT, ICMP_ERROR))
        protocol = ICMP[family] if kind == ICMP_ERROR else rng.choice((TCP, UDP, GRE, ICMP[family]))
        where = {"slot": rng.randrange(4), "family": family, "kind": kind, "protocol": protocol}
        number = rng.randrange(40)
        key = (number, *where.values())
        now += rng.random() < 0.05
        if rng.random() < 0.6:  # a header that changes replaces the entry
            table.learn(number, cookie=rng.randrange(3), now=now, header_len=rng.choice((40, 40, 180)), **where)
            model.seen[key] = now
        else:
            assert (table.find(number, now=now, **where) is not None) == (key in model.seen)
            if key in model.seen:
                model.seen[key] = now
        if step % 100 == 99:
            tcp_s, other_s = rng.choice(((9, 3), (3, 9), (40, 35), (1, 1)))
            before = len(model.seen)
            model.expire(now, tcp_s, other_s)
            assert table.expire(now, tcp_s, other_s) == before - len(model.seen)
        if step % 3000 == 2999:
            slot = rng.randrange(4)
            table.parts.gw_flows_forget(table.table, slot)
            model.seen = {key: seen for key, seen in model.seen.items() if key[1] != slot}
            model.timed_out[slot] = [0] * 6
        if step % 500 == 0:
            assert [sizes(table, slot) for slot in range(4)] == [model.sizes(slot) for slot in range(4)]
            assert [timed_out(table, slot) for slot in range(4)] == list(model.timed_out.values())
