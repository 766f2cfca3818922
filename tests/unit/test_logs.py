# SPDX-License-Identifier: MIT-0
"""The log: its lines, its order, what it keeps from whom, and that it never holds anyone up."""
import datetime
import json
import os
import resource
import signal
import threading
import time

import pytest

from gwlbtun import logs
from gwlbtun.logs import CORE, GENEVE, SECTIONS, TUNNEL, Entry, Level, Log, format_entry, parse_levels
from logbook import LINE, Logbook


@pytest.fixture
def book(tmp_path):
    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def levels(level=Level.DEBUG):
    return dict.fromkeys(SECTIONS, level)


def test_a_line_in_full():
    at = time.mktime((2026, 11, 23, 4, 10, 49, 0, 0, -1))
    entry = Entry(int(at) * 10**9 + 49_999_999, "gwlbtun U000", CORE, Level.IMPORTANT, "New interface gwi-887epl1g9A.")
    assert format_entry(entry) == ("2026-11-23 04:10:49.049: gwlbtun U000(core,important) : "
                                   "New interface gwi-887epl1g9A.\n")


def test_an_object_in_full():
    at = time.mktime((2026, 11, 23, 4, 10, 49, 0, 0, -1))
    entry = Entry(int(at) * 10**9 + 49_999_999, "gwlbtun U000", CORE, Level.IMPORTANT, "One\n\ttwo \"\u2028\udcff\x1b.")
    line = logs.format_object(entry)
    assert line.endswith("}\n") and line.isascii() and len(line.splitlines()) == 1
    shown = json.loads(line)
    when = datetime.datetime.fromisoformat(shown.pop("time"))
    assert when.timestamp() == at + 0.049
    assert shown == {"thread": "gwlbtun U000", "section": "core", "level": "important",
                     "text": "One\n\ttwo \"\u2028\\udcff\x1b."}


def test_lines_that_were_dropped_are_an_object_too(pipe):
    reader, writer = pipe
    log = Log(levels(), logs.format_object, writer, bound=1)
    for number in range(3):
        log.important(CORE, str(number))
    log.start()
    log.stop(timeout=60)
    os.close(writer)
    pipe[1] = None
    with open(reader, closefd=False) as file:
        assert [json.loads(line)["text"].split(" ")[0] for line in file] == ["0", "2"]  # the second says: 2 log lines


@pytest.mark.parametrize("text, written", [
    ("tab\tbell\a", "tab\\x09bell\\x07"),
    ("\x1b[2J\r\x7f\x9b", "\\x1b[2J\\x0d\\x7f\\x9b"),
    ("one\u2028two\x85three", "one\\u2028two\\x85three"),
    (b"\xff\xfe".decode("utf-8", "surrogateescape"), "\\udcff\\udcfe"),
    ("Grüße", "Grüße"),
])
def test_what_is_no_text_is_shown_not_done(text, written):
    line = format_entry(Entry(0, "t", CORE, Level.INFO, text))
    assert line.partition(" : ")[2] == written + "\n"
    assert line.encode("utf-8").count(b"\n") == 1


def test_nobody_forges_a_line():
    text = "x\n2026-11-23 04:10:49.049: gwlbtun U000(core,critical) : all is lost"
    lines = format_entry(Entry(0, "gwlbtun Hook", CORE, Level.INFO, text)).splitlines()
    assert [LINE.fullmatch(line)["thread"] for line in lines] == ["gwlbtun Hook", "gwlbtun Hook"]
    assert [LINE.fullmatch(line)["level"] for line in lines] == ["info", "info"]


def test_levels_of_sections():
    assert parse_levels("") == ({}, [])
    assert parse_levels("core=debug, Tunnel=DebugDetail ,") == ({CORE: Level.DEBUG, TUNNEL: Level.DEBUGDETAIL}, [])
    assert parse_levels("all=info,core=critical")[0] == {**levels(Level.INFO), CORE: Level.CRITICAL}


@pytest.mark.parametrize("config, named", [
    ("nose=debug", "nose"), ("core=loud", "loud"), ("core", "core"), ("core=", "''"), ("=debug", "''"),
    ("a=b=c", "'a'"),
])
def test_words_it_does_not_know_are_named_and_ignored(config, named):
    found, complaints = parse_levels(config + ",geneve=info")
    assert found == {GENEVE: Level.INFO}
    assert len(complaints) == 1 and named in complaints[0]


def test_a_section_says_what_its_level_admits(tmp_path):
    book = Logbook(tmp_path, Level.IMPORTANT)
    for level in Level:
        book.log.say(CORE, level, level.name)
    book.close()
    assert book.texts() == ["CRITICAL", "IMPORTANT"]


def test_lines_of_many_threads_stay_whole_and_in_order(book):
    def talk(number):
        for turn in range(500):
            book.log.info(CORE, f"{number} {turn} " + "x" * 100)
    threads = [threading.Thread(target=talk, args=(number,), name=f"talker {number}") for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.log.stop()
    said = [text.split() for text in book.texts()]
    assert len(said) == 2000
    for number in range(4):
        assert [int(turn) for who, turn, _ in said if int(who) == number] == list(range(500))
    assert {LINE.fullmatch(line)["thread"] for line in book.lines()} == {f"talker {number}" for number in range(4)}


def test_trace_and_log_are_merged_by_time(tmp_path):
    traced = threading.Event()
    begin = time.time_ns()

    def trace(most):
        if traced.is_set():
            return []
        traced.set()
        return [Entry(begin - 1000 + n, "gwlbtun T000", TUNNEL, Level.DEBUG, f"packet {n}") for n in range(3)]
    with open(tmp_path / "out", "wb") as out:
        log = Log(levels(), fd=out.fileno())
        log.info(CORE, "said after")
        log.start(trace)
        assert traced.wait(60)
        log.stop(timeout=60)
    texts = [line.partition(" : ")[2] for line in (tmp_path / "out").read_text().splitlines()]
    assert texts == ["packet 0", "packet 1", "packet 2", "said after"]


def test_who_reads_too_slowly_loses_lines_and_learns_how_many(pipe):
    reader, writer = pipe
    log = Log(levels(), fd=writer, bound=100)
    log.start()
    most = 10_000
    for number in range(most):  # the pipe holds 64 KiB of the 2 MB
        log.info(CORE, f"{number} " + "x" * 200)
    assert threading.active_count() > 1  # that is: we got here, though nobody has read a byte
    got = b""

    def read():
        nonlocal got
        while True:
            data = os.read(reader, 65536)
            if not data:
                return
            got += data
    thread = threading.Thread(target=read)
    thread.start()
    log.stop(timeout=60)
    os.close(writer)
    pipe[1] = None
    thread.join()
    texts = [LINE.fullmatch(line)["text"] for line in got.decode().splitlines()]
    dropped = sum(int(text.split()[0]) for text in texts if "were dropped" in text)
    written = [int(text.split()[0]) for text in texts if "were dropped" not in text]
    assert dropped > 0
    assert len(written) + dropped == most
    assert written == sorted(written)


def test_stop_does_not_wait_for_a_reader_that_never_reads(pipe):
    log = Log(levels(), fd=pipe[1])
    log.start()
    for _ in range(1000):
        log.info(CORE, "x" * 200)
    stopper = threading.Thread(target=log.stop, args=(0.1,))
    stopper.start()
    stopper.join(10)
    assert not stopper.is_alive()
    os.close(pipe[0])  # which is what ends the thread
    pipe[0] = None
    log._thread.join(10)
    assert not log._thread.is_alive()


def test_it_goes_on_when_its_reader_is_gone(pipe):
    log = Log(levels(), fd=pipe[1])
    log.start()
    os.close(pipe[0])
    pipe[0] = None
    for _ in range(3):
        log.info(CORE, "to nobody")
    log.stop(timeout=60)
    assert not log._thread.is_alive()


def test_a_non_blocking_descriptor_gets_every_byte(pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    log = Log(levels(), fd=writer)
    for number in range(logs.BATCH_LINES):
        log.info(CORE, f"{number} " + "x" * 200)
    log.start()
    got = b""
    while got.count(b"\n") < logs.BATCH_LINES:
        got += os.read(reader, 65536)
    log.stop(timeout=60)
    assert [int(LINE.fullmatch(line)["text"].split()[0]) for line in got.decode().splitlines()] \
        == list(range(logs.BATCH_LINES))


def test_what_a_full_disk_refuses_is_told_once_there_is_room_and_no_line_is_torn(tmp_path):
    """The file may grow to so many bytes, as RLIMIT_FSIZE makes a disk full for one process."""
    path = tmp_path / "log"
    ready, room = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (250, most))
            log = Log(levels(), fd=fd)
            log.start()
            for number in range(10):
                log.info(CORE, f"{number} " + "x" * 50)
            while path.read_bytes().count(b"\n") + log._lost < 10:
                time.sleep(0.01)
            os.write(ready[1], b".")
            os.read(room[0], 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            log.stop(timeout=60)
            os._exit(0)
        finally:
            os._exit(1)
    os.read(ready[0], 1)
    assert path.stat().st_size == 250  # in the midst of a line
    os.write(room[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ready, *room):
        os.close(end)
    lines = path.read_text().splitlines()
    whole = [LINE.fullmatch(line)["text"] for line in lines if LINE.fullmatch(line) and line.endswith("x" * 50)]
    assert LINE.fullmatch(lines[-1])["text"] == \
        f"{10 - len(whole)} log lines were dropped: they could not be written (File too large)."
    assert 1 <= len(whole) < 5 and len(lines) == len(whole) + 2
