# SPDX-License-Identifier: MIT-0
"""What watches in the background: drops are summed up, and threads that fail are noticed."""
import collections
import errno
import os
import threading

import pytest

from gwlbtun import watch
from gwlbtun.logs import Level
from gwlbtun.watch import DropWatch
from gwlbtun.worker import Worker
from logbook import LINE

TEXTS = {"drop_ring_full": "the queue is full", "drop_no_eni": "there is no ENI ID", "drop_no_flow": "it has no flow",
         "drop_no_return": "nothing goes back", "drop_not_ip": "it is no IP"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    class Clock:
        now = 1000.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: Clock.now)
    return Clock


def said(book, level):
    book.log.stop()
    matches = [LINE.fullmatch(line) for line in book.lines()]
    return [match["text"] for match in matches if match["level"] == level.name.lower()]


def test_drops_are_summed_up_in_one_line_per_interval(book, clock):
    drops = DropWatch(TEXTS, book.log)
    totals = collections.Counter()
    for _ in range(25):
        totals.update(drop_ring_full=2, drop_no_eni=1, packets_in=5)
        drops.look(totals)
        clock.now += 1
    assert said(book, Level.IMPORTANT) == [
        f"Packets dropped: {2 * seconds} because the queue is full; {seconds} because there is no ENI ID."
        for seconds in (1, 10, 10)]


def test_the_end_of_a_fault_is_told_once(book, clock):
    drops = DropWatch(TEXTS, book.log)
    totals = collections.Counter()
    for second in range(60):
        if second < 5 or second == 40:
            totals.update(drop_ring_full=1)
        totals.update(drop_no_eni=second == 2)  # what others send is no fault of this host
        drops.look(totals)
        clock.now += 1
    assert said(book, Level.IMPORTANT) == [
        "Packets dropped: 1 because the queue is full.",
        "Packets dropped: 4 because the queue is full; 1 because there is no ENI ID.",
        "That is over: for 10 s no packet has been dropped because the queue is full.",
        "Packets dropped: 1 because the queue is full.",
        "That is over: for 10 s no packet has been dropped because the queue is full."]


def test_drops_of_the_kernel_count_too_and_noise_is_only_info(book, clock):
    drops = DropWatch(TEXTS, book.log)
    drops.look(collections.Counter(drop_no_flow=3, drop_not_ip=4))
    clock.now += watch.INTERVAL_S
    drops.look(collections.Counter(drop_no_flow=3, drop_not_ip=4, socket_drops=5))
    important, = said(book, Level.IMPORTANT)
    assert important.startswith("Packets dropped: 5 because the receivers do not keep up") and "--rcvbuf" in important
    assert said(book, Level.INFO) == ["Packets dropped: 3 because it has no flow; 4 because it is no IP."]


def test_nothing_lost_is_nothing_said(book, clock):
    drops = DropWatch(TEXTS, book.log)
    drops.look(collections.Counter(packets_in=10**9))
    assert said(book, Level.IMPORTANT) == []


def test_a_worker_bears_its_name_and_core(book):
    core = min(os.sched_getaffinity(0))
    seen = {}
    done = threading.Event()

    def body():
        with open("/proc/thread-self/comm", encoding="ascii") as file:
            seen.update(comm=file.read().strip(), cores=os.sched_getaffinity(0), id=threading.get_native_id())
        done.wait(10)
    worker = Worker(book.log, "gwlbtun UA003", body, 3, core)
    worker.start()
    assert worker.alive and worker.native_id != threading.get_native_id()
    done.set()
    worker.join(10)
    assert seen == {"comm": "gwlbtun UA003", "cores": {core}, "id": worker.native_id}
    assert not worker.alive and worker.failure is None


def test_an_affinity_that_is_refused_is_told_and_the_worker_runs(book):
    ran = threading.Event()
    worker = Worker(book.log, "gwlbtun TA999", ran.set, 999, 999)
    worker.start()
    worker.join(10)
    assert ran.is_set() and worker.failure is None
    told, = said(book, Level.IMPORTANT)
    assert "refuses core 999 to thread gwlbtun TA999" in told


def test_a_worker_does_not_inherit_a_core(book):
    before = os.sched_getaffinity(0)
    seen = []
    inner = Worker(book.log, "inner", lambda: seen.append(os.sched_getaffinity(0)))

    def body():
        inner.start()
        inner.join(10)
    outer = Worker(book.log, "outer", body, core=min(before))
    outer.start()
    outer.join(10)
    assert seen == [before]


@pytest.mark.parametrize("error, reason", [
    (OSError(errno.EBADFD, "the interface is gone"), "the interface is gone"), (KeyError("x"), "KeyError: 'x'"),
])
def test_a_worker_that_fails_is_told(book, error, reason):
    def body():
        raise error
    worker = Worker(book.log, "gwlbtun T000", body)
    worker.start()
    worker.join(10)
    assert worker.failure == reason
    assert said(book, Level.CRITICAL) == [f"Thread gwlbtun T000 has failed and ended: {reason}."]
