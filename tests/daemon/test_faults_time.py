# SPDX-License-Identifier: MIT-0
"""Clocks that are set, and pauses of the whole process: nothing expires for it, and nothing waits for it."""
import re
import signal
import sys
import time

import gwlb
import packets
from faulty import Faulty, hasty
from freezer import frozen
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from manager import manager

DESTROYED = PASSTHROUGH.replace("exit 0", "{ echo destroyed; exit 0; }")


def packet(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x")


def test_the_systems_clock_may_be_set_to_any_time(lab, tmp_path):
    """Also where threads wait by it, as those of Python before 3.11 do."""
    faulty = Faulty(tmp_path)
    with manager(tmp_path) as told:
        daemon = lab.start("-i", 60, "--udp-idle", 60, "-t", 60, command=[*told.command(2.0), *faulty.command])
        endpoint = lab.endpoint()
        assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
        faulty.waits_by_system_clock()
        for seconds, text in (90_000, "ahead by 90000 s"), (-7200, "back by 7200 s"):
            time.sleep(1.1)  # threads that wait have begun to by the clock as it is
            faulty.set_clock(seconds)
            assert lab.wait(lambda: f"The system's clock has gone {text}" in daemon.log())
        before = len(told.messages("WATCHDOG"))
        end = time.monotonic() + 4.5  # a thread that stands still is stuck after 3
        while time.monotonic() < end:
            assert lab.carries_all(endpoint, [packet(number) for number in range(5)])
        assert len(told.messages("WATCHDOG")) > before + 4
        assert "Stuck" not in daemon.log() and "destroys" not in daemon.log()
        second = lab.endpoint(ENI + 1)
        assert lab.carries_all(second, [packet(number) for number in range(20)])
        assert daemon.get()[0] == 200
        assert daemon.stop(timeout=30) == 0


def test_what_waited_during_a_pause_is_not_idle(lab):
    daemon = lab.start("--udp-idle", 2, "-t", 2, hook=DESTROYED)
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        assert lab.carries_all(endpoint, [packet(number) for number in range(5)])
    daemon.process.send_signal(signal.SIGSTOP)
    before = len(endpoint.received)
    for number in range(12):
        endpoint.send(packet(number % 3))
        time.sleep(0.25)
    lab.emit(endpoint.gwo, packet())  # of a flow that was idle for three seconds, were it not for what waits
    time.sleep(1)
    daemon.process.send_signal(signal.SIGCONT)
    assert lab.wait(lambda: len(endpoint.received) == before + 13)
    assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
    assert lab.wait(lambda: re.search(r"gwlbtun has not run for [1-9]\d* s", daemon.log()))
    assert "No packet for" not in daemon.log()
    assert daemon.health()["drops"]["no_flow"] == 0
    assert lab.wait(lambda: ": destroyed" in daemon.log())  # and it is forgotten when it is idle


def test_a_host_that_was_suspended_has_no_clock_that_was_set(lab, tmp_path):
    faulty = Faulty(tmp_path)
    daemon = lab.start("-i", 60, "--udp-idle", 60, "-t", 60, command=faulty.command)
    endpoint = lab.endpoint()
    assert lab.carries_all(endpoint, [packet(number) for number in range(20)])
    time.sleep(1.1)
    faulty.suspend(7200)
    assert lab.wait(lambda: re.search(r"gwlbtun has not run for 720\d s: it was stopped, or the host stood still",
                                      daemon.log()))
    time.sleep(1.1)
    assert daemon.health()["flows"]["size"] == 20 and lab.carries_all(endpoint, [packet(number) for number in range(20)])
    faulty.set_clock(3600)
    assert lab.wait(lambda: "The system's clock has gone ahead by 3600 s" in daemon.log())
    assert daemon.log().count("The system's clock") == 1 and "No packet for" not in daemon.log()
    assert daemon.health()["notes"] == []


def test_a_pause_is_no_silence(lab, tmp_path):
    """What has waited goes in to Linux in a moment, and comes back in another."""
    daemon = lab.start(command=[sys.executable, hasty(tmp_path)])
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert lab.carries_all(endpoint, [packet(number) for number in range(5)])
        time.sleep(0.1)
    patrol, = (thread for thread, name in daemon.threads().items() if name == "gwlbtun Patrol")
    way = "ingress", "protocol", "all", "prio", 1
    time.sleep(1.2)  # so that it has seen all that came back
    daemon.process.send_signal(signal.SIGSTOP)
    for number in range(50):
        endpoint.send(packet(number))
    time.sleep(4)
    lab.appliance.run("tc", "filter", "del", "dev", endpoint.gwi, "ingress")
    with frozen([patrol]):  # so that it looks when everything has gone in
        daemon.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    time.sleep(1)
    lab.appliance.run("tc", "filter", "add", "dev", endpoint.gwi, *way, "u32", "match", "u32", 0, 0,
                      "action", "mirred", "egress", "redirect", "dev", endpoint.gwo)
    assert lab.carries(endpoint, packet())
    assert "nothing comes back" not in daemon.log()
