# SPDX-License-Identifier: MIT-0
"""The control socket's server: what runs `gwlbtun show` asks the daemon here.

A client sends one line of JSON: {"control": 1, "ask": WORD, ...}. The answer is lines of JSON. The first says who answers, the
last has "done". A line with "bytes" is followed by as many bytes. A line with "error" ends an answer, too.

One thread serves all clients and waits for none. It asks for the next piece of an answer when the client has taken the one
before, so a client that reads slowly costs no memory. Root, the daemon's own user and one group may ask. When there are more
than CLIENTS, the one that has made no progress for the longest time has to go.
"""
import json
import os
import selectors
import socket
import struct
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional

from . import __version__, accepting
from .logs import CORE, Log
from .rendezvous import PROTOCOL, Claim, peer
from .worker import Worker, breathing

CLIENTS = 32
ACCEPTS = 16      # before those that are there get their turn
REQUEST_BYTES = 4096
STALL_S = 10.0    # without progress
ANSWER_S = 120.0  # for an answer as a whole
SEND_BYTES = 131_072  # of each client, in the kernel

_SO_PEERGROUPS = 59  # <asm-generic/socket.h>
_GROUPS_MOST = 256   # Python's getsockopt() returns no more

Answer = Iterator[bytes]                           # in pieces that each take little time
Answerer = Callable[[Dict[str, Any]], Answer]


class Refusal(Exception):
    """A request that cannot be answered. Its text goes to the client."""


def line(value: Dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


class _Client:
    """A client's connection: it brings a request, and takes the answer piece by piece."""

    def __init__(self, accepted: socket.socket):
        self.socket = accepted
        self.received = bytearray()
        self.pieces: Optional[Answer] = None
        self.unsent = memoryview(b"")
        self.end = time.monotonic() + ANSWER_S
        self.progress()

    def progress(self) -> None:
        self.due = min(time.monotonic() + STALL_S, self.end)


class Control:
    """Answers requests, each by the function that is there for its word."""

    def __init__(self, claim: Claim, answerers: Dict[str, Answerer], log: Log):
        self._claim = claim
        self._answerers = answerers
        self._log = log
        self._clients: Dict[_Client, None] = {}  # the one without progress for the longest time first
        self._selector = selectors.DefaultSelector()
        self._stop_read, self._stop_write = socket.socketpair()
        self._stopping = threading.Event()
        self._worker = Worker(log, "gwlbtun Control", self._serve, again=True)

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for the thread."""
        self._worker.start()

    def stop(self) -> None:
        """Removes the socket and ends the thread, and with it the answers under way."""
        self._stop_write.send(b"\0")  # before the thread may end, and close the other side
        self._stopping.set()
        self._worker.join()
        self._stop_write.close()

    def _serve(self) -> None:
        self._begin_anew()
        while not self._stopping.is_set():
            due = min((client.due for client in self._clients), default=None)
            for key, _ in self._selector.select(None if due is None else max(due - time.monotonic(), 0)):
                if isinstance(key.data, _Client):
                    self._serve_one(key.data)
                elif key.data:
                    key.data()
            now = time.monotonic()
            for client in [client for client in self._clients if client.due <= now]:
                self._drop(client)
        self._claim.release()
        for client in list(self._clients):
            self._drop(client)
        for each in (self._stop_read, self._selector):
            each.close()

    def _begin_anew(self) -> None:
        """Without those whose requests it may have failed at."""
        for client in list(self._clients):
            self._drop(client)
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
        self._selector.register(self._stop_read, selectors.EVENT_READ)
        self._selector.register(self._claim.listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        for accepted, _ in accepting.waiting(self._claim.listener, ACCEPTS, self._drop_slowest):
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            client = _Client(accepted)
            self._clients[client] = None
            self._selector.register(accepted, selectors.EVENT_READ, client)
            if len(self._clients) > CLIENTS:
                self._drop_slowest()
            if not self._may_ask(accepted):
                self._begin(client, _refusal("only root and the group of the control socket may ask this gwlbtun"))

    def _may_ask(self, accepted: socket.socket) -> bool:
        """The file's mode says so, too. But whoever opens the socket may pass it on, and a mode is easily changed."""
        _, user, group = peer(accepted)
        return user in (0, os.geteuid()) or self._claim.group in (group, *_groups(accepted))

    def _drop_slowest(self) -> None:
        if self._clients:
            self._drop(next(iter(self._clients)))

    def _drop(self, client: _Client) -> None:
        del self._clients[client]
        if client.socket in self._selector.get_map():
            self._selector.unregister(client.socket)
        client.socket.close()

    def _serve_one(self, client: _Client) -> None:
        """Serves one client a piece. Whatever goes wrong with it, the server goes on with the others."""
        if client not in self._clients:
            return
        try:
            if client.pieces is None:
                self._read(client)
            else:
                self._write(client, client.pieces)
        except BlockingIOError:
            return
        except OSError:  # the client has gone
            self._drop(client)

    def _progress(self, client: _Client) -> None:
        client.progress()
        self._clients[client] = self._clients.pop(client)

    def _read(self, client: _Client) -> None:
        more = client.socket.recv(REQUEST_BYTES + 1 - len(client.received))
        client.received += more
        if b"\n" in client.received:
            self._begin(client, self._answer(bytes(client.received.partition(b"\n")[0])))
        elif not more:
            self._drop(client)
        elif len(client.received) > REQUEST_BYTES:
            self._begin(client, _refusal(f"the request is longer than {REQUEST_BYTES} bytes"))

    def _begin(self, client: _Client, answer: Answer) -> None:
        client.received.clear()
        client.pieces = answer
        self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        self._progress(client)

    def _write(self, client: _Client, pieces: Answer) -> None:
        if not client.unsent:
            piece = next(pieces, None)
            if piece is None:
                self._drop(client)
                return
            client.unsent = memoryview(piece)
        if client.unsent:
            client.unsent = client.unsent[client.socket.send(client.unsent):]
        self._progress(client)

    def _answer(self, request: bytes) -> Answer:
        """All pieces of an answer. A failure becomes its last one."""
        yield line({"gwlbtun": __version__, "control": PROTOCOL, "pid": os.getpid()})
        try:
            yield from breathing(self._answerer(request))
            yield line({"done": True})
        except Refusal as refusal:
            yield line({"error": str(refusal)})
        except Exception as error:
            self._log.important(CORE, f"A request at the control socket has failed: {type(error).__name__}: {error}.")
            yield line({"error": f"gwlbtun cannot answer: {type(error).__name__}: {error}"})

    def _answerer(self, request: bytes) -> Answer:
        try:
            asked = json.loads(request)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise Refusal("the request is not an object in JSON")
        if asked.get("control") != PROTOCOL:
            raise Refusal(f"gwlbtun {__version__} speaks version {PROTOCOL} of the control protocol, not "
                          f"{str(asked.get('control'))[:20]}")
        answerer = self._answerers.get(str(asked.get("ask")))
        if not answerer:
            raise Refusal(f"gwlbtun {__version__} is not asked for '{str(asked.get('ask'))[:40]}': "
                          f"ask for {', '.join(self._answerers)}")
        return answerer(asked)


def _refusal(text: str) -> Iterator[bytes]:
    yield line({"gwlbtun": __version__, "control": PROTOCOL, "pid": os.getpid()})
    yield line({"error": text})


def _groups(accepted: socket.socket) -> Iterable[int]:
    """The supplementary groups of a client, as they were when it connected."""
    try:
        groups = accepted.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MOST)
    except OSError:  # too many, or Linux before 4.13
        return ()
    found: List[int] = [number for number, in struct.iter_unpack("=I", groups)]
    return found
