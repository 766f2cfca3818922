# SPDX-License-Identifier: MIT-0
"""The health server, over real sockets, with clients that know HTTP and clients that do not."""
import contextlib
import http.client
import socket
import threading

import pytest

from gwlbtun import StartError, web
from gwlbtun.settings import Address
from gwlbtun.web import Answer
from logbook import LINE, Logbook

LOOPBACKS = ["127.0.0.1", "::1"]
WELL = Answer(200, "text/plain", (b"we", b"ll"))


@pytest.fixture
def book(tmp_path):
    """A log of everything. Nothing that a client does may be worth a line to who has not asked for debug."""
    logbook = Logbook(tmp_path)
    yield logbook
    logbook.close()
    assert {LINE.fullmatch(line)["level"] for line in logbook.lines()} <= {"debug", "debugdetail"}


@pytest.fixture
def serve(book):
    """Starts a server with an answer; gives its port."""
    with contextlib.ExitStack() as stack:
        def start(answer=WELL, host=""):
            """answer: one, or what makes them from path, Accept header and whether it is late."""
            server = web.Server(Address(host, 0), answer if callable(answer) else lambda *asked: answer, book.log)
            stack.callback(server.stop)
            server.start()
            server.open()
            start.server = server
            return server.socket.getsockname()[1]
        yield start


def ask(host, port, method="GET", path="/", **options):
    connection = http.client.HTTPConnection(host, port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, **options)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=10)


def exchange(port, data):
    with connect(port) as client:
        client.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize("path", ["/", "/health?full=1", "/../../etc/passwd", "/%00%ff"])
def test_any_path_over_both_families(serve, host, path):
    status, headers, body = ask(host, serve(), path=path)
    assert (status, body) == (200, b"well")
    assert headers["Content-Length"] == "4"
    assert headers["Content-Type"] == "text/plain"
    assert headers["Cache-Control"] == "max-age=0, no-cache"


@pytest.mark.parametrize("status", [200, 503])
def test_head_is_get_without_the_body(serve, status):
    port = serve(Answer(status, "application/json", (b"{}",)))
    got, head = ask("::1", port), ask("::1", port, "HEAD")
    assert got[0] == head[0] == status
    assert (got[2], head[2]) == (b"{}", b"")
    for name in "Content-Length", "Content-Type", "Cache-Control":
        assert got[1][name] == head[1][name] is not None


def test_a_status_without_a_body(serve):
    status, headers, body = ask("127.0.0.1", serve(Answer(503)))
    assert (status, body, headers["Content-Length"]) == (503, b"", "0")
    assert headers["Content-Type"] is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused(serve, method):
    assert ask("127.0.0.1", serve(), method)[0] == 501


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"\0" * 70_000 + b"\r\n",
], ids=["tls", "empty lines", "no path", "version", "many headers", "long path", "zeros"])
def test_garbage_gets_an_error_or_nothing(serve, data, capfd):
    port = serve()
    answer = exchange(port, data)
    assert not answer or b" 200 " not in answer.split(b"\r\n")[0]
    assert ask("127.0.0.1", port)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_client_that_goes_at_once(serve, capfd):
    port = serve(Answer(200, "text/plain", (b"x" * 1_000_000,)))
    for _ in range(20):
        client = connect(port)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() sends a reset
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.close()
    assert ask("127.0.0.1", port)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_silent_client_is_hung_up_on(serve, monkeypatch):
    monkeypatch.setattr(web, "REQUEST_S", 0.2)
    with connect(serve()) as client:
        client.sendall(b"GET / HT")
        assert client.recv(100) == b""


def test_a_connection_carries_one_request(serve):
    answer = exchange(serve(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in answer


def test_silent_clients_cannot_keep_a_health_check_out(serve):
    port = serve()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(port, host))
                  for _ in range(web.CONNECTIONS) for host in LOOPBACKS]
        assert ask("127.0.0.1", port)[0] == 200
        silent[0].settimeout(10)
        assert silent[0].recv(1) == b""  # the oldest had to go
        assert [thread.name for thread in threading.enumerate()].count("gwlbtun Health") == 1


def test_requests_are_logged_and_cannot_forge_a_line(serve, book):
    exchange(serve(), b"GET /\x1b[2Jx HTTP/1.1\r\n\r\n")
    line = book.wait_for("GET /")
    assert "(healthcheck,debug) : ::ffff:127.0.0.1" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_a_port_that_is_taken(book, family, address):
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.bind((address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StartError, match=f"TCP port {port} .* is taken: .*-p"):
            web.Server(Address("", port), lambda *asked: WELL, book.log)


def test_without_ipv6_it_serves_ipv4(serve, monkeypatch):
    made = socket.socket

    def no_ipv6(family=socket.AF_INET, *arguments, **options):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return made(family, *arguments, **options)
    monkeypatch.setattr(web.socket, "socket", no_ipv6)
    port = serve()
    monkeypatch.undo()
    assert ask("127.0.0.1", port)[0] == 200
