# SPDX-License-Identifier: MIT-0
"""More comes than one core can carry: who asks for little loses little, and everything passes again when it is over."""
import json
import os
import sys

import pytest

import traffic
from gwlbtun.identity import Identity
from lab import APPLIANCE, ENI, PASSTHROUGH

QUIET, LOUD, LOUDER = "192.0.2.3", "192.0.2.4", ("192.0.2.5", "192.0.2.6", "192.0.2.7")
LOUD_ENI, LOUDER_ENI = ENI + 1, ENI + 2
CORE = max(os.sched_getaffinity(0))
ONE_CORE = ("--udpthreads", "1", "--tunthreads", "1", "--udpaffinity", CORE, "--tunaffinity", CORE, "--offload", "none",
            "--kernel-path", "off")  # all packets are the threads'

# What comes for an endpoint that is flooded goes no further than Linux: nobody is there to take it back.
HOOK = (f'#!/bin/sh -e\ncase "$2" in {Identity(LOUD_ENI).gwi}|{Identity(LOUDER_ENI).gwi}) exit 0;; esac\n'
        + PASSTHROUGH.split("\n", 1)[1])
HOOK_OF_ONE = f'#!/bin/sh -e\n[ "$2" = {Identity(ENI).gwi} ] || exit 0\n' + PASSTHROUGH.split("\n", 1)[1]


def play(lab, program, eni, seconds, address, core=None):
    """Starts a program of traffic.py; returns a function that returns what it said."""
    pinned = ["taskset", "-c", core] if core is not None else []
    process = lab.outside.start(*pinned, sys.executable, traffic.__file__, program, eni, seconds, address, APPLIANCE)

    def result():
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        return json.loads(output)
    return result


@pytest.fixture()
def senders(lab):
    for address in QUIET, LOUD, *LOUDER:
        lab.outside.ip("address add", f"{address}/24", "dev eth0")
    return lab


@pytest.mark.alone
@pytest.mark.costs
def test_a_flood_of_one_endpoint_takes_the_others_little(senders):
    lab = senders
    daemon = lab.start(*ONE_CORE, hook=HOOK)
    loud = lab.endpoint(LOUD_ENI)
    assert play(lab, "pulse", ENI, 0.5, QUIET)()["lost"] == 0
    flood = play(lab, "drown", LOUD_ENI, 8, LOUD, CORE)
    assert lab.wait(lambda: "Overload:" in daemon.log())
    assert f"{Identity(LOUD_ENI).vpce};" in daemon.log()
    quiet = play(lab, "faint", ENI, 4, QUIET)()
    sent = flood()["sent"]
    taken = daemon.eni(loud)["tunnelIn"]["pktsOut"]
    assert sent / 1000 < taken < sent / 2  # it was a flood, and had its part
    assert quiet["wrong"] == 0 and quiet["lost"] < quiet["sent"] / 10, (quiet, sent, taken)
    assert lab.wait(lambda: "is over" in daemon.log())
    assert play(lab, "pulse", ENI, 0.5, QUIET)()["lost"] == 0


@pytest.mark.alone
@pytest.mark.costs
def test_two_floods_have_the_same_and_a_small_flow_beside_them_has_all(senders):
    lab = senders
    daemon = lab.start(*ONE_CORE, hook=HOOK)
    loud, louder = lab.endpoint(LOUD_ENI), lab.endpoint(LOUDER_ENI)
    assert play(lab, "pulse", ENI, 0.5, QUIET)()["lost"] == 0
    floods = [play(lab, "drown", LOUD_ENI, 10, LOUD, CORE)]
    floods += [play(lab, "drown", LOUDER_ENI, 10, address, CORE) for address in LOUDER]
    assert lab.wait(lambda: "Overload:" in daemon.log() and daemon.eni(loud) and daemon.eni(louder))
    before = [daemon.eni(endpoint)["tunnelIn"]["pktsOut"] for endpoint in (loud, louder)]
    quiet = play(lab, "faint", ENI, 5, QUIET)()
    taken = [daemon.eni(endpoint)["tunnelIn"]["pktsOut"] - past for endpoint, past in zip((loud, louder), before)]
    sent = [flood()["sent"] for flood in floods]
    assert taken[0] > sum(taken) / 3, (taken, sent)  # a third as much was sent for it: a quarter of all
    assert quiet["wrong"] == 0 and quiet["lost"] < quiet["sent"] / 10, (quiet, sent, taken)


@pytest.mark.alone
@pytest.mark.costs
def test_a_flood_that_comes_and_goes_takes_the_others_little(senders):
    lab = senders
    daemon = lab.start(*ONE_CORE, hook=HOOK)
    assert play(lab, "pulse", ENI, 0.5, QUIET)()["lost"] == 0
    floods = [play(lab, "throb", LOUD_ENI, 10, LOUD, CORE), play(lab, "throb", LOUDER_ENI, 10, LOUDER[0], CORE)]
    assert lab.wait(lambda: "Overload:" in daemon.log())
    quiet = play(lab, "faint", ENI, 8, QUIET)()
    sent = [flood()["sent"] for flood in floods]
    assert quiet["wrong"] == 0 and quiet["lost"] < quiet["sent"] / 5, (quiet, sent)
    assert daemon.log().count("Overload:") == 1


@pytest.mark.alone
@pytest.mark.costs
def test_invented_eni_ids_without_number_are_one_party(senders):
    lab = senders
    daemon = lab.start(*ONE_CORE, "--max-endpoints", 4, hook=HOOK_OF_ONE)
    assert play(lab, "pulse", ENI, 0.5, QUIET)()["lost"] == 0
    floods = [play(lab, "swarm", number, 8, address, CORE) for number, address in enumerate((LOUD, *LOUDER))]
    assert lab.wait(lambda: "Overload:" in daemon.log())
    quiet = play(lab, "faint", ENI, 5, QUIET)()
    sent = [flood()["sent"] for flood in floods]
    assert quiet["wrong"] == 0 and quiet["lost"] < quiet["sent"] / 10, (quiet, sent, daemon.log())
