# SPDX-License-Identifier: MIT-0
"""The table of endpoints by itself, with what no daemon can be brought to from outside."""
import errno
import os
import signal
import socket
import threading
import time

import pytest

import netns
import packets
from gwlbtun import endpoint as endpoint_module
from gwlbtun import fastpath, rpfilter, starter, tunnel, worker
from gwlbtun.endpoint import State
from gwlbtun.endpoints import Endpoints
from gwlbtun.identity import Identity, NamedEndpoint
from gwlbtun.kernel.path import Path
from gwlbtun.settings import Settings
from gwlbtun.sources import Sources
from lab import CLIENT, ENI, SERVER
from logbook import Logbook

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")
HEADER = "#!/bin/sh -e\n"


class Table:
    """A table of endpoints in a namespace, and its log."""

    def __init__(self, directory):
        self.directory = directory
        self.book = Logbook(directory)
        self.stopping = threading.Event()
        self.handler = fastpath.Handler(fastpath.Shim(), 1, 2, 16, 1024, 350, 120, 0)

    def make(self, hook=None, **settings):
        """The table itself; the hook is the text of a script for CREATE and DESTROY."""
        if hook:
            path = self.directory / "hook.sh"
            path.write_text(HEADER + hook)
            path.chmod(0o755)
            hook = str(path)
        chosen = Settings(create_hook=hook, destroy_hook=hook, tunnel_threads=2, kernel_path="off", **settings)
        kernel = Path(chosen, False, None, self.stopping, self.book.log)
        self.endpoints = Endpoints(self.handler, chosen, 0, Sources(self.handler, Settings(), self.book.log), kernel,
                                   self.stopping, self.book.log)
        self.endpoints.start()
        return self.endpoints

    def admit(self, eni=ENI):
        assert self.endpoints.admit(eni)
        return self.endpoints.all()[-1]

    def stop(self):
        self.stopping.set()
        self.endpoints.stop()

    def close(self):
        self.stop()
        self.handler.free()
        self.book.close()


@pytest.fixture
def table(tmp_path):
    with netns.Namespace("table") as namespace, namespace.entered():
        made = Table(tmp_path)
        yield made
        made.close()


def wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def starve(monkeypatch, starved):
    """While starved is set there is no room for T threads."""
    start = threading.Thread.start

    def starving_start(thread):
        if starved.is_set() and thread.name.startswith("gwlbtun T"):
            raise RuntimeError("can't start new thread")
        start(thread)
    monkeypatch.setattr(worker.threading.Thread, "start", starving_start)


RECORD = 'echo $1 >> "$(dirname "$0")/calls"\n'


def test_threads_that_could_not_be_started_are_started_later(table, monkeypatch):
    monkeypatch.setattr(starter, "RETRY_S", 0.05)
    starved = threading.Event()
    starved.set()
    starve(monkeypatch, starved)
    table.make(RECORD)
    endpoint = table.admit()
    wait(lambda: endpoint.state is State.UP)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as linux:
        linux.sendto(PACKET, (endpoint.outward.name, 0x0800))
    table.book.wait_for("gwlbtun cannot start a tunnel thread (can't start new thread: allow more of them")
    assert endpoint.outward.threads == []
    starved.clear()
    wait(lambda: endpoint.counters()["drop_no_flow"] == 1)
    table.book.wait_for("gwlbtun can start tunnel threads again.")
    assert [worker.name[:9] for worker, _ in endpoint.outward.threads] == ["gwlbtun T"]
    assert endpoint.inward.threads == []
    assert (table.directory / "calls").read_text() == "CREATE\n"


def test_what_the_create_hook_set_up_is_taken_down_however_far_the_endpoint_came(table, monkeypatch):
    monkeypatch.setattr(rpfilter.ReversePathFilter, "tell_if_overruled", lambda self: 1 / 0)
    table.make(RECORD)
    endpoint = table.admit()
    wait(lambda: endpoint.failure)
    table.stop()
    assert (table.directory / "calls").read_text() == "CREATE\nDESTROY\n"


def test_named_endpoints_for_which_there_is_no_room_are_told_and_made_later(table):
    named = tuple(NamedEndpoint(eni, f"n{eni}") for eni in range(1, 18))  # there are 16 slots
    endpoints = table.make(endpoints=named)
    assert len(endpoints.all()) == 16
    assert endpoints.unmade() == [(Identity(17, "n17", named=True), "No space left on device")]
    wait(lambda: all(endpoint.state is State.UP for endpoint in endpoints.all()))
    victim = endpoints.all()[0]
    victim.native.unpublish()
    victim.leaving.set()
    victim.advance()
    wait(lambda: victim not in endpoints.all())
    endpoints.tick()  # it comes back, or the last one comes: there is one slot for the two of them
    assert len(endpoints.all()) == 16
    table.book.wait_for(f"Cannot make the endpoint of ENI ID {17:017x} (n17): No space left on device.")


def test_no_destroy_hook_without_interfaces(table, monkeypatch):
    def refuse(self, *arguments):
        raise OSError(28, "no room")
    monkeypatch.setattr(tunnel.Tunnel, "create", refuse)
    table.make(RECORD)
    endpoint = table.admit()
    wait(lambda: endpoint.failure)
    table.stop()
    assert not (table.directory / "calls").exists()


def test_an_endpoint_that_failed_is_unhealthy_until_it_is_up(table, monkeypatch):
    """Also at the moment it is tried again."""
    monkeypatch.setattr(endpoint_module, "RETRY_S", 0.01)
    seen, create = [], tunnel.Tunnel.create

    def refuse_three_times(one, *arguments):
        endpoint, = table.endpoints.all()
        seen.append((endpoint.state, endpoint.failure))
        if len(seen) <= 3:
            raise OSError(28, "no room")
        create(one, *arguments)
    monkeypatch.setattr(tunnel.Tunnel, "create", refuse_three_times)
    table.make()
    endpoint = table.admit()
    wait(lambda: table.endpoints.tick() or endpoint.state is State.UP)
    assert seen == [(State.CREATING, None)] + [(State.CREATING, "no room")] * (len(seen) - 1)
    assert endpoint.failure is None


def test_totals_hold_nobody_up_and_lose_nothing_when_an_endpoint_goes_meanwhile(table, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    rows = fastpath.NativeEndpoint.rows

    def slow_rows(native, side):
        if threading.current_thread().name == "slow" and side == fastpath.GWO:
            reading.set()
            assert go_on.wait(200)
        return [row._replace(packets_in=1 if native._endpoint else 0) for row in rows(native, side)]
    monkeypatch.setattr(fastpath.NativeEndpoint, "rows", slow_rows)
    table.make()
    endpoint = table.admit()
    wait(lambda: endpoint.state is State.UP)
    totals = []
    slow = threading.Thread(target=lambda: totals.append(table.endpoints.totals()), name="slow", daemon=True)
    slow.start()
    assert reading.wait(60)
    admitted = threading.Thread(target=table.endpoints.admit, args=(ENI + 1,), daemon=True)
    admitted.start()
    admitted.join(60)
    assert not admitted.is_alive()
    stop = threading.Thread(target=table.stop, daemon=True)
    stop.start()
    stop.join(60)
    assert not stop.is_alive()
    go_on.set()
    slow.join(60)
    assert totals[0]["packets_in"] == 4  # two threads of each interface
    assert table.endpoints.totals()["packets_in"] == 8


def test_a_thread_that_is_short_of_memory_tries_again(table, monkeypatch):
    monkeypatch.setattr(tunnel, "RETRY_S", 0.02)
    run, tries = fastpath.NativeEndpoint.run, []

    def short_of_memory(native, side, thread, fd):
        tries.append(side)
        if len(tries) <= 3:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        run(native, side, thread, fd)
    monkeypatch.setattr(fastpath.NativeEndpoint, "run", short_of_memory)
    table.make()
    endpoint = table.admit()
    wait(lambda: endpoint.state is State.UP)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as linux:
        linux.sendto(PACKET, (endpoint.outward.name, 0x0800))
    wait(lambda: endpoint.counters()["drop_no_flow"] == 1)
    (worker, _), = endpoint.outward.threads
    assert worker.alive and worker.failure is None
    assert "\n".join(table.book.lines()).count("cannot work: Cannot allocate memory") == 1


def test_an_endpoint_comes_back_while_a_child_holds_copies_of_its_descriptors(table):
    """As a process does that is being started, until it is another program."""
    table.make()
    endpoint = table.admit()
    wait(lambda: endpoint.state is State.UP)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        assert table.endpoints.make_room() is endpoint
        successor = table.admit()
        wait(lambda: successor is not endpoint and successor.state is State.UP)
        assert successor.failure is None and not any("Cannot create" in line for line in table.book.lines())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
