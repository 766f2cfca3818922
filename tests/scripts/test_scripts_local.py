# SPDX-License-Identifier: MIT-0
"""create-local.sh."""
import contextlib
import socket

import pytest

import gwlb
import packets
from lab import APPLIANCE, APPLIANCE_IPV6, CLIENT, SERVER
from scripts import (
    CLIENT4_TO_SERVER, CONTENT, FIRST, HOST, OUTSIDE, SECOND, VERSIONS, Web, connect, get, nothing_left_behind, pick,
    ping, start, turn_on,
)


def test_local_leaves_packets_of_no_connection_unanswered(instance):
    """NAT leaves them alone: they are not forwarded, nor does the host answer those to itself by the way out."""
    turn_on(instance.namespace)
    stub = instance.endpoint()
    stub.hook("create-local.sh", "CREATE")
    stub.send(packets.icmp(*CLIENT4_TO_SERVER, 3, 1, bytes(4), packets.udp(SERVER[0], CLIENT[0], 9, 9)))
    for version in 4, 6:
        ends = pick(CLIENT, version), pick(HOST, version)
        stub.send(packets.tcp(*ends, 1000, 80, flags=packets.SYN | packets.FIN))  # no state has that
    assert stub.silent()
    assert instance.namespace.counter("TcpOutRsts") == 0


@VERSIONS
def test_local_service_answers_the_endpoint_that_asked(lab, version):
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left_behind(lab, "create-local.sh"))
        web = stack.enter_context(Web(lab.appliance, CONTENT[FIRST]))
        hosts = [lab.host("cli", CLIENT) for _ in range(2)]
        for eni, host in zip((FIRST, SECOND), hosts):
            lab.endpoint(eni, gwlb.WellFormed()).attach(host)
        connections = []
        for host in hosts:
            for asked in pick(SERVER, version), pick(OUTSIDE, version), pick((APPLIANCE, APPLIANCE_IPV6), version):
                ping(host, asked)
                connections.append(stack.enter_context(contextlib.closing(connect(host, asked, own_port=4000))))
        for connection in connections:
            assert get(connection) == CONTENT[FIRST]
        client = pick(CLIENT, version)
        assert {address.replace("::ffff:", "") for (address, _), _ in web.asked} == {client}
        assert len({own for _, (own, _) in web.asked}) == 2, "the service can tell endpoints apart"
        with pytest.raises(ConnectionRefusedError):
            connect(hosts[0], pick(SERVER, version), 81)


def test_local_service_over_udp(lab):
    """One that answers from the address that it was asked at (IP_PKTINFO)."""
    start(lab, "create-local.sh")
    hosts = [lab.host("cli", CLIENT) for _ in range(2)]
    for eni, host in zip((FIRST, SECOND), hosts):
        lab.endpoint(eni, gwlb.WellFormed()).attach(host)
    with contextlib.ExitStack() as stack:
        def udp(namespace, address, port):
            with namespace.entered():
                made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.bind((address, port))
            made.settimeout(60)
            return made

        service = udp(lab.appliance, "", 53)
        service.setsockopt(socket.IPPROTO_IP, gwlb.IP_PKTINFO, 1)
        clients = [udp(host.namespace, CLIENT[0], 4000) for host in hosts]
        for number, client in enumerate(clients):
            client.connect((SERVER[0], 53))
            client.send(b"question %d" % number)
        for _ in clients:
            question, ancillary, _, peer = service.recvmsg(100, 100)
            service.sendmsg([question + b", answered"],
                            [(socket.IPPROTO_IP, gwlb.IP_PKTINFO, bytes(4) + ancillary[0][2][4:8] + bytes(4))], 0, peer)
        assert [client.recv(100) for client in clients] == [b"question 0, answered", b"question 1, answered"]
