# SPDX-License-Identifier: MIT-0
"""Real clients and random streams over the path in the kernel: nothing is lost or altered, and packets do take it."""
import itertools
import random
import time

import pytest

import gwlb
import packets
from clients import checksum_errors, open_udp, transfer
from expectations import AsLongAsIpSays
from lab import CLIENT, SERVER
from superpackets import random_stream

both = pytest.mark.parametrize("version", [4, 6])
STREAMS = 12


def carried(daemon):
    """Packets that took the kernel: in, and back."""
    ebpf = daemon.health()["ebpf"]
    return ebpf["ingress"]["accelerated"], ebpf["egress"]["accelerated"]


@both
def test_tcp_of_the_kernels_own(lab, version):
    daemon, pair = lab.start("--kernel-path", "require"), lab.pair()
    for host in pair.client, pair.server:
        host.namespace.ip("link set", host.name, "mtu 1500")
    sent = random.Random(version).randbytes(8_000_000)

    def many_took_it():
        assert transfer(pair, version, sent) == sent
        assert checksum_errors(lab, pair) == [{}] * 3
        return min(carried(daemon)) > 1000

    assert lab.wait(many_took_it) and daemon.health()["ebpf"]["ingress"]["lost"] == 0


@both
def test_tcp_over_a_bad_network(lab, version):
    lab.balancer.impairment = gwlb.Impairment(loss=0.01, duplicate=0.02, reorder=0.05, delay=0.002)
    daemon, pair = lab.start("--kernel-path", "require"), lab.pair()
    for host in pair.client, pair.server:
        host.namespace.ip("link set", host.name, "mtu 1500")
    sent = random.Random(version).randbytes(2_000_000)

    def many_took_it():
        assert transfer(pair, version, sent) == sent
        return min(carried(daemon)) > 100

    assert lab.wait(many_took_it)


@both
def test_one_packet_at_a_time(lab, version):
    daemon, pair = lab.start("--kernel-path", "require"), lab.pair()
    numbers = itertools.count()

    def many_took_it():
        for number in itertools.islice(numbers, 100):
            client.sendto(b"%d" % number, (pair.server.address(version), 7))
            got, peer = server.recvfrom(100)
            server.sendto(got + b"!", peer)
            assert (got, client.recv(100)) == (b"%d" % number, b"%d!" % number)
        return min(carried(daemon)) > 500

    with open_udp(pair.server, version, 7) as server, open_udp(pair.client, version) as client:
        assert lab.wait(many_took_it)


def test_random_streams_come_back_in_order_and_as_they_were(lab):
    """Those that may take the kernel and those that may not, of one flow one after the other."""
    lab.one_wire()
    daemon = lab.start("--kernel-path", "require", "--udpthreads", 1, "--tunthreads", 1)
    expectation = AsLongAsIpSays()
    endpoint, rng = lab.endpoint(expectation=expectation), random.Random(7)
    sent = [packets.udp(CLIENT[0], SERVER[0], 1, 2, b"first")]
    endpoint.send(sent[0])
    assert lab.wait(lambda: endpoint.received)
    for _ in range(STREAMS):
        for packet in random_stream(rng):
            endpoint.send(packet)
            sent.append(expectation.fingerprint(packet))
            time.sleep(0.002)
    assert lab.wait(lambda: len(endpoint.received) == len(sent)), daemon.drops()
    assert packets.by_flow(endpoint.received) == packets.by_flow(sent)
    assert min(carried(daemon)) > 0
