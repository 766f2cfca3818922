# SPDX-License-Identifier: MIT-0
"""/metrics and its neighbours before clients that ask oddly, too often, or all at once."""
import contextlib

import pytest

import packets
from gwlbtun import web
from lab import CLIENT, SERVER
from scrapes import PROMETHEUS, parse, scrape

pytestmark = pytest.mark.one_path


@pytest.fixture
def daemon(lab):
    daemon = lab.start("--udpthreads", "1", "--tunthreads", "1")
    lab.endpoint().send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: lab.balancer.counters.returned == 1)
    daemon.wait_hooks_read()
    return daemon


def read(client):
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: client.recv(65536), b""))
    return b""


def exchange(daemon, request):
    """What comes back: the status line, headers and body."""
    with daemon.connect(20) as client:
        client.sendall(request)
        head, _, body = read(client).partition(b"\r\n\r\n")
        return head.decode().split("\r\n"), body.decode()


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_whatever_the_accept_header_is_one_format_comes_whole(daemon, version):
    for accept in ["q=", ";q=0", "*/*;q=nan", "text/plain;q=-1", ",,,;;;===", "\xff\xfe", "a" * 16_000, "a/b," * 4_000,
                   "application/openmetrics-text;q=" + "9" * 15_000, ";q=1" * 4_000, "application/openmetrics-text\t;\tq=1"]:
        request = f"GET /metrics {version}\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode("latin-1")
        head, body = exchange(daemon, request)
        assert head[0] == "HTTP/1.1 200 OK", accept[:50]
        assert f"Content-Length: {len(body)}" in head
        assert parse(body).value("gwlbtun_healthy") == 1
        assert body.endswith("# EOF\n") == ("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head)


def test_what_is_too_long_is_refused(daemon):
    for request, status in {b"GET /metrics?" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n": "414",
                            b"GET /metrics HTTP/1.1\r\nAccept: " + b"a," * 10_000 + b"\r\n\r\n": "431"}.items():
        assert exchange(daemon, request)[0][0].split()[1] == status
    assert scrape(daemon).value("gwlbtun_healthy") == 1


WAYS_TO_WRITE_IT = ["/metrics", "/metrics?x=y", "/metrics/", "/metrics?a=/../../etc/passwd&name[]=up", "/metrics#x",
                    "/%6detrics", "/m%65trics?%00", "//metrics", "http://gwlbtun:8080/metrics"]
OTHERS = ["/../metrics", "/metrics/..", "/metrics/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/metricsx", "/METRICS",
          "/%2e%2e/metrics", "/metrics%00", "/metrics;x", "metrics", "/%", "/%zz"]


def test_ways_to_write_the_path(daemon):
    for target in WAYS_TO_WRITE_IT:
        head, body = exchange(daemon, f"GET {target} HTTP/1.1\r\n\r\n".encode())
        assert head[0] == "HTTP/1.1 200 OK" and parse(body).value("gwlbtun_up") == 1, target


def test_what_is_not_the_path_is_health(daemon):
    for target in OTHERS:
        head, body = exchange(daemon, f"GET {target} HTTP/1.1\r\n\r\n".encode())
        assert head[0] == "HTTP/1.1 200 OK" and "Content-Type: application/json" in head, target
        assert body.startswith('{"healthy": true'), target


def test_head_and_other_methods(daemon):
    for accept in "", PROMETHEUS:
        status, headers, body = daemon.get("/metrics", method="HEAD", accept=accept)
        assert (status, body) == (200, b"") and int(headers["Content-Length"]) > 1000
        assert headers["Content-Type"].startswith("application/openmetrics-text" if accept else "text/plain")
    for method in "POST", "PUT", "DELETE", "OPTIONS", "PRI":
        assert daemon.get("/metrics", method=method)[0] == 501


def test_a_thousand_clients_in_all_forms(daemon):
    threads = daemon.threads_but_tunnels()
    paths = ["/metrics", "/json", "/text", "/"]
    for wave in range(5):
        with contextlib.ExitStack() as clients:
            asked = [clients.enter_context(daemon.connect()) for _ in range(200)]
            for number, client in enumerate(asked):
                client.sendall(f"GET {paths[number % len(paths)]} HTTP/1.1\r\n\r\n".encode())
            answers = [read(client) for client in asked]
        assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers), wave
        assert all(parse(answer.decode().partition("\r\n\r\n")[2]).value("gwlbtun_up") for answer in answers[::40])
    assert daemon.threads_but_tunnels() == threads


def test_clients_that_ask_and_leave_or_do_not_read(daemon):
    threads = daemon.threads_but_tunnels()
    with contextlib.ExitStack() as clients:
        for number in range(web.CONNECTIONS + 50):
            client = daemon.connect()
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            if number % 2:
                client.close()
            else:
                clients.enter_context(client)
        assert scrape(daemon).value("gwlbtun_up") == 1
        assert daemon.threads_but_tunnels() == threads
