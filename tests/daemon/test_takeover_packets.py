# SPDX-License-Identifier: MIT-0
"""Packets that are in memory when gwlbtun restarts in place: they pass over, or are counted under a reason."""
import packets
from lab import CLIENT, ENI, SERVER
from restarts import COUNTING, Restartable, again_and_again
from soak import missing


def udp(number):
    return packets.udp(CLIENT[0], SERVER[0], number, 2, b"%d" % number)


def states(restartable):
    return [eni["state"] for eni in restartable.daemon.health()["enis"]]


def counted(restartable):
    """Whether every packet has been passed on, or dropped for a reason."""
    return restartable.lab.wait(lambda: not any(missing(restartable.daemon.health()).values()))


def test_packets_of_new_endpoints_pass_over(lab, tmp_path):
    """They come all the time, so some wait whenever the receivers pause."""
    restartable = Restartable(lab, tmp_path)
    restartable.exchange()
    for turn in range(3):
        endpoints = []

        def come():
            endpoint = lab.endpoint(ENI + 0x100 * (turn + 1) + len(endpoints))
            endpoints.append(endpoint)
            endpoint.send(udp(len(endpoints)))
        with again_and_again(come, 0.15):
            restartable.restart()
        assert lab.wait(lambda: all(len(endpoint.received) == 1 for endpoint in endpoints)), (
            restartable.daemon.log(), restartable.daemon.drops())
    assert restartable.daemon.drops() == {} and counted(restartable)


def test_packets_that_wait_in_vain_are_counted(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, "--max-endpoints", 1, options=f"--endpoint vpce-{ENI:017x}")
    restartable.exchange()
    stranger, sent = lab.endpoint(ENI + 1), []

    def come():
        stranger.send(udp(len(sent)))
        sent.append(1)
    with again_and_again(come, 0.01):
        restartable.restart()
    assert counted(restartable), missing(restartable.daemon.health())
    drops = restartable.daemon.drops()
    assert set(drops) <= {"endpoints_full", "endpoint_refused"} and sum(drops.values()) == len(sent)
    restartable.exchange()


def test_what_waits_for_a_hook_that_fails_comes_out_once_it_succeeds(lab, tmp_path):
    failing = COUNTING.replace('[ "$1"', f'[ "$1" = DESTROY ] || [ -e {tmp_path}/go ] || exit 1\n[ "$1"')
    restartable = Restartable(lab, tmp_path, "--require-hook", hook=failing)
    for number in range(20):
        restartable.endpoint.send(udp(number))
    assert lab.wait(lambda: states(restartable) == ["failed to come up"])
    for number in range(20, 40):
        restartable.endpoint.send(udp(number))
    assert lab.wait(lambda: restartable.daemon.health()["totals"]["pktsFromGwlb"] == 40)
    waiting = restartable.daemon.eni(restartable.endpoint)["queueBytes"]
    assert waiting
    for options in "--udpthreads 1", "--udpthreads 3 --tunthreads 2", "":
        restartable.restart(options)
        assert restartable.daemon.eni(restartable.endpoint)["queueBytes"] == waiting
    (tmp_path / "go").touch()
    assert lab.wait(lambda: len(restartable.endpoint.received) == 40), restartable.daemon.log()
    assert sorted(restartable.endpoint.received) == sorted(udp(number) for number in range(40))
    assert restartable.daemon.drops() == {} and counted(restartable)


def test_a_stop_soon_after_counts_what_still_waits(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, "--require-hook", hook="#!/bin/sh\nexit 1\n")
    for number in range(30):
        restartable.endpoint.send(udp(number))
    assert lab.wait(lambda: states(restartable) == ["failed to come up"])
    assert lab.wait(lambda: restartable.daemon.health()["totals"]["pktsFromGwlb"] == 30)
    restartable.restart()
    assert states(restartable) == ["failed to come up"]
    assert missing(restartable.daemon.health()) == {"gwlb": 30, "linux": 0}  # they wait
    assert restartable.daemon.stop() == 0
