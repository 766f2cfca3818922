# SPDX-License-Identifier: MIT-0
"""--drain: after SIGTERM gwlbtun is unhealthy and works on, until the time is up or a second signal comes."""
import signal
import time

import pytest

import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER, Daemon
from manager import manager

REASON = "gwlbtun is draining, and stops then"


def udp(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"%d" % number)


def terminate(lab, daemon):
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: daemon.get()[0] == 503)


def test_it_works_on_unhealthy_and_stops_cleanly(lab):
    hook = PASSTHROUGH + 'echo "$1" >> "$0.calls"\n'
    daemon = lab.start("--drain", 15, hook=hook.replace("|| exit 0", '|| { echo "$1" >> "$0.calls"; exit 0; }'))
    old, new = lab.endpoint(), lab.endpoint(ENI + 1)
    assert lab.carries(old, udp(0))
    terminate(lab, daemon)
    health = daemon.health()
    assert (health["healthy"], health["reasons"]) == (False, [REASON])
    assert lab.carries(old, udp(0)) and lab.carries(old, udp(1)) and lab.carries(new, udp(0))
    daemon.process.send_signal(signal.SIGHUP)  # which is no second word: there is no restart any more
    while daemon.process.poll() is None:
        old.send(udp())
        time.sleep(0.01)
    assert daemon.process.returncode == 0
    assert (lab.directory / "hook.sh.calls").read_text().split() == ["CREATE"] * 2 + ["DESTROY"] * 2
    assert daemon.log().count("draining for 15 s, unhealthy") == daemon.log().count("Drained: stopping.") == 1


def test_packets_that_wait_for_a_hook_are_delivered(lab, tmp_path):
    daemon = lab.start("--drain", 10, hook=PASSTHROUGH.replace(
        "|| exit 0\n", f"|| exit 0\nuntil [ -e {tmp_path}/go ]; do sleep 0.01; done\n"))
    endpoint = lab.endpoint()
    for number in range(50):
        endpoint.send(udp(number))
    assert lab.wait(lambda: daemon.eni(endpoint) is not None)
    terminate(lab, daemon)
    (tmp_path / "go").touch()
    assert daemon.process.wait(60) == 0
    assert lab.wait(lambda: len(endpoint.received) == 50)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_whatever_hangs(lab, second):
    daemon = lab.start("--drain", 600, "--hook-jobs", 2, hook="#!/bin/sh\nexec sleep 600\n")
    for number in range(2):
        lab.endpoint(ENI + number).send(udp())
    assert lab.wait(lambda: len(daemon.health()["enis"]) == 2)
    terminate(lab, daemon)
    daemon.process.send_signal(second)
    assert daemon.process.wait(60) == 128 + second
    lab.daemons.clear()


def test_sigint_does_not_drain(lab):
    daemon = lab.start("--drain", 600)
    assert lab.carries(lab.endpoint(), udp(0))
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(60) == 0 and "draining" not in daemon.log()


def test_a_signal_during_the_start_is_no_failure(lab, tmp_path):
    """It ends the process or makes it drain, and never hangs."""
    for pause in 0.0, 0.2, 0.4:
        daemon = Daemon(lab.appliance, tmp_path, ["--drain", "1"])
        time.sleep(pause)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) in (0, -signal.SIGTERM)


def test_systemd_is_told(lab, tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command())
        daemon = lab.start("--drain", 2)
        assert lab.carries(lab.endpoint(), udp(0))
        daemon.process.send_signal(signal.SIGTERM)
        assert told.wait_for("STOPPING") and daemon.process.wait(60) == 0
        assert told.messages("EXTEND_TIMEOUT_USEC")[0] == "92000000"
        assert "Draining, 2 s left, 1 endpoint" in told.messages("STATUS")
