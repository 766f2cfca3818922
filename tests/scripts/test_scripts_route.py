# SPDX-License-Identifier: MIT-0
"""The scripts by which Linux forwards packets back, and those for NAT where they are to do the same."""
import contextlib
import re
import struct
import time

import pytest

import gwlb
import packets
from lab import APPLIANCE, APPLIANCE_IPV6
from scripts import (
    CLIENT4_TO_SERVER, CONTENT, FIRST, FORWARDING, HOST, NAT, SECOND, VERSIONS, Web, client_to_server, connect, get,
    nothing_left_behind, pick, ping, start, two_endpoints,
)

EXPECTATIONS = {"create-passthrough.sh": gwlb.Identical, **{script: gwlb.Forwarded for script in FORWARDING}}


@VERSIONS
@pytest.mark.parametrize("script", FORWARDING)
def test_forwarding_returns_packets_one_hop_older_by_their_own_endpoint(instance, script, version):
    for stub in two_endpoints(instance, script):
        stub.send(packets.tcp(*client_to_server(version), 1000, 80, flags=packets.SYN, ttl=64))
        assert stub.receive() == ("gwo", packets.tcp(*client_to_server(version), 1000, 80, flags=packets.SYN, ttl=63))
    assert stub.silent()


@VERSIONS
@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_linux_own_errors_go_back_to_the_endpoint(instance, script, version):
    """Time exceeded: what traceroute sees, for a flow of one packet."""
    for stub in two_endpoints(instance, script):
        sent = packets.udp(*client_to_server(version), 40000, 33434, b"probe", ttl=1)
        stub.send(sent)
        side, packet = stub.receive()
        parsed = packets.parse(packet)
        assert side == "gwo"
        assert (parsed.source, parsed.destination) == (packets.address(pick(HOST, version)), packets.parse(sent).source)
        assert packet[parsed.transport] == (11 if version == 4 else 3)
        assert packet[parsed.transport + 8:][:len(sent)] == sent


@VERSIONS
@pytest.mark.parametrize("script", FORWARDING)
def test_too_big_goes_back_to_the_endpoint(instance, script, version):
    for stub in two_endpoints(instance, script):
        instance.namespace.ip("link set", stub.gwo, "mtu 1400")
        stub.send(packets.tcp(*client_to_server(version), 1000, 80, b"x" * 1400, flags=packets.SYN))
        side, packet = stub.receive()
        parsed = packets.parse(packet)
        kind, code, mtu = struct.unpack_from("!BB4xH" if version == 4 else "!BB2xI", packet, parsed.transport)
        assert (side, kind, code, mtu) == ("gwo", *((3, 4) if version == 4 else (2, 0)), 1400)


@pytest.mark.parametrize("script", ["create-overlapping-v4.sh", "create-firewall.sh", "create-nat-overlapping.sh",
                                    "create-local.sh"])
def test_fragments_of_two_endpoints_are_never_put_together(instance, script):
    instance.namespace.sysctl("net.ipv4.icmp_ratelimit", 0)
    first, second = two_endpoints(instance, script)
    whole = packets.icmp(*CLIENT4_TO_SERVER, 8, 0, b"\x12\x34\0\1", bytes(range(200)))
    fragments = packets.fragments(*CLIENT4_TO_SERVER, packets.ICMP, whole[20:], 104, ident=7)
    first.send(fragments[0])
    second.send(fragments[1])
    before = instance.namespace.counter("IpReasmOKs")
    assert first.silent() and second.silent()
    assert instance.namespace.counter("IpReasmOKs") == before
    # The missing halves come, and each is put together with its own.
    first.send(fragments[1])
    second.send(fragments[0])
    end = time.monotonic() + 60
    while instance.namespace.counter("IpReasmOKs") != before + 2:
        assert time.monotonic() < end
        time.sleep(0.01)


@VERSIONS
@pytest.mark.parametrize("script", list(EXPECTATIONS))
def test_hosts_of_two_endpoints_talk_through(lab, script, version):
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left_behind(lab, script))
        pairs = [lab.pair(eni, EXPECTATIONS[script]()) for eni in (FIRST, SECOND)]  # with the same addresses
        for pair in pairs:
            stack.enter_context(Web(pair.server.namespace, CONTENT[pair.endpoint.eni]))
            ping(pair.client, pair.server.address(version))
        connections = [connect(pair.client, pair.server.address(version), own_port=4000) for pair in pairs]
        for pair, connection in zip(pairs, connections):
            with contextlib.closing(connection):
                assert get(connection) == CONTENT[pair.endpoint.eni]
        for pair in pairs:
            assert pair.client.namespace.checksum_errors() == {}


@VERSIONS
@pytest.mark.parametrize("script", FORWARDING)
def test_traceroute_shows_the_appliance(lab, script, version):
    start(lab, script)
    for pair in [lab.pair(eni, gwlb.Forwarded()) for eni in (FIRST, SECOND)]:
        ping(pair.client, pair.server.address(version))
        # By ICMP, which the firewall lets through.
        shown = pair.client.namespace.run("traceroute", f"-{version}", "-I", "-n", "-q1", "-w30", "-m4",
                                          pair.server.address(version)).stdout
        hops = re.findall(r"^ *\d+ +(\S+)", shown, re.MULTILINE)
        assert hops == [(APPLIANCE, APPLIANCE_IPV6)[version == 6], pair.server.address(version)]
