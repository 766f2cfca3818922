# SPDX-License-Identifier: MIT-0
"""What the demo tries, step by step: each says how it went."""
import contextlib
import http.client
import os
import select
import socket
import struct
import time
from typing import Callable, List, NamedTuple, Optional, Tuple

from . import netns, packets
from .scene import BULK_PORT, CLOSED_PORT, OPEN_PORT, SERVER, Scene

PINGS = 3
PING_S = 10.0    # for its answer
LOOK_S = 0.5     # between looks whether there can be one
ANSWER_S = 5.0
BLOCKED_S = 1.0  # without an answer, a page is blocked
BULK_S = 2.0
BULK_PIECE = bytes(1 << 18)

STRANGER = "198.51.100.66"
STRANGERS_PORT = 6666


class Outcome(NamedTuple):
    """How a step went."""

    good: bool
    texts: Tuple[str, ...]


class Step(NamedTuple):
    """One thing to try. act() raises StartError when gwlbtun does not answer, and Interrupted. Either ends the demo."""

    label: str
    act: Callable[[Scene], Outcome]


def start(scene: Scene) -> Outcome:
    begin = time.monotonic()
    scene.wait()
    return Outcome(True, (f"is ready after {time.monotonic() - begin:.1f} s",))


def ping(scene: Scene) -> Outcome:
    with scene.client.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sender:
        sender.connect((SERVER, 0))
        for number in range(PINGS):
            seconds = _round_trip(scene, sender, number)
            if seconds is None:
                return Outcome(False, (f"{SERVER} answers {number} of {PINGS}",))
            text = f"{SERVER} answers {PINGS} of {PINGS}, the last in {seconds * 1000:.1f} ms"
    return Outcome(True, (text,))


def _round_trip(scene: Scene, sender: socket.socket, number: int) -> Optional[float]:
    """Sends an echo request; the seconds until its answer. The first packet of all waits for the create hook."""
    body = struct.pack("!HH", os.getpid() & 0xFFFF, number) + b"gwlbtun"
    request = struct.pack("!BBH", packets.ECHO_REQUEST[4], 0, 0) + body
    begin = time.monotonic()
    sender.send(request[:2] + struct.pack("!H", packets.checksum(request)) + body)
    while time.monotonic() < begin + PING_S and not scene.health()["hooksFailed"]:
        scene.signals.check()
        while select.select([sender], [], [], LOOK_S)[0]:
            packet = sender.recv(65535)
            start = (packet[0] & 15) * 4
            if packet[start] == packets.ECHO_REPLY[4] and packet[start + 4:] == body:
                return time.monotonic() - begin
    return None


def open_page(scene: Scene) -> Outcome:
    url = f"http://{SERVER}/"
    try:
        size = len(_fetch(scene.client, OPEN_PORT, ANSWER_S))
    except (OSError, http.client.HTTPException) as error:
        return Outcome(False, (f"{url} cannot be fetched: {error}",))
    return Outcome(True, (f"{url} passes, {size} bytes",))


def blocked_page(scene: Scene) -> Outcome:
    url = f"http://{SERVER}:{CLOSED_PORT}/"
    try:
        _fetch(scene.server, CLOSED_PORT, ANSWER_S)
    except (OSError, http.client.HTTPException) as error:
        return Outcome(False, (f"{url} is not there: {error}",))
    try:
        _fetch(scene.client, CLOSED_PORT, BLOCKED_S)
    except socket.timeout:
        return Outcome(True, (f"{url} is blocked: no answer in {BLOCKED_S:.0f} s, though the server has it",))
    except (OSError, http.client.HTTPException) as error:
        return Outcome(False, (f"{url} is not blocked silently: {error}",))
    return Outcome(False, (f"{url} is not blocked",))


def _fetch(client: netns.Namespace, port: int, patience: float) -> bytes:
    connection = http.client.HTTPConnection(SERVER, port, timeout=patience)
    with contextlib.closing(connection):
        with client.entered():
            connection.connect()
        connection.request("GET", "/")
        return connection.getresponse().read()


def forgery(scene: Scene) -> Outcome:
    before = scene.health()["drops"]["source_refused"]
    scene.balancer.transmit(STRANGER, STRANGERS_PORT, scene.endpoint.header(0, 4) + bytes(20))
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        if scene.health()["drops"]["source_refused"] == before + 1:
            return Outcome(True, (f"Geneve from {STRANGER}, which is no load balancer, is refused",))
        time.sleep(0.02)
    return Outcome(False, (f"Geneve from {STRANGER}, which is no load balancer, is not refused",))


def bulk(scene: Scene) -> Outcome:
    begin, processor_s = time.monotonic(), scene.cpu_s()
    try:
        sent = _send_bulk(scene)
    except OSError as error:
        return Outcome(False, (f"the connection to port {BULK_PORT} fails: {error}",))
    arrived = scene.sink.ended.wait(ANSWER_S)
    seconds = time.monotonic() - begin
    if not arrived or scene.sink.received != sent:
        return Outcome(False, (f"{scene.sink.received:,} of {sent:,} bytes have arrived",))
    core = (scene.cpu_s() - processor_s) / seconds
    return Outcome(True, (
        f"{sent * 8 / seconds / 1e6:,.0f} Mbit/s for {seconds:.1f} s, and every byte arrives",
        f"the load balancer, here in Python, sets the rate; gwlbtun takes {core:.0%} of a core"))


def _send_bulk(scene: Scene) -> int:
    """Bytes sent."""
    sent = 0
    scene.sink.ended.clear()
    with scene.client.entered():
        connection = socket.create_connection((SERVER, BULK_PORT), ANSWER_S)
    with connection:
        end = time.monotonic() + BULK_S
        while time.monotonic() < end:
            scene.signals.check()
            connection.sendall(BULK_PIECE)
            sent += len(BULK_PIECE)
    return sent


STEPS: List[Step] = [
    Step("gwlbtun", start),
    Step("ping", ping),
    Step("page", open_page),
    Step("page", blocked_page),
    Step("forgery", forgery),
    Step("bulk TCP", bulk),
]
