# SPDX-License-Identifier: MIT-0
"""A reload by a service manager: it hears when gwlbtun begins to restart in place, and when it is ready again or goes on."""
import time

import pytest

from manager import manager
from restarts import Restartable


@pytest.fixture
def told(tmp_path, started_by):
    with manager(tmp_path) as told:
        started_by(*told.command(watchdog_s=8))
        yield told


def test_the_manager_hears_of_each_reload(lab, tmp_path, told):
    restartable = Restartable(lab, tmp_path)
    assert told.wait_for("READY")
    restartable.exchange()
    for number, reload in enumerate((restartable.restart, lambda: restartable.refuse("--udpthreads none"),
                                     lambda: restartable.restart("--logging udp=debug"))):
        begin_us = time.monotonic_ns() // 1000
        reload()
        assert told.wait(lambda: len(told.messages("READY")) == 2 + number)
        reloading, ready = [message for message in told.heard if {"READY", "RELOADING"} & set(message)][-2:]
        assert reloading["RELOADING"] == ready["READY"] == "1"
        assert begin_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        restartable.exchange()
    assert lab.wait(lambda: ",debug" in restartable.daemon.log())
    fed = len(told.messages("WATCHDOG"))
    assert told.wait(lambda: len(told.messages("WATCHDOG")) > fed)
    restartable.hang_up()
    assert restartable.daemon.stop() == 0 and told.messages("STOPPING") == ["1"]


def test_reloads_while_it_stops_are_nothing(lab, tmp_path, told):
    restartable = Restartable(lab, tmp_path)
    restartable.exchange()
    restartable.daemon.process.terminate()
    assert told.wait_for("STOPPING")
    for _ in range(100):
        restartable.hang_up()
    assert restartable.daemon.process.wait(60) == 0
    assert told.messages("RELOADING") == []
