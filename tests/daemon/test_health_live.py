# SPDX-License-Identifier: MIT-0
"""Health as a running daemon tells it: each form has its shape, and the figures are those of what was sent."""
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import threading
import time

import pytest

import packets
from lab import CLIENT, ENI, HEALTH_PORT, SERVER

NUMBER = int, float

THREAD = {"valid": bool, "healthy": bool, "threadNumber": int, "threadId": int, "pktsIn": int, "bytesIn": int}
RECEIVER = {**THREAD, "secsSinceLastPacket": NUMBER}
TUNNEL = {"devname": str, "pktsOut": int, "bytesOut": int, "secsSincelastPacket": NUMBER,
          "threads": [{**THREAD, "secsSincelastPacket": NUMBER}]}
FLOW_CACHE = {"cacheName": str, "size": int, "timedOut": int, "idleTimeoutSecs": int}
SCHEMA = {
    "udp": {"UDPPacketReceiver": {"portNumber": int, "threads": [RECEIVER]}},
    "enis": [{"eniStr": str, "tunnelIn": TUNNEL, "tunnelOut": TUNNEL, "v4FlowCache": FLOW_CACHE,
              "v6FlowCache": FLOW_CACHE}],
}


def mismatches(value, schema, where="health"):
    """Where a value is not of the shape: all keys of the shape there, of the right type; others may be there too."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        return [text for key, part in schema.items()
                for text in (mismatches(value[key], part, f"{where}.{key}") if key in value else [f"{where} lacks {key}"])]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [text for index, item in enumerate(value) for text in mismatches(item, schema[0], f"{where}[{index}]")]
    if not isinstance(value, schema) or (schema is not bool and isinstance(value, bool)):
        return [f"{where} is {value!r}"]
    return []


def carry(lab):
    """Sends known traffic over two endpoints: counts and bytes of inner packets by endpoint."""
    sent = {}
    for index, count in enumerate((7, 12)):
        endpoint = lab.endpoint(ENI + index)
        made = [packets.udp(CLIENT[number % 2], SERVER[number % 2], 1000 + number % 4, 2, bytes(number))
                for number in range(count)]
        for packet in made:
            endpoint.send(packet)
        sent[endpoint.id] = endpoint, count, sum(map(len, made))
    assert lab.wait(lambda: lab.balancer.counters.returned == 19)
    return sent


def test_json_has_its_shape_and_the_very_figures(lab):
    daemon = lab.start("--udpthreads", "2", "--tunthreads", "2", "-i", "77")
    assert mismatches(daemon.health(), SCHEMA) == [] and daemon.health()["enis"] == []
    sent = carry(lab)
    assert lab.wait(lambda: sum(eni["tunnelIn"]["pktsOut"] for eni in daemon.health()["enis"]) == 19)  # told after the write
    status, headers, body = daemon.get()
    assert status == 200
    assert headers["Content-Type"].split(";")[0] == "application/json"
    assert headers["Cache-Control"] == "max-age=0, no-cache"
    assert int(headers["Content-Length"]) == len(body)
    health = json.loads(body)
    assert mismatches(health, SCHEMA) == []

    receiver = health["udp"]["UDPPacketReceiver"]
    assert receiver["portNumber"] == 6081
    assert [thread["threadNumber"] for thread in receiver["threads"]] == [0, 1]
    assert sum(thread["pktsIn"] for thread in receiver["threads"]) == 19
    assert sum(thread["bytesIn"] for thread in receiver["threads"]) == lab.balancer.counters.sent_bytes
    assert sorted(eni["eniStr"] for eni in health["enis"]) == sorted(sent)
    for eni in health["enis"]:
        endpoint, count, size = sent[eni["eniStr"]]
        assert eni["tunnelIn"]["devname"] == endpoint.gwi
        assert eni["tunnelOut"]["devname"] == endpoint.gwo
        assert (eni["tunnelIn"]["pktsOut"], eni["tunnelIn"]["bytesOut"]) == (count, size)
        assert (eni["tunnelOut"]["pktsOut"], eni["tunnelOut"]["bytesOut"]) == (0, 0)
        back = eni["tunnelOut"]["threads"]
        assert (sum(t["pktsIn"] for t in back), sum(t["bytesIn"] for t in back)) == (count, size)
        # A thread starts when it is needed, so whether the second is there depends on where the kernel sends the flows.
        writers = {thread["threadNumber"]: thread["pktsIn"] for thread in eni["tunnelIn"]["threads"]}
        assert writers and writers.items() <= {0: 0, 1: 0}.items()
        for version in 4, 6:
            cache = eni[f"v{version}FlowCache"]
            assert cache["cacheName"] == f"IPv{version} Flow Cache for ENI {eni['eniStr']}"
            assert (cache["size"], cache["timedOut"], cache["idleTimeoutSecs"]) == (2, 0, 77)
    threads = receiver["threads"] + [thread for eni in health["enis"] for tunnel in ("tunnelIn", "tunnelOut")
                                     for thread in eni[tunnel]["threads"]]
    assert all(thread["valid"] and thread["healthy"] for thread in threads)


def test_json_has_all_the_keys_in_the_order_monitoring_knows(lab):
    daemon = lab.start()
    carry(lab)

    def keys(value, schema):
        if isinstance(schema, dict):
            return [(key, keys(value[key], schema[key])) for key in value if key in schema]
        return [keys(value[0], schema[0])] if isinstance(schema, list) else None

    health = daemon.health()
    assert keys(health, SCHEMA) == keys(SCHEMA, SCHEMA)


def test_text_says_the_same(lab):
    daemon = start_text(lab)
    sent = carry(lab)
    written = re.compile(r"^Interface gwi-\w+: (\d+) packets out to OS", re.MULTILINE)
    assert lab.wait(lambda: sum(map(int, written.findall(daemon.get()[2].decode()))) == 19)
    status, headers, body = daemon.get("/whatever?path=1")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    text = body.decode()
    assert text.lower().startswith("<!doctype html>") and int(headers["Content-Length"]) == len(body)
    receivers = re.findall(r"^UDP receiver thread (\d+) \(ID (\d+)\): Healthy, (\d+) packets in, (\d+) bytes in, "
                           r"\d+\.\d{3}s since last packet\.$", text, re.MULTILINE)
    assert [int(line[0]) for line in receivers] == [0, 1]
    assert sum(int(line[2]) for line in receivers) == 19
    assert sum(int(line[3]) for line in receivers) == lab.balancer.counters.sent_bytes
    for endpoint, count, size in sent.values():
        assert f"Handler for ENI {endpoint.id}" in text
        for version in 4, 6:
            assert (f"IPv{version} Flow Cache for ENI {endpoint.id} : Contains 2 elements, of which 0 were just timed out "
                    "(idle timeout is 350 seconds).") in text
        part = text.split(f"Interface {endpoint.gwo}:")[1].split("Flow Cache")[0]
        threads = re.findall(r"^Tunnel handler thread \d+ \(ID \d+\): Healthy, (\d+) packets in from OS, (\d+) bytes",
                             part, re.MULTILINE)
        assert (sum(int(p) for p, _ in threads), sum(int(b) for _, b in threads)) == (count, size)
        assert f"Interface {endpoint.gwi}: {count} packets out to OS, {size} bytes out to OS" in text


def start_text(lab, *arguments):
    return lab.start("--udpthreads", "2", "--tunthreads", "1", *arguments, json_health=False)


def test_the_simple_form_is_the_status_alone(lab):
    daemon = start_text(lab, "-s")
    status, headers, body = daemon.get()
    assert (status, body, headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.10", "2001:db8:ffff::10"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_address_answers(lab, host, method):
    daemon = lab.start(hook=None)
    status, headers, body = daemon.get("/any/path", host, method)
    assert status == 200
    assert headers["Cache-Control"] == "max-age=0, no-cache"
    assert int(headers["Content-Length"]) > 0
    assert bool(body) == (method == "GET")


@pytest.mark.parametrize("arguments", [[], ["-s"]])
def test_it_is_503_while_stopping(lab, arguments):
    hook = """#!/bin/sh
[ "$1" = CREATE ] && exit 0
until [ -e "$(dirname "$0")/go" ]; do sleep 0.02; done
"""
    daemon = lab.start(*arguments, hook=hook)
    endpoint = lab.endpoint()
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: "created" in daemon.log())
    assert daemon.get()[0] == 200
    os.kill(daemon.pid, signal.SIGTERM)
    assert lab.wait(lambda: daemon.get()[0] == 503)
    if not arguments:
        assert "gwlbtun is stopping" in daemon.health()["reasons"]
    (lab.directory / "go").touch()
    assert daemon.process.wait(60) == 0


GARBAGE = [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"\r\n" * 100, b"GET\r\n\r\n", b"\0" * 70_000, b"POST / HTTP/1.1\r\n\r\n",
           b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"]


def test_what_clients_do_to_the_health_port_costs_the_traffic_nothing(lab):
    """Garbage, and a hundred clients that say nothing, while packets stream."""
    daemon = lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"good")
    endpoint.send(packet)
    assert lab.wait(lambda: endpoint.received == [packet])
    before, begin = len(daemon.log().splitlines()), time.monotonic()
    done = threading.Event()
    streamer = threading.Thread(target=lambda: stream(endpoint, packet, done))
    streamer.start()
    try:
        with contextlib.ExitStack() as clients:
            def connect():
                with lab.appliance.entered():
                    return clients.enter_context(socket.create_connection(("127.0.0.1", HEALTH_PORT), timeout=60))

            for _ in range(100):
                connect()
            garbage = itertools.cycle(GARBAGE)
            while lab.balancer.counters.sent < 1000:
                with contextlib.suppress(ConnectionError):
                    client = connect()
                    client.sendall(next(garbage))
                    assert b" 200 " not in client.recv(65536).split(b"\r\n")[0]
            assert daemon.get()[0] == 200
    finally:
        done.set()
        streamer.join()
    assert lab.wait(lambda: len(endpoint.received) == lab.balancer.counters.sent)
    assert daemon.drops() == {}
    assert len(daemon.log().splitlines()) - before <= time.monotonic() - begin
    assert daemon.errors() == ""


def stream(endpoint, packet, done):
    while not done.wait(0.001):
        endpoint.send(packet)


def test_seconds_since_the_last_packet_start_anew_with_each(lab):
    daemon = lab.start("--udpthreads", "1", "--tunthreads", "1")
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2)

    def ages():
        health = daemon.health()
        eni = health["enis"][0]
        return (health["udp"]["UDPPacketReceiver"]["threads"][0]["secsSinceLastPacket"],
                eni["tunnelIn"]["secsSincelastPacket"], eni["tunnelOut"]["threads"][0]["secsSincelastPacket"])

    endpoint.send(packet)
    assert lab.wait(lambda: len(endpoint.received) == 1)
    assert lab.wait(lambda: min(ages()) > 0.5)
    before = ages()
    endpoint.send(packet)
    assert lab.wait(lambda: len(endpoint.received) == 2)
    # The thread that returns a packet notes the time a moment later.
    assert lab.wait(lambda: endpoint.send(packet) or all(new < old for new, old in zip(ages(), before)))


def test_what_the_kernel_drops_for_want_of_buffer_is_counted_and_told(lab):
    daemon = lab.start("--rcvbuf", "1", "--udpthreads", "2")
    endpoint = lab.endpoint()
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        for number in range(3000):
            endpoint.send(packets.udp(CLIENT[0], SERVER[0], number % 50, 2, bytes(1000)))
    finally:
        os.kill(daemon.pid, signal.SIGCONT)

    def accounted():
        health = daemon.health()
        return health["totals"]["pktsFromGwlb"] + health["udp"]["UDPPacketReceiver"]["socketDrops"] == 3000
    assert lab.wait(accounted)
    assert 0 < daemon.health()["totals"]["pktsFromGwlb"] < 3000
    assert lab.wait(lambda: "the receivers do not keep up with what comes" in daemon.log())
