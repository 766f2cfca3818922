# SPDX-License-Identifier: MIT-0
"""Health checks while others load the health port: each is answered soon, by the threads there were from the start."""
import contextlib
import json
import socket
import sys
import time

import pytest

import packets
from fixtures import laboratory_in
from gwlbtun import web
from lab import CLIENT, ENI, HEALTH_PORT, SERVER

pytestmark = [pytest.mark.one_path, pytest.mark.alone]

ENDPOINTS = 100
SOON_S = 0.5

# Asks so many times a second, for so many seconds, for each path in turn; reads each answer to its end. Who is turned away, as
# too many ask at once on a slow machine, asks again. Prints how many were answered.
FLOOD = """
import contextlib, socket, sys, threading, time
port, rate, seconds = map(int, sys.argv[1:4])
paths = sys.argv[4:]
answered = []

def ask(path):
    size = 0
    while not size:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
            size = sum(map(len, iter(lambda: client.recv(1 << 20), b"")))
    answered.append(True)

begin = time.monotonic()
askers = []
for number in range(rate * seconds):
    time.sleep(max(begin + number / rate - time.monotonic(), 0))
    askers.append(threading.Thread(target=ask, args=(paths[number % len(paths)],)))
    askers[-1].start()
for asker in askers:
    asker.join()
print(len(answered))
"""


def with_endpoints(lab):
    """A daemon with many endpoints, none of which returns anything."""
    daemon = lab.start("--tunthreads", "2", hook=None)
    for number in range(ENDPOINTS):
        lab.endpoint(ENI + number).send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: daemon.log().count("created.") == ENDPOINTS)
    return daemon


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    with laboratory_in(tmp_path_factory.mktemp("busy")) as lab:
        yield with_endpoints(lab)


@pytest.fixture
def fresh(lab):
    """As busy, with memory that nobody has used before."""
    return with_endpoints(lab)


def check(daemon):
    """What the load balancer does: how long the status takes."""
    begin = time.monotonic()
    with daemon.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        return time.monotonic() - begin


def answers_soon(daemon, checks=20):
    """All of them; as to the time, most of them, for the machine may have other work."""
    took = sorted(check(daemon) for _ in range(checks) if not time.sleep(0.05))
    assert took[checks // 2] < SOON_S, took


def resident(daemon):
    """Megabytes of memory. A sanitizer keeps for a while what has been given back, so that it would tell nothing."""
    return 0 if daemon.sanitized else daemon.memory() / (1 << 20)


@pytest.mark.parametrize("paths", [["/"], ["/metrics", "/json", "/text", "/any"]], ids=["health", "all"])
def test_100_requests_a_second_with_100_endpoints(busy, paths):
    threads = busy.threads_but_tunnels()
    answers_soon(busy)
    flood = busy.namespace.start(sys.executable, "-c", FLOOD, str(HEALTH_PORT), "100", "3", *paths, stdout=-1)
    time.sleep(0.5)
    answers_soon(busy)
    assert busy.threads_but_tunnels() == threads
    assert int(flood.communicate(timeout=60)[0]) == 300


def test_who_asks_within_a_second_shares_a_report(busy):
    begin = time.monotonic()
    reports = [busy.get()[2] for _ in range(50)]
    assert len(set(reports)) <= 2 * (time.monotonic() - begin) + 2
    old, end = json.loads(reports[-1])["uptimeSecs"], time.monotonic() + 60
    while json.loads(busy.get()[2])["uptimeSecs"] < old + 0.9:  # a busy machine makes fewer reports
        assert time.monotonic() < end
        time.sleep(0.2)


def test_fat_headers_leave_no_memory_behind(fresh):
    answers_soon(fresh)
    before, threads = resident(fresh), fresh.threads_but_tunnels()
    request = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"y" * 60_000) for number in range(99))
    with contextlib.ExitStack() as clients:
        fat = [clients.enter_context(fresh.connect()) for _ in range(64)]
        for client in fat:
            client.setblocking(False)
        for _ in range(20):
            for client in fat:
                with contextlib.suppress(OSError):
                    client.send(request)
            check(fresh)
        answers_soon(fresh)
    assert resident(fresh) - before < 20
    assert fresh.threads_but_tunnels() == threads


@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: "], ids=["nothing", "part", "headers"])
def test_clients_that_do_not_finish_their_request(busy, request_bytes):
    threads = busy.threads_but_tunnels()
    with contextlib.ExitStack() as clients:
        for _ in range(web.CONNECTIONS + 50):
            clients.enter_context(busy.connect()).sendall(request_bytes)
        answers_soon(busy)
        assert busy.threads_but_tunnels() == threads


def test_clients_that_do_not_read_their_answer(fresh):
    before, threads = resident(fresh), fresh.threads_but_tunnels()
    with contextlib.ExitStack() as clients:
        for _ in range(200):
            client = clients.enter_context(fresh.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answers_soon(fresh)
        assert resident(fresh) - before < 20
        assert fresh.threads_but_tunnels() == threads


def test_without_a_descriptor_left_clients_are_let_go_and_checks_answered(lab):
    daemon = lab.start("--udpthreads", "1", "--tunthreads", "1", hook=None)
    used = daemon.descriptors()
    lab.appliance.run("prlimit", f"--pid={daemon.pid}", f"--nofile={used + 5}")
    with contextlib.ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(daemon.connect())
        answers_soon(daemon, 10)


def test_a_large_answer_arrives_whole(busy):
    with busy.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while True:
            piece = client.recv(10_000)
            if not piece:
                break
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head.split(b"\r\n")
    assert json.loads(body)["healthy"] is True
