# SPDX-License-Identifier: MIT-0
"""Lines for the journal begin with a priority, and lines for others do not."""
import contextlib
import os
import re
import socket

import pytest

from gwlbtun import journal
from gwlbtun.listener import Listener
from gwlbtun.logs import CORE, SECTIONS, Level, Log
from logbook import LINE


def name_of(fd):
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"


@pytest.fixture(params=["pipe", "socket"])
def ends(request):
    """Two ends of what the journal could read."""
    with contextlib.ExitStack() as stack:
        if request.param == "pipe":
            pair = [os.fdopen(fd, mode, buffering=0) for fd, mode in zip(os.pipe(), ("rb", "wb"))]
        else:
            pair = list(socket.socketpair())
        yield [stack.enter_context(end) for end in pair]


def lines(ends, talk):
    """What a log writes that has been talked to."""
    reader, writer = ends
    log = Log(dict.fromkeys(SECTIONS, Level.DEBUGDETAIL), fd=writer.fileno())
    log.start()
    talk(log)
    log.stop(timeout=60)
    return os.read(reader.fileno(), 65536).decode().splitlines()


def test_every_line_has_the_priority_of_its_level(monkeypatch, ends):
    monkeypatch.setenv("JOURNAL_STREAM", name_of(ends[1].fileno()))
    heard = lines(ends, lambda log: [log.say(CORE, level, f"{level.name} one\n<1>two\n") for level in Level])
    found = [(int(line[1]), LINE.fullmatch(line[3:])["level"]) for line in heard]
    assert found == [(priority, level.name.lower()) for priority, level in zip((2, 5, 6, 7, 7), Level) for _ in range(3)]
    assert len(journal.PRIORITIES) == len(Level)


def test_what_hooks_print_has_priorities_too(monkeypatch, ends):
    monkeypatch.setenv("JOURNAL_STREAM", name_of(ends[1].fileno()))
    output, hook = os.pipe()
    os.write(hook, b"<0>hello\n")
    os.close(hook)
    line, = lines(ends, lambda log: Listener(log, "CREATE hook of gwi-x").read(output))
    assert re.fullmatch(r"<5>\d{4}-.* : CREATE hook of gwi-x: <0>hello", line)


@pytest.mark.parametrize("stream", [None, "", "0:0", "x", "1:2:3"])
def test_lines_for_others_are_as_they_were(monkeypatch, ends, stream):
    if stream is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    line, = lines(ends, lambda log: log.critical(CORE, "x"))
    assert LINE.fullmatch(line)


def test_a_descriptor_that_is_closed_is_no_journal():
    assert not journal.reads(-1, {"JOURNAL_STREAM": "1:1"})
