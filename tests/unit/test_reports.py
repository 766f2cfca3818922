# SPDX-License-Identifier: MIT-0
"""Reports of health: when one is made anew, when it is shared, and what never waits for one."""
import json
import threading
import time

import pytest

from gwlbtun import health, reports
from gwlbtun.reports import Reports
from logbook import Logbook


class Patient:
    """In place of Health: as healthy as a test likes, and as slow."""

    def __init__(self):
        self.stopping = False
        self.why = []
        self.size = 1
        self.snapshots = []     # of each, whether the one before had been shown
        self.free = threading.Event()
        self.free.set()

    def reasons(self):
        return ["gwlbtun is stopping"] * self.stopping + self.why

    def snapshot(self, shown):
        self.snapshots.append(shown)
        assert self.free.wait(10)
        if self.size == 0:
            raise ValueError("no size")
        return {"healthy": not self.reasons(), "reasons": self.reasons(), "number": len(self.snapshots), "x": "x" * self.size}


@pytest.fixture
def patient():
    return Patient()


@pytest.fixture
def book(tmp_path):
    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()


@pytest.fixture
def ask(patient, book, monkeypatch):
    """Asks as the server does: status and report."""
    monkeypatch.setattr(reports, "AGE_S", 3600)  # nothing unasked
    woken = threading.Event()
    shared = Reports(patient, health.JSON, woken.set, book.log)
    shared.start()
    assert woken.wait(10)

    def ask(patience=10):
        end = time.monotonic() + patience
        woken.clear()
        answer = shared.answer(late=False)
        while answer is None:
            woken.wait(max(end - time.monotonic(), 0))
            woken.clear()
            answer = shared.answer(late=time.monotonic() >= end)
        return answer.status, json.loads(b"".join(answer.body))
    return ask


def test_a_small_report_is_made_for_each_question(ask):
    numbers = [ask()[1]["number"] for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


def test_a_large_report_is_shared(ask, patient):
    patient.size = reports.SMALL_BYTES
    large = ask()[1]["number"]
    assert {ask()[1]["number"] for _ in range(20)} == {large}


def test_a_small_report_is_shared_too_when_there_are_too_many_questions(ask, monkeypatch):
    monkeypatch.setattr(reports, "SMALL_SHARE", 1e-9)
    ask()
    assert len({ask()[1]["number"] for _ in range(20)}) == 1


def test_the_status_is_of_the_moment_and_the_body_agrees_whatever_the_report_says(ask, patient):
    patient.size = reports.SMALL_BYTES
    known = ask()[1]
    patient.free.clear()
    for change in (lambda: setattr(patient, "stopping", True), lambda: setattr(patient, "why", ["a thread is dead"])):
        change()
        time.sleep(0.01)
        status, report = ask(0.05)
        assert (status, report["healthy"], report["reasons"]) == (503, False, patient.reasons())
        assert report["number"] == known["number"]
    patient.free.set()
    patient.stopping, patient.why = False, []
    assert ask()[0] == 200


def test_a_change_of_health_makes_a_new_report(ask, patient):
    patient.size = reports.SMALL_BYTES
    known = ask()[1]
    patient.why = ["a thread is dead"]
    time.sleep(0.01)
    assert ask()[1]["number"] > known["number"]


def test_a_report_knows_whether_the_one_before_was_shown(ask, patient):
    ask(), ask(), ask()
    assert patient.snapshots == [False, False, True, True]


def test_a_report_that_fails_is_told_once_and_the_status_stays_right(ask, patient, book):
    known = ask()[1]
    patient.size = 0
    patient.why = ["a thread is dead"]
    time.sleep(0.01)
    for _ in range(3):
        status, report = ask(0.1)
        assert (status, report["number"], report["reasons"]) == (503, known["number"], patient.why)
    book.wait_for("Cannot make a health report (ValueError: no size)")
    assert "".join(book.lines()).count("Cannot make") == 1
    patient.size = 1
    assert ask()[1]["number"] > known["number"]
