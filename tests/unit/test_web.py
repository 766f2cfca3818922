# SPDX-License-Identifier: MIT-0
"""The health server, over real sockets, with clients that know HTTP and clients that do not."""
import contextlib
import http.client
import socket
import threading
import time

import pytest

from gwlbtun import StartError, web
from gwlbtun.checks import Address
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
            """answer: one, or what makes them from path, Accept header and how long it has waited."""
            server = web.Server(Address(host, 0), answer if callable(answer) else lambda *asked: answer, book.log)
            stack.callback(server.stop)
            server.start()
            server.open()
            start.server = server
            return server.socket.getsockname()[1]
        yield start


def ask(host, port, method="GET", path="/", **options):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, **options)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), timeout=60)


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
    with connect(serve()) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
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
        silent[0].settimeout(60)
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


# ---- What clients send, and what they do not


@pytest.mark.parametrize("data", [b"GET /\r\n", b"GET /\n", b"\r\nGET /x\r\n"])
def test_a_bare_line_is_answered_as_in_http_0_9(serve, data):
    assert exchange(serve(), data) == b"well"


def test_a_bare_line_without_its_end_is_answered_when_the_client_has_no_more(serve):
    with connect(serve()) as client:
        client.sendall(b"GET /")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"well"


def test_a_request_that_comes_byte_by_byte(serve):
    with connect(serve()) as client:
        for byte in b"GET / HTTP/1.0\r\nA: b\r\n\r\n":
            client.sendall(bytes([byte]))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_empty_line_ahead_is_no_request(serve):
    with connect(serve()) as client:
        client.sendall(b"\r\n")
        time.sleep(0.1)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_who_connects_and_goes_is_not_worth_a_line(serve, book):
    port = serve()
    connect(port).close()
    ask("127.0.0.1", port, path="/last")
    book.wait_for("/last")
    assert sum("healthcheck" in line for line in book.lines()) == 1


@pytest.mark.parametrize("data, status", [
    (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"a" * 1_000_000, 414),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000, 431),
    (b"BREW / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000, 501),
    (b"POST / HTTP/1.0\r\n\r\n", 501), (b"GET / HTTP/3.0\r\n\r\n", 505), (b"GET / X/1.0\r\n\r\n", 400), (b"GET\r\n", 400),
], ids=range(10))
def test_who_is_refused_is_told_why(serve, data, status):
    """Though it may send much more than anybody reads."""
    with connect(serve()) as client:
        def send():
            with contextlib.suppress(OSError):
                client.sendall(data)
        sender = threading.Thread(target=send)
        sender.start()
        answer = client.recv(100)
        sender.join(10)
        assert answer.split(b" ")[1] == b"%d" % status


def test_as_many_headers_as_there_may_be(serve):
    assert b" 200 " in exchange(serve(), b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + b"\r\n")


def test_requests_behind_the_first_are_not_answered(serve):
    answer = exchange(serve(), b"GET / HTTP/1.1\r\n\r\n" + b"\xff\0GET / HTTP/1.1\r\n\r\n" * 20)
    assert answer.count(b"HTTP/1.1") == 1 and answer.endswith(b"\r\n\r\nwell")


def test_the_answer_may_depend_on_path_and_accept_header(serve):
    port = serve(lambda path, accept, waited: Answer(200, "text/plain", (f"{path} {accept}".encode(),)))
    assert ask("::1", port, path="/a?b", headers={"ACCEPT": "x/y", "Host": "h"})[2] == b"/a?b x/y"
    assert ask("::1", port)[2] == b"/ "
    assert exchange(port, b"GET / HTTP/1.0\r\nAccept: a/b\r\naccept: c/d\r\n\r\n").endswith(b"/ a/b,c/d")


# ---- Answers that take their time


def test_requests_wait_for_an_answer_in_the_making(serve, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE_S", 10)
    made = []
    port = serve(lambda path, accept, waited: WELL if made else None)
    with connect(port) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.recv(1)
        made.append(True)
        serve.server.wake()
        client.settimeout(60)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_when_it_takes_too_long_the_answer_before_it_has_to_do(serve):
    asked = []

    def answer(path, accept, waited):
        asked.append(waited)
        return WELL if waited >= web.PATIENCE_S else None
    assert ask("127.0.0.1", serve(answer))[0] == 200
    assert asked[0] < web.PATIENCE_S <= asked[-1] < web.PATIENCE_MOST_S


def test_when_there_is_none_before_it_the_answer_is_waited_for(serve, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE_MOST_S", 0.5)
    port = serve(lambda path, accept, waited: WELL if waited >= web.PATIENCE_MOST_S else None)
    assert ask("127.0.0.1", port)[0] == 200


@pytest.mark.parametrize("answer", [lambda *asked: None, lambda *asked: 1 // 0], ids=["none", "failure"])
def test_a_request_without_an_answer_is_hung_up_on(serve, answer, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE_MOST_S", 0.2)
    assert exchange(serve(answer), b"GET / HTTP/1.0\r\n\r\n") == b""


def test_of_many_answers_that_nobody_takes_the_oldest_go(serve, monkeypatch):
    monkeypatch.setattr(web, "HELD_BYTES", 20 << 20)
    numbers = iter(range(10))
    port = serve(lambda path, accept, waited: Answer(200, "text/plain", (b"", b"%d" % next(numbers) * (8 << 20))))
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(5):
            clients.append(stack.enter_context(connect(port)))
            clients[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert clients[-1].recv(1)
        sizes = []
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                sizes.append(sum(map(len, iter(lambda client=client: client.recv(1 << 20), b""))))
        assert [size > 8 << 20 for size in sizes[-2:]] == [True, True]
        assert sum(size > 8 << 20 for size in sizes) == 2


def test_an_answer_that_many_share_is_held_once(serve, monkeypatch):
    monkeypatch.setattr(web, "HELD_BYTES", 9 << 20)
    port = serve(Answer(200, "text/plain", (b"", bytes(8 << 20))))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        for client in clients:
            assert sum(map(len, iter(lambda client=client: client.recv(1 << 20), b""))) > 8 << 20


def test_before_the_server_is_opened_requests_wait(book):
    server = web.Server(Address("127.0.0.1", 0), lambda *asked: WELL, book.log)
    server.start()
    with connect(server.socket.getsockname()[1]) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.recv(1)
        server.open()
        client.settimeout(60)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    server.stop()


# ---- Addresses


@pytest.mark.parametrize("host, other", [("127.0.0.2", "127.0.0.1"), ("127.0.0.2", "::1"), ("::1", "127.0.0.1")])
def test_at_one_address_only(serve, host, other):
    port = serve(host=host)
    assert ask(host, port)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(other, port)


def test_an_address_of_one_link(serve):
    links = [name for _, name in socket.if_nameindex() if name != "lo"]
    with pytest.raises(StartError, match="cannot answer health checks on"):
        web.listen(Address("fe80::1%nowhere", 8080))
    with pytest.raises(StartError, match="does not have that address"):
        web.listen(Address(f"fe80::77%{(links or ['lo'])[0]}", 8080))


def test_an_address_of_another_host(book):
    for address in Address("192.0.2.77", 8080), Address("2001:db8::77", 8080):
        with pytest.raises(StartError, match="does not have that address; give -p one that `ip address` shows") as raised:
            web.Server(address, lambda *asked: WELL, book.log)
        assert address.host in str(raised.value)
