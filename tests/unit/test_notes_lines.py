# SPDX-License-Identifier: MIT-0
"""Notes: how many lines the log gets, how many health shows, and when an endpoint counts as silent."""
import collections
import json

import pytest

from gwlbtun import notes, silence
from gwlbtun.identity import Identity
from gwlbtun.notes import Note, Notes
from gwlbtun.silence import Interruption, Silence
from gwlbtun.surroundings import Surroundings

DROPS = {"drop_tun_write": "Linux did not take it", "drop_no_flow": "it belongs to no flow"}


@pytest.fixture
def clock(monkeypatch):
    time = [1000.0]
    monkeypatch.setattr(notes.time, "monotonic", lambda: time[0])
    return time


def note(subject):
    return Note(f"{subject} has become 0", "mend it")


def test_a_line_when_it_comes_and_one_when_it_is_over(book, clock):
    made = Notes(book.log)
    for found in {"a": note("a")}, {"a": note("a")}, {"a": note("a"), "b": note("b")}, {"b": note("b")}, {}, {}:
        made.put({"kind": found})
        assert made.lines == [str(line) for line in found.values()]
        clock[0] += 1
    book.log.stop()
    assert book.texts() == ["a has become 0: mend it", "b has become 0: mend it", "No longer so: a has become 0.",
                            "No longer so: b has become 0."]


@pytest.mark.parametrize("seconds", [0, 1, 20])
def test_what_flaps_gets_few_lines_and_the_end_is_told(book, clock, seconds):
    made = Notes(book.log)
    for step in range(200):
        made.put({"kind": {"a": note("a")} if step % 2 == 0 else {}, "other": {}})
        clock[0] += seconds
    clock[0] += 60
    made.put({"kind": {}})
    book.log.stop()
    texts = book.texts()
    assert len(texts) <= notes.BURST + 1 + 200 * seconds / notes.LINE_S
    assert texts[-1].startswith("No longer so") and len(texts) % 2 == 0


def test_a_thousand_at_once_are_one_line_and_twenty_in_health(book, clock):
    made = Notes(book.log)
    made.put({"kind": {f"s{number}": note(f"s{number}") for number in range(1000)}})
    assert len(made.lines) == notes.SHOWN + 1 and made.lines[-1] == "and 980 more"
    made.put({})
    assert made.lines == []
    book.log.stop()
    first, last = book.texts()
    assert first == "s0 has become 0: mend it The same holds for s1, s2, s3, 996 more."
    assert last == "No longer so: s0 has become 0. The same holds for s1, s2, s3, 996 more."


def test_another_program_goes_on_from_what_was_told(book, clock):
    Notes(book.log).put({"kind": {}})
    old, new = Notes(book.log), Notes(book.log)
    old.put({"kind": {"a": note("a"), "b": note("b")}, "other": {}})
    new.resume(json.loads(json.dumps(old.record())))
    assert new.lines == old.lines
    new.put({"kind": {"a": note("a")}})
    book.log.stop()
    assert book.texts() == ["a has become 0: mend it The same holds for b.", "No longer so: b has become 0."]


def test_a_cause_of_one_interface_is_none_of_another():
    around = Surroundings()
    around.found = {"kind": {"a": note("all"), **{f"gwi-{number}": Note(f"gwi-{number} is off", "", f"gwi-{number}")
                                                  for number in range(1000)}}}
    assert around.facts("gwi-7") == ["all has become 0", "gwi-7 is off"]


class Watched:
    """An interruption, and the counters that it is shown second by second."""

    def __init__(self):
        self.interruption = Interruption(Identity(1), DROPS)
        self.counters = collections.Counter()
        self.now = 0.0
        self.facts = []

    def pass_s(self, seconds, came=0, back=0, **more):
        """Whether there has been a note in one of these seconds, and whether there is one now."""
        noted = []
        for _ in range(seconds):
            self.now += 1
            before = self.counters.copy()
            self.counters.update(packets_out=came, packets_sent=back, **more)
            self.interruption.look(self.counters.copy() if self.counters != before else None, self.now, lambda: self.facts)
            noted.append(self.interruption.note is not None)
        return any(noted), noted[-1]


def test_silence_after_traffic_is_noted_until_packets_come_back():
    watched = Watched()
    assert watched.pass_s(20, 100, 100) == (False, False)
    assert watched.pass_s(9, 100) == (False, False)
    assert watched.pass_s(5, 100) == (True, True)
    assert watched.pass_s(1, 100, 1) == (False, False)


@pytest.mark.parametrize("came, back", [(100, 0), (0, 0), (100, 5), (3, 3)])
def test_what_has_always_been_so_is_no_note(came, back):
    assert Watched().pass_s(300, came, back) == (False, False)


def test_one_way_traffic_beside_replies_that_pause_is_no_note():
    """Two arms: few of the packets that come are answered by way of gwo, so a few without an answer mean nothing."""
    watched = Watched()
    watched.pass_s(60, 100, 2)
    assert watched.pass_s(3, 100) == (False, False)
    watched.pass_s(1, 100, 2)
    assert watched.pass_s(60, 1) == (False, False)  # 60 packets, of which hardly one would have been answered
    watched.pass_s(1, 100, 2)
    assert watched.pass_s(30, 100) == (True, True)


def test_few_packets_far_apart_are_no_note():
    watched = Watched()
    watched.pass_s(10, 10, 10)
    for _ in range(50):
        assert watched.pass_s(1, 1) == watched.pass_s(8) == (False, False)


def test_a_note_lasts_while_packets_come_and_a_minute_more():
    watched = Watched()
    watched.pass_s(10, 10, 10)
    watched.pass_s(20, 10)
    assert watched.pass_s(int(silence.IDLE_S) - 2) == (True, True)
    assert watched.pass_s(5)[1] is False


def test_the_note_says_what_is_seen_of_the_cause():
    watched = Watched()
    watched.pass_s(10, 10, 10, drop_no_flow=1)
    watched.pass_s(12, 10)
    assert watched.interruption.note.advice.startswith("120 packets have come since the last that did. gwlbtun sees no cause")
    watched.facts = ["net.ipv4.ip_forward has become 0"]
    watched.pass_s(1, 5, drop_tun_write=5, drop_no_flow=2)
    assert watched.interruption.note.advice == (
        "130 packets have come since the last that did. What gwlbtun sees: net.ipv4.ip_forward has become 0; gwlbtun has "
        "dropped 5 packets because Linux did not take it; gwlbtun has dropped 2 packets because it belongs to no flow.")


@pytest.mark.parametrize("silent_s", [5, 20])
def test_another_program_goes_on_watching(silent_s):
    watched = Watched()
    watched.pass_s(10, 10, 10)
    watched.pass_s(silent_s, 10)
    record, note = json.loads(json.dumps(watched.interruption.record())), watched.interruption.note
    watched.interruption = Interruption(Identity(1), DROPS)
    watched.interruption.resume(record)
    assert watched.interruption.note == note
    assert watched.pass_s(10, 10)[1] is True
    assert watched.pass_s(1, 10, 1) == (False, False)


def test_an_interface_that_is_down_is_noted():
    watched = Watched()
    watched.pass_s(10, 10, 10)
    assert watched.pass_s(15, drop_tun_write=10) == (True, True)


def test_counters_that_begin_anew_are_no_silence():
    watched = Watched()
    watched.pass_s(10, 100, 100)
    watched.counters.clear()
    assert watched.pass_s(5, 1) == (False, False)


def test_a_thousand_that_never_returned_anything_get_few_hints(book, monkeypatch):
    now = [1e9]  # later than whatever other tests have told
    monkeypatch.setattr(silence.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Silence, "_untold", 0)
    monkeypatch.setattr(Silence, "_due", 0.0)
    for number in range(1001):
        now[0] += silence.HINT_S * (number == 1000)
        silent = Silence(Identity(number), book.log)
        silent.look(collections.Counter(packets_out=20), 20 * 10**9)
        assert silent.over
    book.log.stop()
    first, last = book.texts()
    assert "gwi-0," in first and last.endswith("This concerns 999 more endpoints that have not been named.")
