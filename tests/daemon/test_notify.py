# SPDX-License-Identifier: MIT-0
"""What a service manager hears of the daemon, and that the daemon does not mind one that cannot be reached."""
import contextlib
import os
import re
import signal
import socket
import time

import pytest

import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER, Daemon
from manager import Manager, manager

pytestmark = pytest.mark.one_path

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")


def carry(lab, eni=ENI):
    endpoint = lab.endpoint(eni)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])


@pytest.fixture(params=["", "@gwlbtun test {pid} \u00fc"])
def told(request, tmp_path, lab, started_by):
    """A manager by whose socket daemons are started; it is the lab's, so an abstract socket is in their namespace."""
    with lab.appliance.entered(), manager(tmp_path, request.param.format(pid=os.getpid())) as made:
        started_by(*made.command())
        yield made


def test_it_tells_of_its_life_and_its_health(lab, told):
    daemon = lab.start()
    assert told.wait_for("READY")
    assert told.messages("STATUS") == ["0 endpoints, healthy"]
    carry(lab)
    assert told.wait_for("STATUS", "1 endpoint, healthy")
    assert daemon.stop() == 0
    assert told.wait_for("STOPPING")
    heard = told.heard
    assert heard[0] == {"READY": "1", "STATUS": "0 endpoints, healthy"}
    assert "WATCHDOG" not in [name for message in heard for name in message]
    assert told.messages("READY") == told.messages("STOPPING") == ["1"]


def test_it_is_ready_when_it_is(lab, tmp_path, started_by):
    """Ready before its socket is open would have the manager start what depends on it too early."""
    with manager(tmp_path) as told:
        started_by(*told.command())
        daemon = Daemon(lab.appliance, tmp_path, [])
        lab.daemons.append(daemon)
        assert told.wait_for("READY")
        assert daemon.get()[0] == 200


def test_its_status_says_why_it_is_unhealthy(lab, tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command())
        lab.start("--require-hook", hook="#!/bin/sh\nexit 3\n")
        lab.endpoint().send(PACKET)
        assert told.wait(lambda: re.fullmatch("1 endpoint, unhealthy: endpoint 00123456789ab0000 .* status 3, .*",
                                              (told.messages("STATUS") or [""])[-1]))


def test_hooks_hear_nothing_of_the_manager(lab, tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command(watchdog_s=60))
        lab.start(hook=PASSTHROUGH + f"env > {tmp_path}/environment\n")
        carry(lab)
        assert told.wait_for("WATCHDOG")
    environment = (tmp_path / "environment").read_text()
    assert "GWLBTUN_HEALTH_PORT=" in environment
    assert "NOTIFY_SOCKET" not in environment and "WATCHDOG" not in environment


def test_a_stop_asks_for_more_time_while_endpoints_go(lab, tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command())
        wait = f'until [ -e {tmp_path}/$2 ]; do sleep 0.01; done'
        daemon = lab.start("--hook-jobs", 4, hook=PASSTHROUGH.replace("|| exit 0\n", f"|| {{ {wait}; exit 0; }}\n"))
        for number in range(2):
            carry(lab, ENI + number)
        first, second = (eni["tunnelIn"]["devname"] for eni in daemon.health()["enis"])
        daemon.process.send_signal(signal.SIGTERM)
        assert told.wait_for("STATUS", "Stopping, 2 endpoints left")
        assert told.messages("EXTEND_TIMEOUT_USEC") == []  # a hook that hangs is no progress
        (tmp_path / first).touch()
        assert told.wait_for("STATUS", "Stopping, 1 endpoint left")
        assert told.messages("EXTEND_TIMEOUT_USEC") == ["90000000"]
        (tmp_path / second).touch()
        assert daemon.process.wait(60) == 0


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "relative", "@", "@nobody", "/" + "x" * 200, "vsock:2:1234",
                                     "/dev/null", "/", "\t", "@" + "y" * 108])
def test_a_manager_that_cannot_be_reached_is_no_matter(lab, started_by, address):
    started_by("env", f"NOTIFY_SOCKET={address}", "WATCHDOG_USEC=4000000")
    daemon = lab.start()
    carry(lab)
    assert daemon.health()["healthy"] and daemon.stop() == 0
    assert daemon.log().count("Cannot reach systemd") == bool(address)


@pytest.mark.parametrize("usec", ["x", "-1", "0", "1e6", "\u0663", "9" * 30, "18446744073709551616", " 5"])
def test_a_watchdog_that_is_garbage_is_not_fed(lab, tmp_path, started_by, usec):
    with manager(tmp_path) as told:
        started_by(*told.command(), f"WATCHDOG_USEC={usec}")
        daemon = lab.start()
        carry(lab)
        assert told.wait_for("STATUS", "1 endpoint, healthy")
        assert told.messages("WATCHDOG") == []
        assert "is no number of microseconds" in daemon.log()


def test_the_watchdog_of_another_process_is_not_fed(lab, tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command(), "WATCHDOG_USEC=1000000", "WATCHDOG_PID=1")
        lab.start()
        carry(lab)
        assert told.wait_for("STATUS", "1 endpoint, healthy")
        assert told.messages("WATCHDOG") == []


@pytest.fixture
def busy(tmp_path, started_by):
    """A manager that does not listen yet, and whose queue is full."""
    with contextlib.closing(Manager(tmp_path)) as made:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"X=1", made.name)
        started_by(*made.command())
        yield made


def test_a_manager_that_is_busy_hears_it_later(lab, busy):
    daemon = lab.start()
    carry(lab)
    time.sleep(1.5)  # a tick has tried in vain
    busy.listen()
    assert busy.wait_for("READY")
    assert "Cannot reach systemd" not in daemon.log()
    assert [message for message in busy.heard if "X" not in message][0]["READY"] == "1"


def test_a_manager_that_never_listens_holds_nothing_up(lab, busy):
    daemon = lab.start()
    carry(lab)
    assert daemon.health()["healthy"]
    for _ in range(3):
        before = daemon.log().count("this is another program now")
        daemon.process.send_signal(signal.SIGHUP)
        assert lab.wait(lambda: daemon.log().count("this is another program now") > before)
    assert daemon.stop() == 0
