# SPDX-License-Identifier: MIT-0
"""create-firewall.sh and its rules."""
import contextlib
import re
import socket

import pytest

import gwlb
import packets
from scripts import (
    FIRST, HOST, SECOND, VERSIONS, Web, client_to_server, connect, get, nothing_left_behind, pick, two_endpoints,
)


@VERSIONS
def test_firewall_tells_ports_directions_and_connections_apart(instance, version):
    client, server = client_to_server(version)
    first, second = two_endpoints(instance, "create-firewall.sh")

    def passes(packet, stub=first):
        stub.send(packet)
        return not stub.silent()

    def segment(flags, port=80, back=False, client_port=1000):
        if back:
            return packets.tcp(server, client, port, client_port, flags=flags, seq=8, ack=1)
        return packets.tcp(client, server, client_port, port, flags=flags, ack=0 if flags == packets.SYN else 9)

    syn, syn_ack = packets.SYN, packets.SYN | packets.ACK
    assert not passes(segment(syn, port=22))
    assert not passes(segment(syn, port=8080))
    assert not passes(segment(syn_ack, back=True)), "an answer that was never asked for"
    assert passes(segment(syn))
    assert not passes(segment(syn_ack, back=True), second), "an answer to another endpoint's connection"
    assert passes(segment(syn_ack, back=True))
    assert passes(segment(syn, port=443))
    assert passes(packets.echo(client, server, 5))
    assert passes(packets.echo(server, client, 5, reply=True))
    assert not passes(packets.echo(server, client, 6, reply=True))
    assert not passes(packets.udp(client, server, 1000, 80))
    assert not passes(packets.tcp(client, pick(HOST, version), 1000, 80, flags=syn)), "the host's own services"
    table = instance.namespace.run("nft", "list table inet", first.gwi.replace("gwi", "gwlbtun")).stdout
    assert re.search(r"counter packets [1-9]\d* bytes \d+ drop", table)


@VERSIONS
def test_firewall_lets_one_port_through_and_not_another(lab, version):
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left_behind(lab, "create-firewall.sh"))
        for pair in [lab.pair(eni, gwlb.Forwarded()) for eni in (FIRST, SECOND)]:
            for port in 443, 8080:
                stack.enter_context(Web(pair.server.namespace, b"hello", port))
            with contextlib.closing(connect(pair.client, pair.server.address(version), 443)) as connection:
                assert get(connection) == b"hello"
            with pytest.raises(socket.timeout):
                connect(pair.client, pair.server.address(version), 8080, timeout=1)
