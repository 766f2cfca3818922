# SPDX-License-Identifier: MIT-0
"""The health server: HTTP over IPv6 and IPv4, for the load balancer's target check, cron and curl.

Any client that reaches the port may send anything, or nothing. One thread, started early, serves all connections and waits
for none of them. It gathers requests, has http.server parse those that are complete, and writes as much of an answer as the
client takes. A connection carries one request of up to REQUEST_BYTES and has REQUEST_S for it. When there are more than
CONNECTIONS, the oldest is closed, and so is one that holds an answer when clients are slow to take more than HELD_BYTES of
them. So no client can keep a health check out, or use more than a bounded amount of memory.
"""
import errno
import ipaddress
import selectors
import socket
import threading
import time
from typing import Callable, Dict, List, Optional

from . import StartError, accepting
from .checks import Address
from .logs import HEALTHCHECK, Log
from .request import PATIENCE_MOST_S, PATIENCE_S, Answer, Request, whole_request
from .worker import Worker

CONNECTIONS = 256
ACCEPTS = 32            # connections accepted before the existing ones get their turn
REQUEST_BYTES = 16_384
REQUEST_S = 5.0
ANSWER_S = 10.0
HELD_BYTES = 64 << 20   # of different answers, while clients take them
LINGER_S = 1.0          # for a client that still sends to read why it is refused
RECEIVE_BYTES = 65_536  # of each connection in the kernel
SEND_BYTES = 131_072    # likewise; with half of it, each 64 KB over loopback wait 40 ms for an acknowledgement

# Answers by the path, the Accept header, and how many seconds the request has waited. None: a newer answer is being made, so
# the server asks again after wake(), when PATIENCE_S are over, and for the last time when PATIENCE_MOST_S are.
Answerer = Callable[[str, str, float], Optional[Answer]]


class _Connection:
    """A client's connection: it brings a request, waits for the answer, sends it, and may linger until that has been read."""

    def __init__(self, accepted: socket.socket, client: str):
        self.socket = accepted
        self.client = client
        self.due = time.monotonic() + REQUEST_S  # when it is closed; while it waits for an answer, when to ask again
        self.asked = 0.0  # when the request was complete
        self.received = bytearray()
        self.request: Optional[Request] = None  # which waits for its answer
        self.unsent: List[memoryview] = []
        self.lingers = False


class Server:
    """Answers every GET and HEAD."""

    def __init__(self, address: Address, answer: Answerer, log: Log, listener: Optional[socket.socket] = None):
        """listener: a socket that listens there already. Raises StartError when it cannot listen on the port."""
        self._answer = answer
        self._log = log
        self._connections: Dict[_Connection, None] = {}  # oldest first
        self._opened = threading.Event()
        self._stopping = False
        self._worker = Worker(log, "gwlbtun Health", self._serve, again=True, wakes=True)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._suspended = False
        self._quiet = threading.Event()  # suspended, and nobody waits for an answer
        self.socket = listener or listen(address)

    def start(self) -> None:
        """Starts the thread while the system has room for it. Raises RuntimeError when it has none."""
        self._worker.start()

    def open(self) -> None:
        """Answers requests from now on, including those that came before."""
        self._opened.set()

    def wake(self) -> None:
        """Says that there may be an answer to requests that wait. Any thread may call it."""
        try:
            self._wake_write.send(b"\0")
        except OSError:  # full, and so awake; or closed
            pass

    def suspend(self, timeout: float) -> None:
        """Accepts nobody until go_on(): clients wait in the kernel. Returns when those that are here have their answers."""
        self._quiet.clear()
        self._suspended = True
        self.wake()
        self._quiet.wait(timeout)

    def go_on(self) -> None:
        self._suspended = False
        self.wake()

    def stop(self) -> None:
        self._stopping = True
        self._opened.set()
        self.wake()
        self._worker.join()

    def _serve(self) -> None:
        self._opened.wait()
        self._begin_anew()
        while not self._stopping:
            self._look_whether_to_accept()
            due = min((connection.due for connection in self._connections), default=None)
            for key, _ in self._selector.select(None if due is None else max(due - time.monotonic(), 0)):
                if isinstance(key.data, _Connection):
                    self._serve_one(key.data, self._write if key.data.unsent else self._read)
                else:
                    key.data()
            now = time.monotonic()
            for connection in [connection for connection in self._connections if connection.due <= now]:
                self._serve_one(connection, self._try if connection.request else self._drop)
        for connection in list(self._connections):
            self._drop(connection)
        for each in (self.socket, self._wake_read, self._wake_write, self._selector):
            each.close()

    def _begin_anew(self) -> None:
        """Without those whose requests it may have failed at."""
        for connection in list(self._connections):
            self._drop(connection)
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._hear)

    def _look_whether_to_accept(self) -> None:
        accepting = self.socket in self._selector.get_map()
        if self._suspended and accepting:
            self._selector.unregister(self.socket)
        elif not self._suspended and not accepting:
            self._selector.register(self.socket, selectors.EVENT_READ, self._accept)
        if self._suspended and not self._connections:
            self._quiet.set()

    def _serve_one(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Serves one client. Whatever goes wrong with it, the server goes on with the others."""
        if connection not in self._connections:  # closed to make room, a moment ago
            return
        try:
            step(connection)
        except Exception as error:
            self._log.debug(HEALTHCHECK, f"{connection.client} gets no answer: {type(error).__name__}: {error}")
            self._drop(connection)

    def _hear(self) -> None:
        self._wake_read.recv(4096)
        for connection in [connection for connection in self._connections if connection.request]:
            self._serve_one(connection, self._try)

    def _accept(self) -> None:
        for accepted, address in accepting.waiting(self.socket, ACCEPTS, self._drop_oldest):
            connection = _Connection(accepted, address[0])
            self._connections[connection] = None
            self._serve_one(connection, self._await_request)
            if len(self._connections) > CONNECTIONS:
                self._drop_oldest()

    def _await_request(self, connection: _Connection) -> None:
        self._watch(connection, selectors.EVENT_READ)

    def _drop_oldest(self) -> None:
        if self._connections:
            self._drop(next(iter(self._connections)))

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._watch(connection, 0)
        connection.socket.close()

    def _watch(self, connection: _Connection, events: int) -> None:
        known = self._selector.get_map().get(connection.socket)
        if known and not events:
            self._selector.unregister(connection.socket)
        elif known and known.events != events:
            self._selector.modify(connection.socket, events, connection)
        elif not known and events:
            self._selector.register(connection.socket, events, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            more = connection.socket.recv(RECEIVE_BYTES if connection.lingers
                                          else REQUEST_BYTES + 1 - len(connection.received))
        except BlockingIOError:
            return
        if connection.lingers:
            if not more:
                self._drop(connection)
            return
        connection.received += more
        if not connection.received:  # the client came and went: not worth a line
            self._drop(connection)
            return
        data = whole_request(connection.received)
        if data is not None or not more or len(connection.received) > REQUEST_BYTES:
            request = Request(bytes(connection.received) if data is None else data, connection.client, self._log)
            self._begin(connection, request, too_large=data is None and bool(more))

    def _begin(self, connection: _Connection, request: Request, too_large: bool) -> None:
        self._watch(connection, 0)
        connection.received.clear()
        if request.read(too_large):
            connection.request, connection.asked = request, time.monotonic()
            connection.due = connection.asked + PATIENCE_S
            self._try(connection)
        else:
            connection.lingers = True
            self._send(connection, request.output())

    def _try(self, connection: _Connection) -> None:
        request = connection.request
        if request is None:
            return
        waited_s = time.monotonic() - connection.asked
        answer = self._answer(request.path, request.accept, waited_s)
        if answer is not None:
            connection.request = None
            self._send(connection, request.output(answer))
        elif waited_s >= PATIENCE_MOST_S:
            raise RuntimeError("there is no answer")
        elif waited_s >= PATIENCE_S:
            connection.due = connection.asked + PATIENCE_MOST_S

    def _send(self, connection: _Connection, pieces: List[bytes]) -> None:
        connection.unsent = [memoryview(piece) for piece in pieces if piece]
        connection.due = time.monotonic() + ANSWER_S
        self._write(connection)
        holders = [other for other in self._connections if other.unsent and other is not connection]
        while holders and connection.unsent and _held_by([*holders, connection]) > HELD_BYTES:
            self._drop(holders.pop(0))

    def _write(self, connection: _Connection) -> None:
        while connection.unsent:
            try:
                sent = connection.socket.sendmsg(connection.unsent)
            except BlockingIOError:
                self._watch(connection, selectors.EVENT_WRITE)
                return
            while connection.unsent and sent >= len(connection.unsent[0]):
                sent -= len(connection.unsent.pop(0))
            if sent:
                connection.unsent[0] = connection.unsent[0][sent:]
        if connection.lingers:  # if it still sends, closing would reset the connection and lose the answer
            connection.socket.shutdown(socket.SHUT_WR)
            connection.due = time.monotonic() + LINGER_S
            self._watch(connection, selectors.EVENT_READ)
        else:
            self._drop(connection)


def _held_by(connections: List[_Connection]) -> int:
    """The bytes of the answers that they hold; many may share one."""
    pieces = {id(piece.obj): memoryview(piece.obj) for connection in connections for piece in connection.unsent}
    return sum(piece.nbytes for piece in pieces.values())


def listen(address: Address) -> socket.socket:
    """Makes the listening socket, whose settings connections inherit."""
    listener = _socket_for(address.host)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for buffer, size in (socket.SO_SNDBUF, SEND_BYTES), (socket.SO_RCVBUF, RECEIVE_BYTES):
            listener.setsockopt(socket.SOL_SOCKET, buffer, size // 2)  # the kernel doubles it
        scoped = socket.getaddrinfo(*address, type=socket.SOCK_STREAM) if "%" in address.host else None  # fe80::1%eth0
        listener.bind(scoped[0][4] if scoped else address)
        listener.listen(128)
        return listener
    except OSError as error:
        listener.close()
        raise StartError(_why_not(address, error)) from None


def _socket_for(host: str) -> socket.socket:
    if host and ipaddress.ip_address(host).version == 4:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:  # a kernel without IPv6
        if host:
            raise StartError(f"cannot answer health checks on {host}: {error.strerror}; "
                             "give an IPv4 address with -p") from None
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(host))
    return listener


def _why_not(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (f"TCP port {address.port} for health checks is taken: choose another with -p, or stop the program that "
                f"uses it (`ss -ltnp sport = :{address.port}` names it)")
    if error.errno == errno.EADDRNOTAVAIL:
        return (f"cannot answer health checks on {address.host}: this host does not have that address; give -p one that "
                "`ip address` shows, or the port alone")
    advice = ": a port below 1024 takes the capability CAP_NET_BIND_SERVICE" if error.errno == errno.EACCES else ""
    return f"cannot answer health checks on TCP port {address.port}: {error.strerror}{advice}"
