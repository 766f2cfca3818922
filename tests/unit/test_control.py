# SPDX-License-Identifier: MIT-0
"""The control socket's server: what it answers, and that no client can hold it up or make it grow."""
import contextlib
import errno
import json
import os
import resource
import socket
import time
from unittest import mock

import pytest

from gwlbtun import __version__, control, rendezvous
from gwlbtun.control import Control, Refusal, line
from gwlbtun.rendezvous import PROTOCOL

PIECE = 50_000

HUNG_UP = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # as a slow client learns that the server has


class Served:
    """A server with a few words."""

    def __init__(self, path):
        self.path = path
        self.log = mock.Mock()
        self.pieces = 0  # that `endless` was asked for
        self.server = Control(rendezvous.claim(path, self.log), {
            "echo": lambda asked: iter([line({"asked": asked})]), "endless": self._endless, "refuse": self._refuse,
            "fail": self._fail}, self.log)
        self.server.start()

    def _endless(self, asked):
        while True:
            self.pieces += 1
            yield b"x" * PIECE + b"\n"

    def _refuse(self, asked):
        raise Refusal("not now")

    def _fail(self, asked):
        yield line({"begun": True})
        raise KeyError("a mistake")

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)  # waits its turn, as a client with a time limit would not
        client.settimeout(60)
        return client

    def ask(self, request):
        """The lines of an answer; request: bytes, or what JSON is made of."""
        with contextlib.closing(self.connect()) as client:
            with contextlib.suppress(BrokenPipeError):
                client.sendall(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
            return self.rest(client)

    @staticmethod
    def rest(client):
        octets = b""
        with contextlib.suppress(ConnectionResetError):  # the end of an answer to a client that went on sending
            while True:
                more = client.recv(65536)
                if not more:
                    break
                octets += more
        return [json.loads(each) for each in octets.splitlines()]

    def works(self):
        return self.ask({"control": PROTOCOL, "ask": "echo"})[-1] == {"done": True}


@pytest.fixture
def served(tmp_path):
    tmp_path.chmod(0o700)
    each = Served(str(tmp_path / "control.sock"))
    yield each
    each.server.stop()
    assert not os.path.exists(each.path)


def error_of(lines):
    assert lines[0] == {"gwlbtun": __version__, "control": PROTOCOL, "pid": os.getpid()}
    return lines[-1]["error"]


def test_an_answer(served):
    asked = {"control": PROTOCOL, "ask": "echo", "more": [1]}
    assert served.ask(asked) == [{"gwlbtun": __version__, "control": PROTOCOL, "pid": os.getpid()}, {"asked": asked},
                                 {"done": True}]


@pytest.mark.parametrize("request_, why", [
    (b"\n", "JSON"), (b"GET / HTTP/1.1\r\n\r\n", "JSON"), (b"\x00\xff\xfe\n", "JSON"), (b"[" * 4000 + b"\n", "JSON"),
    (b"[1]\n", "JSON"), (b"null\n", "JSON"), (b'{"control": NaN}\n', "version 1"),
    ({"ask": "echo"}, "version 1"), ({"control": 2, "ask": "echo"}, "version 1 of the control protocol, not 2"),
    ({"control": PROTOCOL}, "echo, endless"), ({"control": PROTOCOL, "ask": ["echo"]}, "echo, endless"),
    ({"control": PROTOCOL, "ask": "x" * 3000}, f"'{'x' * 40}'"), ({"control": PROTOCOL, "ask": "refuse"}, "not now"),
    (b"x" * 4097, "longer than 4096"), (b"x" * 1_000_000, "longer than 4096")],
    ids=range(15))
def test_requests_that_are_refused(served, request_, why):
    assert why in error_of(served.ask(request_))
    assert served.works()


def test_a_stop_that_the_thread_sees_at_once(served):
    """It has just served somebody, and looks whether it is to stop."""
    stopping = served.server._stopping
    tell = stopping.set

    def tell_and_wait():
        tell()
        with contextlib.suppress(OSError):
            served.connect().close()
        served.server._worker.join()
    stopping.set = tell_and_wait  # the fixture stops it


def test_a_mistake_ends_one_answer_and_is_logged(served):
    lines = served.ask({"control": PROTOCOL, "ask": "fail"})
    assert lines[1] == {"begun": True} and "KeyError" in error_of(lines)
    (_, text), _ = served.log.important.call_args
    assert "KeyError: 'a mistake'" in text
    assert served.works()


def test_a_request_in_pieces_and_one_that_never_ends(served, monkeypatch):
    with contextlib.closing(served.connect()) as client:
        for octet in json.dumps({"control": PROTOCOL, "ask": "echo"}).encode() + b"\n":
            client.send(bytes([octet]))
        assert served.rest(client)[-1] == {"done": True}
    monkeypatch.setattr(control, "STALL_S", 0.2)
    with contextlib.closing(served.connect()) as client, HUNG_UP:
        client.sendall(b'{"con')
        assert client.recv(1) == b"", "it waits for ever"


def test_a_client_that_never_reads_costs_one_piece_and_its_time(served, monkeypatch):
    def endless(asked):  # until it is asked for, this test may take its time
        monkeypatch.setattr(control, "STALL_S", 0.5)
        yield from served._endless(asked)

    monkeypatch.setitem(served.server._answerers, "endless", endless)
    with contextlib.closing(served.connect()) as client:
        client.sendall(json.dumps({"control": PROTOCOL, "ask": "endless"}).encode() + b"\n")
        end = time.monotonic() + 60
        while served.server._clients or not served.pieces:
            assert time.monotonic() < end, "it is never dropped"
            answer = served.ask({"control": PROTOCOL, "ask": "echo"})
            assert not answer or answer[-1] == {"done": True}  # nothing: this test was too slow for it
            time.sleep(0.01)
        assert served.pieces * PIECE <= 4 * control.SEND_BYTES + PIECE


def test_an_answer_has_its_time_however_it_is_read(served, monkeypatch):
    monkeypatch.setattr(control, "ANSWER_S", 0.5)
    end = time.monotonic() + 60
    while not served.pieces:  # else its time was over before it asked
        assert time.monotonic() < end
        with contextlib.closing(served.connect()) as client, HUNG_UP:
            client.sendall(json.dumps({"control": PROTOCOL, "ask": "endless"}).encode() + b"\n")
            while client.recv(1 << 20):
                pass


def test_a_thousand_clients_at_once(served):
    """They are bounded, and who gets on with it is served while the others hang."""
    clients = []
    try:
        for number in range(1000):
            clients.append(served.connect())
            if number % 100 == 0:
                assert served.works()
        assert served.works()
        assert len(served.server._clients) <= control.CLIENTS
    finally:
        for client in clients:
            client.close()


def test_a_client_that_gets_on_is_not_pushed_out(served):
    with contextlib.closing(served.connect()) as reader:
        reader.sendall(json.dumps({"control": PROTOCOL, "ask": "endless"}).encode() + b"\n")
        others = []
        for _ in range(3 * control.CLIENTS):
            others.append(served.connect())
            assert len(reader.recv(1 << 16)) > 0
        for other in others:
            other.close()


def test_without_descriptors_the_slowest_makes_room(served):
    hanging = [served.connect() for _ in range(5)]
    end = time.monotonic() + 60
    while len(served.server._clients) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX)
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    fill = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, limit[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                fill.append(os.dup(0))
        waiting.connect(served.path)
        waiting.settimeout(60)
        waiting.sendall(json.dumps({"control": PROTOCOL, "ask": "echo"}).encode() + b"\n")
        answer = b""
        while b'"done"' not in answer:
            more = waiting.recv(65536)
            assert more
            answer += more
    finally:
        for fd in fill:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for each in (*hanging, waiting):
            each.close()
    assert served.works()


def test_clients_that_come_and_go(served):
    for _ in range(200):
        served.connect().close()
        with contextlib.closing(served.connect()) as client:
            client.sendall(json.dumps({"control": PROTOCOL, "ask": "endless"}).encode() + b"\n")
            client.recv(10)
    assert served.works()


def test_only_root_the_daemon_and_the_group_may_ask(served, monkeypatch):
    """The file's mode has let this client in; its credentials do not."""
    def ask_as(user, group, groups=()):
        monkeypatch.setattr(control.struct, "unpack", lambda form, octets: (1, user, group))
        monkeypatch.setattr(control, "_groups", lambda accepted: groups)
        lines = served.ask({"control": PROTOCOL, "ask": "echo"})
        return lines[-1] == {"done": True} or error_of(lines)

    monkeypatch.setattr(Control, "_may_ask", Control._may_ask)
    served.server._claim = mock.Mock(wraps=served.server._claim, group=77, path=served.path,
                                     listener=served.server._claim.listener)
    assert ask_as(0, 0) is True and ask_as(os.geteuid(), 5) is True
    assert ask_as(4242, 77) is True and ask_as(4242, 5, [6, 77]) is True
    assert "only root and the group" in ask_as(4242, 5, [6])
    served.server._claim.group = None
    assert "only root and the group" in ask_as(4242, 77)


def test_groups_of_a_client():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert set(control._groups(one)) == set(os.getgroups())
    failing = mock.Mock()
    failing.getsockopt.side_effect = OSError(errno.ERANGE, "too many")
    assert tuple(control._groups(failing)) == ()
