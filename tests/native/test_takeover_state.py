# SPDX-License-Identifier: MIT-0
"""The state that a program takes over may be anything: it takes what it can, raises nothing, and leaves nothing open."""
import copy
import json
import os
import random
import socket
import threading
import traceback

import pytest

from gwlbtun import cli, fastpath
from gwlbtun.endpoints import Endpoints
from gwlbtun.kernel.path import Path
from gwlbtun.logs import FORMATS, Log
from gwlbtun.patrol import Patrol
from gwlbtun.receiver import Receiver
from gwlbtun.settings import Place
from gwlbtun.sources import Sources
from gwlbtun.takeover import state
from gwlbtun.takeover.inheritance import Inheritance
from gwlbtun.watch import DropWatch

ROUNDS = 300
RECEIVERS = 2
ENI = 0x1234
ODD = (None, True, -1, 0, 1, 2, 7, 1 << 31, 1 << 64, 1 << 70, 1.5, float("nan"), float("inf"), "", "x", "17", [], {}, [1], [[]],
       {"a": None}, {"fd": 0}, {"fds": [1]})


class Health:
    def resume(self, started):
        self.started = started


class Parts:
    """Of a daemon, what takes over. Nothing of it runs."""

    def __init__(self, handler):
        self.settings = cli.parse(["--udpthreads", "2", "--max-flows", "1024", "-p", "80"])
        self.log = Log(self.settings.log_levels, FORMATS["text"])
        self.shim = fastpath.Shim()
        self.handler = handler
        self.sources = Sources(self.handler, self.settings, self.log)
        self.stopping = threading.Event()
        kernel = Path(self.settings, False, None, self.stopping, self.log)
        self.endpoints = Endpoints(self.handler, self.settings, 0, self.sources, kernel, self.stopping, self.log)
        self.drops = DropWatch(self.shim.drop_texts, self.log)
        self.patrol = Patrol(self.endpoints, None, self.shim.drop_texts, self.stopping, self.log)


def make(flows_fd):
    return fastpath.Handler(fastpath.Shim(), RECEIVERS, 1, 16, 1024, 60, 60, 0, -1, flows_fd)


def new_log():
    return Log(cli.parse([]).log_levels, FORMATS["text"])


def pipe():
    read, write = os.pipe()
    os.close(write)
    return read


def leave():
    """The state of a program with an endpoint, and what it leaves open."""
    flows = os.memfd_create("flows")
    parts = Parts(make(flows))
    parts.endpoints.admit(ENI)
    endpoint = parts.endpoints.record()["each"][0]
    queues = [pipe(), pipe()]  # which are no TUN devices, so the endpoint cannot be adopted whole
    endpoint["interfaces"] = {"made_namespace": False, "surroundings": None, "tunnels": [
        {"index": 7, "tx_queue": 500, "fds": [fd], "link": {"fault": ""}} for fd in queues]}
    endpoint["open"], endpoint["state"] = True, "up"
    waiting = os.memfd_create("packets")
    parts.handler.leave(waiting)
    receivers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach() for _ in range(2)]
    server, control = socket.socket().detach(), socket.socket(socket.AF_UNIX).detach()
    output = pipe()
    descriptors = [flows, waiting, *receivers, *queues, server, control, output]
    for fd in descriptors:
        os.set_inheritable(fd, True)
    counters = parts.handler.receiver_counters(0)
    outline = state.outline(parts.settings, parts.shim, 1)
    return {**outline, "outline": outline, "descriptors": descriptors, "flows_fd": flows, "packets_fd": waiting,
            "patrol": parts.patrol.record(), "paused_ns": 1, "started": 1.0, "told": {"drop_send": 1},
            "receivers": [{"fd": fd, "counters": counters} for fd in receivers], "retired": [{**counters, "socket_drops": 5}],
            "server": {"fd": server, "address": "80"}, "control": {"fd": control, "path": "/nowhere"},
            "outputs": {str(output): "hook"}, "deleted": [900],
            "endpoints": {"each": [endpoint], "buried": {"packets_in": 3}, "hooks": parts.endpoints.hooks.record()}}


def places(value, path=()):
    """Every place in it, from the outside in."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from places(below, path + (key,))


def change(whole, rng):
    """Another value somewhere, or none, or what is elsewhere."""
    path = rng.choice([path for path in places(whole) if path])
    within = whole
    for key in path[:-1]:
        within = within[key]
    kind = rng.randrange(4)
    if kind == 0 and isinstance(within, dict):
        del within[path[-1]]
    elif kind == 1:
        other = whole
        for key in rng.choice(list(places(whole))):
            other = other[key]
        within[path[-1]] = copy.deepcopy(other)
    else:
        within[path[-1]] = rng.choice(ODD)


def open_descriptors():
    return {int(name) for name in os.listdir("/proc/self/fd")}


def take_over(left):
    """As a program after execve() does, but for what runs."""
    memory = state.write(left)
    os.set_inheritable(memory, True)
    os.environ[state.VARIABLE] = str(memory)
    inherited = Inheritance(new_log())
    assert inherited
    handler, _ = inherited.with_flows(make)
    parts = Parts(handler)
    inherited.health_listener(parts.settings.health_port)
    inherited.claim("")
    receivers = [Receiver(index, Place("U", index, None), handler, socket.socket(), parts.log) for index in range(RECEIVERS)]
    inherited.resume(handler, receivers, parts.endpoints, parts.sources, Health(), parts.drops, parts.patrol)
    inherited.tell(False)
    for endpoint in parts.endpoints.all():
        endpoint.counters()
        endpoint.native.last_ns()
    kept = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_descriptors() if fd > 2 and _is_inheritable(fd)]
    assert all(name.startswith("pipe:") for name in kept), kept  # which may be of whoever has started it
    return parts


def _is_inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def in_a_child(work):
    """What the child has to say against it; nothing if all is well."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in open_descriptors():  # of the tests, what is inheritable is none of a program's business
                if fd > 2 and _is_inheritable(fd):
                    os.set_inheritable(fd, False)
            os.dup2(null, 1)
            work()
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode()[-4000:])
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(child, 0)
    return said or (f"status {status}" if status else "")


def test_an_unchanged_state_is_taken_over():
    def work():
        left = leave()
        parts = take_over(left)
        endpoint, = parts.endpoints.all()
        assert endpoint.eni == ENI and endpoint.native.slot() == 0
        assert parts.endpoints.totals()["packets_in"] == 3
    assert in_a_child(work) == ""


@pytest.mark.parametrize("seed", range(4))
def test_any_state_is_survived(seed):
    for number in range(ROUNDS // 4):
        rng = random.Random(f"{seed}-{number}")

        def work():
            left = leave()
            before = json.dumps(left, default=str)
            for _ in range(rng.choice((1, 1, 2, 5))):
                change(left, rng)
            try:
                take_over(left)
            except BaseException as error:
                raise AssertionError(f"{before}\n{json.dumps(left, default=str)}") from error
        assert in_a_child(work) == "", (seed, number)


def test_a_state_that_would_be_cut_is_not_left(monkeypatch):
    monkeypatch.setattr(state, "BYTES_MOST", 100)
    assert state.read(state.write({"x": "y" * 80})) == {"x": "y" * 80}
    with pytest.raises(OSError, match="the state is larger than"):
        state.write({"x": "y" * 100})


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"takeover": 1', b'{"takeover": 0}', b"[" * 100_000])
def test_what_is_no_state_leaves_a_program_that_starts_afresh(octets):
    def work():
        left = leave()
        memory = os.memfd_create("state")
        os.write(memory, octets)
        os.lseek(memory, 0, os.SEEK_SET)
        os.set_inheritable(memory, True)
        os.environ[state.VARIABLE] = str(memory)
        inherited = Inheritance(new_log())
        assert inherited and inherited.sockets == []
        gone = [fd for fd in left["descriptors"] if not os.path.exists(f"/proc/self/fd/{fd}")]
        outputs_and_queues = 3  # pipes
        assert len(gone) == len(left["descriptors"]) - outputs_and_queues
    assert in_a_child(work) == ""
