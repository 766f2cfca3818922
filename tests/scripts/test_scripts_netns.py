# SPDX-License-Identifier: MIT-0
"""The scripts with --netns, each endpoint's in a network namespace of its own."""
import contextlib

import pytest

import gwlb
import netns
from lab import CLIENT, SERVER
from namednets import Appliance
from scripts import (
    CONTENT, FIRST, FORWARDING, HOST, HOOKS, NAT, OUTSIDE, SECOND, WORLD, Web, connect, get, of_hooks, ping, start)

NAMES = [f"vpce-{eni:017x}" for eni in (FIRST, SECOND)]
EXPECTATIONS = {"create-passthrough.sh": gwlb.Identical, **{script: gwlb.Forwarded for script in FORWARDING}}


@pytest.fixture
def appliance(lab):
    lab.appliance = Appliance(lab.appliance)
    return lab.appliance


def test_each_script_is_tried():
    assert set(HOOKS) == {*EXPECTATIONS, *NAT, "create-local.sh"}


@pytest.mark.parametrize("script", list(EXPECTATIONS))
def test_hosts_of_two_endpoints_with_the_same_addresses_talk_through(lab, appliance, script):
    daemon = start(lab, script, "--netns", "--require-hook")
    for pair in [lab.pair(eni, EXPECTATIONS[script]()) for eni in (FIRST, SECOND)]:
        with Web(pair.server.namespace, CONTENT[pair.endpoint.eni]):
            for version in 4, 6:
                with contextlib.closing(connect(pair.client, pair.server.address(version))) as connection:
                    assert get(connection) == CONTENT[pair.endpoint.eni]
    assert daemon.stop() == 0 and not of_hooks(daemon), daemon.log()
    assert appliance.names() == []


@pytest.mark.parametrize("script", NAT)
def test_nat_by_the_default_route_of_the_namespace(lab, appliance, script):
    """The operator has made the namespaces, each with a way out."""
    for number, name in enumerate(NAMES):
        with netns.Namespace("world") as world:
            appliance.run("ip", "netns", "add", name)
            there = appliance.start("ip", "netns", "exec", name, "sleep", "infinity")
            assert lab.wait(lambda: appliance.run("ip", "netns", "pids", name).stdout.split() == [str(there.pid)])
            world.ip("link add inner type veth peer eth0 netns", there.pid)
            there.kill()
            there.wait()
            world.ip("address add", f"{WORLD[0]}/24", "dev inner")
            world.ip("address add", OUTSIDE[0], "dev lo")
            world.ip("link set inner up")
            for words in (f"address add {HOST[0]}/24 dev eth0", "link set eth0 up", f"route add default via {WORLD[0]}"):
                appliance.run("ip", "-n", name, *words.split())
            if not number:
                daemon = start(lab, script, "--netns", "--require-hook")
            host = lab.host("cli", CLIENT)
            lab.endpoint((FIRST, SECOND)[number], gwlb.WellFormed()).attach(host)
            with Web(world, CONTENT[FIRST]) as web, contextlib.closing(connect(host, OUTSIDE[0])) as connection:
                assert get(connection) == CONTENT[FIRST]
                (asker, _), _ = web.asked[0]
                assert asker.replace("::ffff:", "") == HOST[0]
    assert daemon.stop() == 0 and not of_hooks(daemon), daemon.log()
    assert appliance.names() == sorted(NAMES)


def test_local_services_answer_inside(lab, appliance):
    start(lab, "create-local.sh", "--netns", "--require-hook", "--endpoint", NAMES[0])
    assert lab.wait(lambda: appliance.names() == [NAMES[0]])
    host = lab.host("cli", CLIENT)
    lab.endpoint(FIRST, gwlb.WellFormed()).attach(host)
    ping(host, SERVER[0])
