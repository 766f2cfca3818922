# SPDX-License-Identifier: MIT-0
"""What hosts send gets through the appliance and back, whatever it is: the kernel's own traffic, end to end."""
import random
import re
import struct
import sys

import pytest

import gwlb
import packets
from clients import checksum_errors, open_udp, transfer
from gwlbtun import geneve
from lab import APPLIANCE, APPLIANCE_IPV6, CLIENT, ENI, ROUTE, SERVER

both = pytest.mark.parametrize("version", [4, 6])

# Says when it is ready, and asks no name server what its address is called.
SERVE = """
import functools, http.server, socket, socketserver, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
server = Server((sys.argv[1], 80), handler)
print("ready", flush=True)
server.serve_forever()
"""

DOWNLOAD = """
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=60).read())
"""


def url_host(address):
    return f"[{address}]" if ":" in address else address


@both
def test_ping(lab, version):
    lab.start()
    pair = lab.pair()
    pair.client.namespace.run("ping", "-c5", "-i0.02", "-W60", pair.server.address(version))
    assert lab.balancer.counters.sent == lab.balancer.counters.returned == 10


@both
def test_a_file_over_http(lab, version, tmp_path):
    lab.start()
    pair = lab.pair()
    content = random.Random(version).randbytes(6_000_000)
    (tmp_path / "file").write_bytes(content)
    address = pair.server.address(version)
    server = pair.server.namespace.start(sys.executable, "-c", SERVE, address, tmp_path)
    assert server.stdout.readline() == b"ready\n"
    client = pair.client.namespace.start(sys.executable, "-c", DOWNLOAD, f"http://{url_host(address)}/file")
    got, errors = client.communicate(timeout=60)
    server.kill()
    server.communicate()
    assert got == content, errors
    assert lab.balancer.counters.sent_bytes > len(content)
    assert checksum_errors(lab, pair) == [{}] * 3


@both
@pytest.mark.parametrize("size", [0, 1, 2, 1472, 8452])
def test_udp_echo(lab, version, size):
    lab.start()
    pair = lab.pair()
    sent = random.Random(size).randbytes(size)
    with open_udp(pair.server, version, 7) as server, open_udp(pair.client, version) as client:
        client.sendto(sent, (pair.server.address(version), 7))
        got, peer = server.recvfrom(65535)
        server.sendto(got + b"!", peer)
        assert (got, client.recv(65535)) == (sent, sent + b"!")


@both
def test_fragments_both_ways(lab, version):
    lab.start()
    pair = lab.pair()
    sent = random.Random(version).randbytes(30_000)
    with open_udp(pair.server, version, 7) as server, open_udp(pair.client, version) as client:
        client.sendto(sent, (pair.server.address(version), 7))
        got, peer = server.recvfrom(65535)
        server.sendto(got[::-1], peer)
        assert client.recv(65535) == sent[::-1]
    assert lab.balancer.counters.returned == 8
    assert len({flow.cookie for flow in pair.endpoint.flows.values()}) == 1


@both
@pytest.mark.parametrize("first", [0, 1, 2])
def test_fragments_that_overtake_each_other(lab, version, first):
    lab.start()
    endpoint = lab.endpoint()
    ends = (CLIENT[version == 6], SERVER[version == 6])
    body = packets.udp_datagram(*ends, 5000, 6000, bytes(range(250)) * 12)
    pieces = packets.fragments(*ends, packets.UDP, body, 1008, 77)
    pieces.insert(0, pieces.pop(first))
    endpoint.flow(next(piece for piece in pieces if not packets.parse(piece).fragment_offset))
    for piece in pieces:
        endpoint.send(piece)
    assert lab.balancer.wait(lambda: lab.balancer.counters.returned == 3)
    assert sorted(endpoint.received) == sorted(pieces)
    assert len(endpoint.flows) == 1


def fragments_of_two_flows(version):
    """A datagram of each flow in each direction, between the same addresses, as lists of fragments.

    Datagrams of one direction have IDs of their own; those that go the other way have them too, for the other flow.
    """
    there = CLIENT[version == 6], SERVER[version == 6]
    made = []
    for ends, ports, ident in ((there, (5000, 6000), 77), (there, (5001, 6001), 78),
                               (there[::-1], (6001, 5001), 77), (there[::-1], (6000, 5000), 78)):
        body = packets.udp_datagram(*ends, *ports, bytes([ident]) + random.Random(ports[0]).randbytes(2999))
        made.append(packets.fragments(*ends, packets.UDP, body, 1008, ident))
    return made


@both
def test_interleaved_fragments_of_two_flows_between_the_same_addresses(lab, version):
    daemon = lab.start()
    endpoint = lab.endpoint()
    pieces = [piece for together in zip(*fragments_of_two_flows(version)) for piece in together]
    for piece in pieces:
        endpoint.send(piece)
    assert lab.wait(lambda: lab.balancer.counters.returned == len(pieces))
    assert sorted(endpoint.received) == sorted(pieces)
    assert [flow.returned for flow in endpoint.flows.values()] == [6, 6]
    assert daemon.drops() == {}


@both
def test_interleaved_fragments_that_linux_sends_for_two_flows_between_the_same_addresses(lab, version):
    daemon = lab.start("--tunthreads", 1)  # which keeps them in order
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    ends = CLIENT[version == 6], SERVER[version == 6]
    firsts = [packets.udp(*ends, *ports, b"x") for ports in ((5000, 6000), (5001, 6001))]
    for first in firsts:
        endpoint.send(first)
    assert lab.wait(lambda: len(endpoint.received) == 2)
    pieces = [piece for together in zip(*fragments_of_two_flows(version)) for piece in together]
    for piece in pieces:
        lab.emit(endpoint.gwo, piece)
    assert lab.wait(lambda: len(endpoint.received) == 2 + len(pieces)), daemon.drops()
    assert sorted(endpoint.received) == sorted(firsts + pieces)
    assert [flow.returned for flow in endpoint.flows.values()] == [7, 7]
    assert daemon.drops() == {}


@both
@pytest.mark.parametrize("size", [8500, 8501, 8700, 8900])
def test_packets_of_the_largest_size_and_somewhat_larger(lab, version, size):
    lab.start()
    endpoint = lab.endpoint()
    ends = (CLIENT[version == 6], SERVER[version == 6])
    packet = packets.udp(*ends, 1, 2, bytes(size - (28 if version == 4 else 48)))
    assert len(packet) == size
    for _ in range(3):
        endpoint.send(packet)
    assert lab.balancer.wait(lambda: len(endpoint.received) == 3)


KINDS = {
    "ipv4 with options": packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x", options=b"\x94\x04\0\0" + b"\1" * 8),
    "ipv6 extension headers": packets.ipv6(
        CLIENT[1], SERVER[1], packets.UDP, packets.udp_datagram(CLIENT[1], SERVER[1], 1, 2, b"x"),
        extensions=((packets.HOP_BY_HOP, b"\0\0\1\4\0\0\0\0"), (packets.DESTINATION, b"\0\1\1\14" + bytes(12)))),
    "an atomic fragment": packets.ipv6(
        CLIENT[1], SERVER[1], packets.UDP, packets.udp_datagram(CLIENT[1], SERVER[1], 1, 2, b"x"),
        extensions=((packets.FRAGMENT, struct.pack("!BBHI", 0, 0, 0, 5)),)),
    "gre": packets.ipv4(CLIENT[0], SERVER[0], 47, b"\0\0\x08\0" + bytes(30)),
    "esp": packets.ipv6(CLIENT[1], SERVER[1], 50, bytes(range(40))),
    "sctp": packets.ipv4(CLIENT[0], SERVER[0], 132, bytes(range(40))),
    "ipip": packets.ipv4(CLIENT[0], SERVER[0], 4, packets.udp("1.2.3.4", "4.3.2.1", 5, 6)),
    "no next header": packets.ipv6(CLIENT[1], SERVER[1], 59, b""),
    "nothing but an ip header": packets.ipv4(CLIENT[0], SERVER[0], 253, b""),
    "tcp of two bytes": packets.ipv4(CLIENT[0], SERVER[0], packets.TCP, b"\1\2"),
    "tcp flags and options": packets.tcp(CLIENT[0], SERVER[0], 1, 2, flags=0xFF, options=b"\2\4\5\xb4", tos=3),
    "a wrong udp checksum": packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")[:26] + b"\1\2x",
    "no udp checksum": packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")[:26] + b"\0\0x",
    "an ICMP timestamp": packets.icmp(CLIENT[0], SERVER[0], 13, 0, b"\0\1\0\2", bytes(12)),
    "an unreachable of a host": packets.icmp(
        CLIENT[0], SERVER[0], 3, 3, bytes(4), packets.udp(SERVER[0], CLIENT[0], 9, 10)[:28]),
    "a packet to itself": packets.udp(CLIENT[0], CLIENT[0], 1, 1, b"x"),
    "a last hop": packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x", ttl=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unusual_packets_come_back_as_they_were(lab, kind):
    lab.start()
    endpoint = lab.endpoint()
    for _ in range(3):
        endpoint.send(KINDS[kind])
    assert lab.balancer.wait(lambda: len(endpoint.received) == 3)


def test_padding_after_the_inner_packet_goes_no_further(lab):
    lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")
    flow = endpoint.flow(packet)
    endpoint.send(packet)
    lab.balancer.inject(flow.envelope.header + packet + bytes(17), flow.envelope.port, flow.envelope.address)
    assert lab.balancer.wait(lambda: lab.balancer.counters.returned == 2)
    # The second was not announced as sent, and is found to be a repetition of the first, of the same length.
    assert len(lab.balancer.violations) == 1 and "repeated" in lab.balancer.violations.pop()


def test_foreign_options_go_along(lab):
    lab.start()
    pair = lab.pair(extra_options=[geneve.Option(0x0167, 1, b"8 bytes!"), geneve.Option(0xFFFF, 0x7F, bytes(124))])
    pair.client.namespace.run("ping", "-c2", "-i0.02", "-W60", pair.server.ipv4)


def test_hosts_of_several_endpoints_with_the_same_addresses(lab):
    lab.start()
    pairs = [lab.pair(ENI + number) for number in range(3)]
    servers = [open_udp(pair.server, 4, 7) for pair in pairs]
    clients = [open_udp(pair.client, 4, 7000) for pair in pairs]
    for number in range(3):
        clients[number].sendto(b"%d" % number, (SERVER[0], 7))
    for number in range(3):
        got, peer = servers[number].recvfrom(100)
        assert (got, peer) == (b"%d" % number, (CLIENT[0], 7000))
        servers[number].sendto(b"back to %d" % number, peer)
    assert [client.recv(100) for client in clients] == [b"back to %d" % number for number in range(3)]
    for opened in servers + clients:
        opened.close()


BAD_NETWORKS = {
    "loss": {"loss": 0.02},
    "reordering": {"reorder": 0.1},
    "duplicates": {"duplicate": 0.1},
    "delay": {"delay": 0.01},
    "all": {"loss": 0.01, "duplicate": 0.02, "reorder": 0.05, "delay": 0.002},
}


@both
@pytest.mark.parametrize("kind", BAD_NETWORKS)
def test_tcp_over_a_bad_network(lab, version, kind):
    lab.balancer.impairment = gwlb.Impairment(**BAD_NETWORKS[kind])
    lab.start()
    pair = lab.pair()
    for host in pair.client, pair.server:
        host.namespace.ip("link set", host.name, "mtu 1500")
    sent = random.Random(version).randbytes(2_000_000)
    assert transfer(pair, version, sent) == sent
    assert checksum_errors(lab, pair) == [{}] * 3
    counters = lab.balancer.counters
    assert counters.sent > 1400
    assert bool(counters.lost) == ("loss" in BAD_NETWORKS[kind])
    assert bool(counters.duplicated) == ("duplicate" in BAD_NETWORKS[kind])


# ---- An appliance that routes ---------------------------------------------------------------------------------------


@pytest.fixture
def routed(lab):
    """A pair of hosts behind an appliance that routes."""
    lab.route()
    daemon = lab.start(hook=ROUTE)
    pair = lab.pair(expectation=gwlb.Forwarded())
    for version in 4, 6:  # the first packet makes the endpoint
        pair.client.namespace.run("ping", "-c1", "-W60", pair.server.address(version))
    return daemon, pair


@both
def test_a_router_shows_in_a_trace(routed, version):
    _, pair = routed
    target = pair.server.address(version)
    hops = pair.client.namespace.run("traceroute", f"-{version}", "-n", "-q1", "-w5", "-m4", target).stdout
    found = re.findall(r"^ *\d+ +(\S+)", hops, re.MULTILINE)
    assert found[-2:] == [APPLIANCE if version == 4 else APPLIANCE_IPV6, target]


@both
def test_a_sender_learns_the_mtu_of_a_smaller_way_out(lab, routed, version):
    _, pair = routed
    lab.appliance.ip("link set", pair.endpoint.gwo, "mtu", 1400)
    target = pair.server.address(version)
    overhead = 28 if version == 4 else 48
    too_big = pair.client.namespace.run("ping", "-c1", "-W5", "-Mdo", f"-s{1401 - overhead}", target, check=False)
    assert too_big.returncode != 0
    assert "1400" in pair.client.namespace.ip(f"-{version}", "route get", target)
    pair.client.namespace.run("ping", "-c1", "-W60", "-Mdo", f"-s{1400 - overhead}", target)


@both
def test_tcp_gets_through_a_smaller_way_out(lab, routed, version):
    _, pair = routed
    lab.appliance.ip("link set", pair.endpoint.gwo, "mtu", 1400)
    sent = random.Random(version).randbytes(300_000)
    assert transfer(pair, version, sent) == sent
    assert checksum_errors(lab, pair) == [{}] * 3


@both
def test_fragments_through_a_router(routed, version):
    _, pair = routed
    pair.client.namespace.run("ping", "-c2", "-i0.02", "-W60", "-s20000", pair.server.address(version))


@both
def test_a_router_refuses_under_the_header_of_the_flow(lab, routed, version):
    """Linux has no way to a host: it says so, about UDP, TCP and echo."""
    _, pair = routed
    ends = (CLIENT[version == 6], ("172.16.0.1", "2001:db8:ffff:1::1")[version == 6])
    lab.appliance.ip(f"-{version}", "route add unreachable", ends[1])
    before = lab.balancer.counters.returned
    for packet in (packets.udp(*ends, 1, 2, b"x" * 100), packets.tcp(*ends, 3, 4, b"x" * 100, seq=1, ack=1),
                   packets.echo(*ends, 5, 6, b"x" * 100)):
        pair.endpoint.send(packet)
        before += 1
        assert lab.balancer.wait(lambda: lab.balancer.counters.returned == before)
        assert pair.endpoint.flow(packet).returned == 1
