# SPDX-License-Identifier: MIT-0
"""Turns: first come, first served, so many at a time, and no longer than they last."""
import threading
import time

import pytest

from gwlbtun import turns
from gwlbtun.turns import Turns


def waiting(line, stop=None):
    """A thread that takes a turn, and the list that has it then."""
    taken = []
    before = len(line._line)
    thread = threading.Thread(target=lambda: taken.append(line.take(stop)), daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while len(line._line) == before and not taken:
        assert time.monotonic() < end
    return thread, taken


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 1000)


def test_first_come_first_served(patient):
    line = Turns(1)
    turn = line.take()
    others = [waiting(line) for _ in range(5)]
    for thread, taken in others:
        assert not any(taken for _, taken in others)
        turn.end()
        turn.end()  # counts once
        thread.join(10)
        turn, = taken
        taken.clear()


def test_so_many_at_a_time(patient):
    line = Turns(3)
    held = [line.take() for _ in range(3)]
    thread, taken = waiting(line)
    thread.join(0.3)
    assert not taken
    with held[1]:
        pass
    thread.join(10)
    assert taken and taken[0] is not None


def test_a_stop_is_heard_in_the_line_wherever_it_is_waited(patient):
    line = Turns(1)
    turn = line.take()
    stop = threading.Event()
    stoppable = [waiting(line, stop) for _ in range(3)]
    last = waiting(line)
    stoppable += [waiting(line, stop) for _ in range(3)]
    stop.set()
    for thread, taken in stoppable:
        thread.join(10)
        assert taken == [None]
    assert line.take(stop) is None
    assert not last[1]
    turn.end()
    last[0].join(10)
    assert last[1]


def test_those_who_hang_lose_their_turn_and_no_other(monkeypatch):
    monkeypatch.setattr(turns, "TURN_S", 0.2)
    line = Turns(1)
    hanging = line.take()
    time.sleep(0.3)
    assert hanging in line._taken  # nobody else needs it
    second = line.take()
    hanging.renew()
    hanging.end()
    monkeypatch.setattr(turns, "TURN_S", 1000)
    second.renew()
    thread, taken = waiting(line)
    thread.join(0.3)
    assert not taken
    second.end()
    thread.join(10)
    assert taken
