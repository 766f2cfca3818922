# SPDX-License-Identifier: MIT-0
"""The client's end of the control socket, against daemons that are missing, forbidden, of another version, or dying."""
import contextlib
import json
import os
import socket
import threading
from unittest import mock

import pytest

from gwlbtun import rendezvous
from gwlbtun.show import asker
from gwlbtun.show.asker import AskError, ask
from gwlbtun.rendezvous import PROTOCOL

ABOUT = {"gwlbtun": "9.9.9", "control": PROTOCOL, "pid": 1}


def line(value):
    return json.dumps(value).encode() + b"\n"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "control.sock")


@pytest.fixture(autouse=True)
def default(tmp_path, monkeypatch):
    """The default path; no daemon of the host is asked."""
    found = str(tmp_path / "run" / "control.sock")
    monkeypatch.setattr(asker, "DEFAULT_PATH", found)
    return found


@contextlib.contextmanager
def daemon(path, *pieces, hang=False):
    """Something that listens, takes requests and sends these pieces to each."""
    heard, stop = [], threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve():
            while True:
                client, _ = listener.accept()
                if stop.is_set():
                    client.close()
                    return
                with client:
                    heard.append(client.makefile("rb").readline())
                    with contextlib.suppress(OSError):
                        for piece in pieces:
                            client.sendall(piece)
                        if hang:
                            stop.wait(5)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield heard
        finally:
            stop.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)
            thread.join()
    os.unlink(path)


def error_of(*arguments):
    with pytest.raises(AskError) as raised:
        ask({"ask": "drops"}, *arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_answer_with_lines_and_octets(path):
    pieces = [line(ABOUT), line({"head": 1}), line({"row": {"a": 1}}), line({"bytes": 5}) + b"{}\n\0x", line({"row": {"a": 2}}),
              line({"bytes": 0}), line({"done": True})]
    with daemon(path, *pieces) as heard:
        answer = ask({"ask": "drops", "limit": 0}, path)
    assert json.loads(heard[0]) == {"control": PROTOCOL, "ask": "drops", "limit": 0}
    assert answer.about == ABOUT and answer.rows == [{"a": 1}, {"a": 2}] and answer.lines[0] == {"head": 1}
    assert answer.octets.read() == b"{}\n\0x"


def test_nobody_answers(path, default):
    assert f"none answers at {default}. Start it" in error_of()
    os.mkdir(os.path.dirname(default))
    assert "Start it" in error_of()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(default)
    assert "Start it" in error_of()
    assert f"no gwlbtun answers at {path}: is it running" in error_of(path)
    open(path, "w").close()
    assert "no gwlbtun answers" in error_of(path)
    assert "no gwlbtun answers" in error_of(path + "/deeper")
    assert "cannot ask at" in error_of("/" + "x" * 200)


@pytest.mark.parametrize("pieces, why", [
    ([], "in the middle"), ([line(ABOUT)], "in the middle"), ([line(ABOUT), b'{"row": {'], "in the middle"),
    ([line(ABOUT), line({"bytes": 100}), b"x" * 99], "in the middle"),
    ([line(ABOUT), line({"error": "not now"})], "not now"),
    ([b"HTTP/1.1 400 Bad Request\r\n"], "no gwlbtun"), ([b"[]\n"], "no gwlbtun"), ([b"[" * 100_000 + b"\n"], "no gwlbtun"),
    ([b"x" * (8 << 20)], "no gwlbtun"), ([line(ABOUT), line({"bytes": -1})], "no gwlbtun"),
    ([line(ABOUT), line({"bytes": 1 << 40})], "no gwlbtun"), ([line(ABOUT), line({"bytes": "1"})], "no gwlbtun"),
    ([line({**ABOUT, "control": 2})], "gwlbtun 9.9.9, which this `show`"),
    ([line({"control": PROTOCOL})], "does not understand"),
], ids=range(14))
def test_answers_that_are_none(path, pieces, why):
    with daemon(path, *pieces):
        assert why in error_of(path)


def test_a_daemon_that_is_stopped(path, monkeypatch):
    monkeypatch.setattr(asker, "TIMEOUT_S", 0.2)
    with daemon(path, line(ABOUT), hang=True):
        assert "has not answered for" in error_of(path)


def test_an_answer_without_end(path, monkeypatch):
    monkeypatch.setattr(asker, "LINES_MOST", 10)
    with daemon(path, line(ABOUT), line({"row": {}}) * 11):
        assert "longer than 10 lines" in error_of(path)


def test_an_answer_that_the_disk_does_not_hold(path):
    full = mock.Mock()
    full.write.side_effect = OSError(28, "No space left on device")
    with daemon(path, line(ABOUT), line({"bytes": 1}), b"x", line({"done": True})), \
            mock.patch("tempfile.SpooledTemporaryFile", lambda size: full):
        assert "No space left on device" in error_of(path)


def test_one_of_several(path, default):
    os.mkdir(os.path.dirname(default))
    other = rendezvous.with_pid(default, 4321)
    pieces = line(ABOUT), line({"done": True})
    with daemon(default, *pieces) as first, daemon(other, *pieces) as second:
        text = error_of()
        assert "2 gwlbtun run here: choose one with --pid or --socket" in text
        assert f"process {os.getpid()} at {default}" in text and other in text
        assert "no gwlbtun with process ID 1 answers" in error_of(None, 1)
        ask({"ask": "drops"}, other)
        assert len(second) >= 1
    with daemon(other, *pieces) as only:
        ask({"ask": "drops"})
        ask({"ask": "drops"}, None, os.getpid())
        assert len([each for each in only if each]) == 2
    assert not any(first)


def test_who_may_ask_is_told(path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", mock.Mock(side_effect=PermissionError(13, "Permission denied")))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    monkeypatch.setattr(os, "stat", lambda path: mock.Mock(st_gid=0))
    assert error_of(path) == f"only root may ask at {path}: run this with sudo"
    monkeypatch.setattr(os, "stat", lambda path: mock.Mock(st_gid=77))
    monkeypatch.setattr(asker.grp, "getgrgid", lambda number: mock.Mock(gr_name="gwlbtun"))
    assert "only root and the group gwlbtun may ask" in error_of(path)
    monkeypatch.setattr(asker.grp, "getgrgid", mock.Mock(side_effect=KeyError))
    assert "only root and the group 77 may ask" in error_of(path)
