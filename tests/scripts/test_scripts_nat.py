# SPDX-License-Identifier: MIT-0
"""create-nat.sh and create-nat-overlapping.sh."""
import contextlib

import pytest

import gwlb
import packets
from lab import CLIENT, SERVER
from scripts import (
    CLIENT4_TO_SERVER, CONTENT, FIRST, HOST, NAT, OUTSIDE, SECOND, VERSIONS, Web, connect, get, nothing_left_behind,
    pick, ping, world_outside,
)


@pytest.mark.parametrize("script", NAT)
def test_nat_without_a_route_refuses_and_sends_nothing_back_as_it_came(instance, script):
    instance.namespace.ip("route del default")
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    sent = packets.udp(*CLIENT4_TO_SERVER, 1000, 2000)
    stub.send(sent)
    side, packet = stub.receive()
    assert (side, packet[20], packet[28:56]) == ("gwo", 3, sent)


@VERSIONS
@pytest.mark.parametrize("script", NAT)
def test_nat_out_of_the_default_interface(lab, script, version):
    clients = {"create-nat.sh": [CLIENT, SERVER], "create-nat-overlapping.sh": [CLIENT, CLIENT]}[script]
    outside, own = pick(OUTSIDE, version), pick(HOST, version)
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(world_outside(lab))
        stack.enter_context(nothing_left_behind(lab, script))
        web = stack.enter_context(Web(world, CONTENT[FIRST]))
        hosts = []
        for eni, addresses in zip((FIRST, SECOND), clients):
            hosts.append(lab.host("cli", addresses))
            lab.endpoint(eni, gwlb.WellFormed()).attach(hosts[-1])
        for host in hosts:
            ping(host, outside)
        connections = [stack.enter_context(contextlib.closing(connect(host, outside, own_port=4000))) for host in hosts]
        for connection in connections:
            assert get(connection) == CONTENT[FIRST]
        seen = [client for client, _ in web.asked]
        assert [address.replace("::ffff:", "") for address, _ in seen] == [own, own]
        assert len(set(seen)) == 2
