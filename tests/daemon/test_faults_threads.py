# SPDX-License-Identifier: MIT-0
"""A thread that dies: what it did is taken up again, or the program ends cleanly and says by status 1 that it has to."""
import errno
import re
import time

import pytest

import gwlb
import lab as laboratory
import packets
from faulty import Faulty
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from spinning import busiest

PACKET = packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"x")

# The command, of which a function fails while there is a fault. Threads of the packet path cannot look for files.
FAILING = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
from gwlbtun import cli, {module}

genuine = {module}.{function}
there = []

def look():
    there[:] = os.listdir({directory!r})
    os.makedirs({seen!r}, exist_ok=True)
    for name in there:
        open(os.path.join({seen!r}, name), "w").close()
    for name in set(os.listdir({seen!r})) - set(there):
        os.unlink(os.path.join({seen!r}, name))

def go_on_looking():
    while True:
        look()
        time.sleep(0.02)

def fails(*arguments):
    if there:
        raise ValueError("a fault")
    return genuine(*arguments)

look()
threading.Thread(target=go_on_looking, daemon=True).start()
{module}.{function} = fails
{more}
sys.exit(cli.main(sys.argv[1:]))
"""


class Fault:
    """Begins and ends when the daemon has noticed."""

    def __init__(self, directory):
        self.directory, self.seen = directory / "fault", directory / "seen"
        self.directory.mkdir()

    def begin(self):
        (self.directory / "here").touch()

    def end(self):
        (self.directory / "here").unlink()

    def wait(self, there):
        while (self.seen / "here").exists() != there:
            time.sleep(0.01)


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Has a function of the daemon fail during the fault that this returns."""
    def have_fail(module, function, more=""):
        program, fault = tmp_path / "gwlbtun.py", Fault(tmp_path)
        program.write_text(FAILING.format(root=str(laboratory.PROGRAM.parent), module=module, function=function,
                                          directory=str(fault.directory), seen=str(fault.seen), more=more))
        monkeypatch.setattr(laboratory, "PROGRAM", program)
        return fault
    return have_fail


def test_a_tunnel_thread_that_an_exception_ends_is_started_again(lab, tmp_path, failing):
    """The interface seems to be gone, and to find that out fails."""
    fault = failing("tunnel", "_is_gone", "tunnel.DELETED = ()")
    faulty = Faulty(tmp_path)
    daemon = lab.start("--tunthreads", 1, command=faulty.command)
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    assert lab.carries(endpoint, PACKET)
    dead = f"thread gwlbtun T000 of {endpoint.gwi} is dead: ValueError: a fault"
    fault.begin()
    fault.wait(True)
    with faulty.refusing(write=errno.EBADFD):
        def provoke():
            endpoint.send(PACKET)
            lab.emit(endpoint.gwi, PACKET)  # wakes the thread itself, where a receiver has taken the other
            return daemon.health()["reasons"] == [dead]
        assert lab.wait(provoke)
        assert daemon.get()[0] == 503
        for _ in range(20):
            endpoint.send(PACKET)  # these wait for the thread, and end it once more
        assert busiest(daemon.pid, 3) < 0.3
        assert daemon.log().count("has failed and ended: ValueError: a fault.") <= 4
    fault.end()
    assert lab.wait(lambda: daemon.get()[0] == 200)
    assert lab.carries(endpoint, PACKET)
    failures = daemon.log().count("Thread gwlbtun T000 has failed and ended: ValueError: a fault.")
    assert 1 <= failures == daemon.health()["totals"]["threadFailures"]
    assert f"Thread gwlbtun T000 of {endpoint.gwi} has been started again." in daemon.log()
    assert f"gwlbtun_thread_failures_total {failures}\n" in daemon.get("/metrics")[2].decode()
    assert daemon.eni(endpoint)["hooksFailed"] == 0 and daemon.log().count("New interface") == 1


def test_one_that_fails_before_its_first_packet(lab, failing):
    """Its packets have waited."""
    fault = failing("tunnel", "_interrupt_nobody")
    fault.begin()
    daemon = lab.start(hook=PASSTHROUGH)
    endpoint = lab.endpoint()
    for _ in range(10):
        endpoint.send(PACKET)
    assert lab.wait(lambda: "has failed and ended: ValueError: a fault." in daemon.log())
    fault.end()
    assert lab.wait(lambda: len(endpoint.received) == 10)
    assert lab.wait(lambda: daemon.get()[0] == 200)
    assert daemon.drops() == {}


def test_an_endpoint_with_a_dead_thread_goes_and_the_program_stops(lab, failing):
    fault = failing("tunnel", "_interrupt_nobody")
    fault.begin()
    daemon = lab.start("-t", 2, hook=PASSTHROUGH)
    lab.endpoint().send(PACKET)
    assert lab.wait(lambda: "has failed and ended" in daemon.log())
    assert lab.wait(lambda: "Destroying interface" in daemon.log())
    lab.endpoint(ENI + 1).send(PACKET)
    assert lab.wait(lambda: daemon.log().count("has failed and ended") > 1)
    assert daemon.stop() == 0


@pytest.mark.parametrize("module, function, thread", [
    ("patrol", "Patrol._go_round", "Patrol"),
    ("reports", "Reports._forms", "Report"),
    ("web", "Server._look_whether_to_accept", "Health"),
    ("control", "Control._accept", "Control"),
])
def test_a_thread_that_packets_can_do_without_begins_again(lab, failing, module, function, thread):
    fault = failing(module, function)
    daemon = lab.start()
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, PACKET)
    told = f"Thread gwlbtun {thread} has failed: ValueError: a fault. It begins again in 1 s."
    fault.begin()
    fault.wait(True)
    if thread == "Control":
        with daemon.namespace.entered():
            ask(daemon).close()
    else:
        with daemon.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert lab.wait(lambda: told in daemon.log()), daemon.log()
    assert lab.carries(endpoint, PACKET)
    assert busiest(daemon.pid, 1) < 0.3
    fault.end()
    if thread == "Control":
        def answers():
            with ask(daemon) as client:
                return client.recv(100)
        assert lab.wait(answers)
    else:
        assert lab.wait(lambda: daemon.get()[0] == 200)
    assert len(re.findall(rf"Thread gwlbtun {thread} has failed", daemon.log())) < 5
    assert daemon.stop() == 0


def ask(daemon):
    client = laboratory.socket.socket(laboratory.socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(daemon.control))
    client.sendall(b'{"show": "health"}\n')
    return client


@pytest.mark.parametrize("module, function, thread", [
    ("fastpath", "Handler.listen", "Admission"),
    ("starter", "Starter._begin", "Starter"),
    ("jobs", "Turns.take", "C[0-9]+"),
    ("daemon", "Lapses.look", ""),
    ("logs", "Log._lines", "Logger"),
])
def test_without_any_other_thread_the_program_ends_cleanly(lab, failing, module, function, thread):
    fault = failing(module, function)
    daemon = lab.start()
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, PACKET)
    fault.begin()
    fault.wait(True)
    lab.endpoint(ENI + 1).send(PACKET)
    assert lab.wait(lambda: "ValueError: a fault" in daemon.log() + daemon.errors())
    fault.end()
    assert daemon.process.wait(60) == 1
    lab.daemons.remove(daemon)
    assert "gwlbtun" not in lab.appliance.ip("link") and endpoint.gwi not in lab.appliance.ip("link")
    if thread != "Logger":
        assert re.search(rf"Stopping with status 1: gwlbtun cannot do without its thread gwlbtun ?{thread}\.", daemon.log())
