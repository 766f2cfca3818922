# SPDX-License-Identifier: MIT-0
"""Which socket a reply leaves by, which way that takes, and whether its loss is told."""
import contextlib
import re

import pytest

import netns
from gwlbtun import geneve
from lab import APPLIANCE, BALANCER
from test_transmit import (
    all_return, datagram, drops, icmp_error, send_all, start, stopped, udp_socket, with_and_without_net_raw)

AFAR = "198.18"  # of load balancers that are not in the appliance's own network
HELD = 20001  # by another program


def afar(number):
    return f"{AFAR}.{number >> 8}.{number & 255}"


def balancers_afar(lab):
    """All addresses that begin so are the balancer's, behind its first."""
    lab.outside.ip("route add local", f"{AFAR}.0.0/16", "dev lo")
    lab.appliance.ip("route add", f"{AFAR}.0.0/16", "via", BALANCER[0])


def management_interface(lab):
    """The data interface has a routing table of its own, for its address; main knows the management interface only."""
    netns.link(lab.outside, "eth1", lab.appliance, "eth1")
    lab.outside.ip("address add 203.0.113.1/24 dev eth1")
    lab.appliance.ip("address add 203.0.113.10/24 dev eth1")
    for name in "all", "eth0", "eth1":
        for namespace in lab.outside, lab.appliance:
            namespace.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
    lab.outside.ip("route add local", f"{AFAR}.0.0/16", "dev lo")
    lab.appliance.ip("route add default via 203.0.113.1")
    lab.appliance.ip("route add default via", BALANCER[0], "dev eth0 table 100")
    lab.appliance.ip("rule add from", APPLIANCE, "lookup 100")
    lab.appliance.run("nft", "add table ip t; add chain ip t out { type filter hook postrouting priority 0; };"
                             "add rule ip t out oifname eth1 udp dport 6081 counter")


def misled(lab):
    """Replies that left by the management interface."""
    return int(re.search(r"counter packets (\d+)", lab.appliance.run("nft", "list table ip t").stdout).group(1))


@with_and_without_net_raw
def test_every_socket_takes_the_way_that_routing_has_for_our_address(lab, net_raw):
    management_interface(lab)
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, net_raw=net_raw)
    endpoint = lab.endpoint()
    ports = [40000 + number for number in range(1500)]  # more than a thread has sockets
    ports += [geneve.PORT] * 2 + [30000] * 100          # of many balancers
    ports += [HELD] * 5 + [0] * 5 if net_raw else []
    sent = [datagram(number, 500) for number in range(len(ports))]
    for number, port in enumerate(ports):
        endpoint.flow(sent[number]).renew(address=afar(number), port=port)
    with udp_socket(lab.appliance, "0.0.0.0", HELD):
        for _ in range(3):
            send_all(lab, endpoint, sent)
            assert all_return(lab), drops(daemon)
        for batch in range(0, len(sent), 200):
            with stopped(daemon):
                for packet in sent[batch:batch + 200]:
                    endpoint.send(packet)
            assert all_return(lab), drops(daemon)
    assert misled(lab) == 0
    assert drops(daemon) == {}


@with_and_without_net_raw
def test_source_ports_do_not_fill_the_slot_of_port_6081(lab, net_raw):
    """In the kernel's table, ports that differ by a multiple of its size share one; 256 is the least."""
    balancers_afar(lab)
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 2, net_raw=net_raw)
    endpoint = lab.endpoint()
    sent = [datagram(number) for number in range(600)]
    for number, packet in enumerate(sent):
        port = geneve.PORT + 16384 if number < 300 else geneve.PORT + 256 * (number % 200 + 1)
        endpoint.flow(packet).renew(address=afar(number), port=port)
    for _ in range(2):
        send_all(lab, endpoint, sent)
        assert all_return(lab), drops(daemon)
    assert drops(daemon) == {}
    same_slot = [own for own, _ in daemon.udp_sockets() if own[1] % 256 == geneve.PORT % 256 and own[1] != geneve.PORT]
    assert len(same_slot) > 500
    found_first = [address for address, _ in same_slot if not address.startswith("127.")]
    assert 0 < len(found_first) <= 32


def test_replies_from_port_6081_take_nothing_from_the_receivers(lab):
    daemon = start(lab, "--udpthreads", 2, "--tunthreads", 1)
    endpoint = lab.endpoint()
    packet = datagram(1)
    endpoint.flow(packet).renew(port=geneve.PORT)
    send_all(lab, endpoint, [packet] * 10)
    assert all_return(lab)
    deaf = [own for own, _ in daemon.udp_sockets() if own[1] == geneve.PORT and own[0] != "0.0.0.0"]
    assert len(deaf) == 1 and deaf[0][0].startswith("127.")
    send_all(lab, endpoint, [datagram(number) for number in range(2, 100)] * 3)
    assert all_return(lab)
    assert drops(daemon) == {}


ICMP_ERRORS = {"port unreachable": (3, 3), "source quench": (4, 0), "time exceeded": (11, 0), "parameter problem": (12, 0)}


@pytest.mark.parametrize("port", [30001, geneve.PORT, 0], ids=["connected", "deaf", "raw"])
@pytest.mark.parametrize("kind", ICMP_ERRORS)
def test_forged_icmp_errors_lose_nothing(lab, kind, port):
    """Errors come in between any two sends, and nobody reads them."""
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1)
    endpoint = lab.endpoint()
    packet = datagram(1, 800)
    flow = endpoint.flow(packet)
    flow.renew(address=BALANCER[0], port=port)
    error = icmp_error(flow, packet, *ICMP_ERRORS[kind])
    for _ in range(200):
        lab.forge(error)
        send_all(lab, endpoint, [packet] * 3)
    assert all_return(lab), (lab.balancer.awaited, drops(daemon))
    assert drops(daemon) == {}


@contextlib.contextmanager
def narrow_uplink(lab, limit):
    """It takes 8 Mbit/s; a packet is lost when the queue holds so many bytes."""
    lab.appliance.run("tc", *f"qdisc add dev eth0 root tbf rate 8mbit burst 100000 limit {limit}".split())
    yield
    lab.appliance.run("tc", *"qdisc del dev eth0 root".split())


def test_what_the_uplink_does_not_take_is_told(lab):
    """By a connected socket, alone and in large messages, by one that is not, and by the raw socket."""
    daemon = lab.start("--udpthreads", 1, "--tunthreads", 1, kernel_path="off")  # which is not told what an uplink drops
    endpoint, counters = lab.endpoint(), lab.balancer.counters
    for number, (port, size) in enumerate([(30001, 100), (30002, 1400), (geneve.PORT, 1000), (0, 500)]):
        packet = datagram(number, size)
        endpoint.flow(packet).renew(port=port)
        endpoint.send(packet)
        assert lab.wait(lambda: endpoint.flow(packet).returned == 1)
        before, lost_before = counters.returned, drops(daemon).get("send", 0)
        with narrow_uplink(lab, 150_000):
            for _ in range(5):
                with stopped(daemon):
                    for _ in range(400):
                        endpoint.send(packet)
            assert lab.wait(lambda: told(daemon) == counters.sent), port
            totals = daemon.health()["totals"]
            assert lab.wait(lambda: counters.returned == totals["pktsToGwlb"]), (port, counters, totals)
        lost = drops(daemon).get("send", 0) - lost_before
        assert counters.returned - before + lost == 2000
        assert lost > 100, port


def told(daemon):
    """Packets that were sent, or counted as lost."""
    return daemon.health()["totals"]["pktsToGwlb"] + drops(daemon).get("send", 0)
