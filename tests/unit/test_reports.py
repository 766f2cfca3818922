# SPDX-License-Identifier: MIT-0
"""Reports of health: when one is made anew, when it is shared, and what never waits for one."""
import json
import threading
import time

import pytest

from gwlbtun import forms, reports
from gwlbtun.reports import Reports
from logbook import Logbook


class Patient:
    """In place of Health: as healthy as a test likes, and as slow."""

    def __init__(self):
        self.stopping = False
        self.why = []
        self.size = 1
        self.snapshots = 0
        self.free = threading.Event()
        self.free.set()

    def reasons(self):
        return ["gwlbtun is stopping"] * self.stopping + self.why

    def snapshot(self):
        self.snapshots += 1
        assert self.free.wait(60)
        if self.size == 0:
            raise ValueError("no size")
        return {"healthy": not self.reasons(), "reasons": self.reasons(), "number": self.snapshots, "x": "x" * self.size}


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
    shared = Reports(patient, forms.JSON, woken.set, book.log)
    shared.start()
    assert woken.wait(60)

    def ask(patience=10, form=forms.JSON):
        monkeypatch.setattr(reports, "PATIENCE_S", patience)
        begin = time.monotonic()
        woken.clear()
        answer = shared.answer(form, 0)
        while answer is None:
            woken.wait(max(begin + patience - time.monotonic(), 0))
            woken.clear()
            answer = shared.answer(form, time.monotonic() - begin)
        return answer.status, json.loads(b"".join(answer.body))
    ask.reports = shared
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


# ---- Several forms


def like_json(**changes):
    """A form of its own that looks like JSON."""
    return forms.JSON._replace(head=lambda reasons: forms.JSON.head(reasons), **changes)


def test_forms_that_are_asked_for_share_one_snapshot(ask, patient):
    patient.size = reports.SMALL_BYTES
    other = like_json()
    number = ask(form=other)[1]["number"]
    assert ask()[1]["number"] == number == patient.snapshots


def test_a_form_without_a_report_is_waited_for(ask, patient):
    patient.free.clear()
    other = like_json()
    for waited in 0, reports.PATIENCE_S, reports.PATIENCE_MOST_S:
        assert ask.reports.answer(other, waited) is None
    patient.free.set()
    assert ask(form=other)[0] == 200


def test_who_would_rather_wait_gets_no_older_report(ask, patient):
    patient.size = reports.SMALL_BYTES
    fresh = like_json(fresh=True)
    known = ask(form=fresh)[1]["number"]
    patient.why = ["a thread is dead"]
    time.sleep(0.01)
    patient.free.clear()
    assert ask(0.01)[1]["number"] == known
    assert ask.reports.answer(fresh, reports.PATIENCE_S) is None
    assert b'"number": %d' % known in ask.reports.answer(fresh, reports.PATIENCE_MOST_S).body[1]
    patient.free.set()
    assert ask(form=fresh)[1]["number"] > known


def test_a_report_that_takes_longer_than_it_lasts_is_good_for_who_waited(ask, patient, monkeypatch):
    monkeypatch.setattr(reports, "AGE_S", 0)
    monkeypatch.setattr(reports, "UNASKED_SHARE", 1e-9)
    patient.size = reports.SMALL_BYTES
    numbers = [ask()[1]["number"] for _ in range(3)]
    assert numbers == sorted(set(numbers))


def test_a_form_that_does_not_tell_health_is_always_200(ask, patient):
    patient.why = ["a thread is dead"]
    assert ask()[0] == 503
    status, report = ask(form=like_json(tells_health=False))
    assert (status, report["healthy"]) == (200, False)


def test_the_status_alone_takes_no_report(ask, patient):
    before = patient.snapshots
    assert ask.reports.answer(None, 0) == (200, "", ())
    patient.stopping = True
    assert ask.reports.answer(None, 0) == (503, "", ())
    assert patient.snapshots == before


def test_forms_that_nobody_asks_for_any_more_are_not_made_and_not_kept(ask, patient, monkeypatch):
    made = []
    other = like_json(tail=lambda snapshot: made.append(True) or forms.JSON.tail(snapshot))
    patient.size = reports.SMALL_BYTES
    ask(form=other)
    monkeypatch.setattr(reports, "RECENT_S", 0)
    for _ in range(3):
        patient.why = [f"{patient.snapshots} threads are dead"]
        time.sleep(0.01)
        ask()
    assert made == [True]
    assert ask.reports.answer(other, 1) is None
    assert ask.reports.answer(None, 0).status == 503


def test_many_forms_are_made_no_more_often_than_one(ask, patient, monkeypatch):
    monkeypatch.setattr(reports, "AGE_S", 0.05)
    monkeypatch.setattr(reports, "SMALL_BYTES", 0)
    made = []

    def slow(snapshot):
        made.append(True)
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return forms.JSON.tail(snapshot)
    many = [like_json(tail=slow) for _ in range(8)]
    for form in many:
        ask(form=form)
    made.clear()
    begin = time.monotonic()
    while time.monotonic() - begin < 1:
        for form in many:
            ask(form=form)
        time.sleep(0.001)
    assert 0 < len(made) <= 1.5 * (time.monotonic() - begin) / 0.05


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
