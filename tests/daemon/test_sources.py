# SPDX-License-Identifier: MIT-0
"""Packets that the load balancer did not send: each is dropped under its own reason, before anything is made of it."""
import contextlib
import os
import socket
import struct
import sys
import time

import pytest

import gwlb
import netns
import packets
from gwlbtun import geneve
from lab import ROUTE, APPLIANCE, BALANCER, CLIENT, ENI, PASSTHROUGH, SERVER, Daemon
from scripts import SCRIPTS

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")
FORGED = 0x0BAD  # an ENI ID that must not get an endpoint
PAYLOAD = geneve.gwlb_header(FORGED, 1, 2).pack() + PACKET
PROBE = b"\x40" + PAYLOAD[1:]  # of another Geneve version: nothing comes of it if it is let in

SOL_UDP, UDP_SEGMENT = 17, 103
LET_IN = "version"
AT_ONCE_S = 8  # by what the kernel reports: without that gwlbtun would look only after sources.REREAD_S

# Sends a datagram as a user without rights: to an address, from one, bound to a device.
UNPRIVILEGED = """
import os, socket, sys
destination, source, device, payload = sys.argv[1:]
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if device:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
sender.bind((source, 0))
sender.sendto(bytes.fromhex(payload), (destination, 6081))
"""


def local_user(lab, payload, destination, source="0.0.0.0", device=""):
    lab.appliance.run(sys.executable, "-c", UNPRIVILEGED, destination, source, device, payload.hex())


def received(daemon):
    return daemon.health()["totals"]["pktsFromGwlb"]


def settled(lab, daemon, number):
    """What was dropped, once so many packets have been received, and a moment later no more."""
    assert lab.wait(lambda: received(daemon) >= number)
    time.sleep(0.2)
    assert received(daemon) == number, "packets go round"
    return daemon.drops()


def enis(daemon):
    return [eni["eniStr"] for eni in daemon.health()["enis"]]


# ---- From this host itself


@pytest.mark.parametrize("destination, source, device, reason", [
    ("127.0.0.1", "0.0.0.0", "", "source_loopback"),
    ("127.0.0.1", "127.9.9.9", "", "source_loopback"),
    ("127.0.0.1", APPLIANCE, "", "source_loopback"),
    (APPLIANCE, "0.0.0.0", "", "source_own"),
    (APPLIANCE, "0.0.0.0", "eth0", "source_own"),
    (APPLIANCE, "198.18.0.7", "eth0", "source_own"),  # of a prefix that was made local by hand
])
def test_what_a_local_user_sends_does_not_go_round(lab, destination, source, device, reason):
    lab.appliance.ip("route add local 198.18.0.0/24 dev lo")
    daemon = lab.start()
    local_user(lab, PAYLOAD, destination, source, device)
    assert settled(lab, daemon, 1) == {reason: 1}
    assert enis(daemon) == []


@pytest.mark.parametrize("change, undo, source", [
    ("address add 192.0.2.77/32 dev eth0", "address del 192.0.2.77/32 dev eth0", "192.0.2.77"),
    ("route add local 198.18.0.0/24 dev lo", "route del local 198.18.0.0/24 dev lo", "198.18.0.7"),
])
def test_an_address_that_comes_later_is_this_hosts_own_at_once(lab, change, undo, source):
    daemon = lab.start()
    lab.balancer.transmit(source, 4000, PROBE)
    assert lab.wait(lambda: daemon.drops() == {LET_IN: 1})
    begin, tries = time.monotonic(), 0
    lab.appliance.ip(change)

    def refused():
        nonlocal tries
        tries += 1
        local_user(lab, PROBE, APPLIANCE, source, "eth0")
        return daemon.drops().get("source_own")

    assert lab.wait(refused, AT_ONCE_S), f"still let in after {time.monotonic() - begin:.1f} s"
    assert lab.wait(lambda: received(daemon) == sum(daemon.drops().values()) == 1 + tries)
    local_user(lab, PAYLOAD, APPLIANCE, source, "eth0")
    settled(lab, daemon, 2 + tries)
    assert enis(daemon) == []

    lab.appliance.ip(undo)

    def let_in():
        before = daemon.drops()[LET_IN]
        lab.balancer.transmit(source, 4000, PROBE)
        return lab.wait(lambda: daemon.drops()[LET_IN] > before, 0.2)

    assert lab.wait(let_in, AT_ONCE_S)


# ---- From another appliance


@contextlib.contextmanager
def second_appliance(lab, *arguments):
    """Beside the first, with a link to it, and routes by that link to the load balancer."""
    directory = lab.directory / "second"
    directory.mkdir()
    with netns.Namespace("appl2") as namespace:
        netns.link(lab.appliance, "eth1", namespace, "eth1")
        lab.appliance.ip("address add 198.51.100.1/24 dev eth1")
        namespace.ip("address add 198.51.100.2/24 dev eth1")
        namespace.ip("route add default via 198.51.100.1")
        hook = lab.hook(PASSTHROUGH)
        daemon = Daemon(namespace, directory, ["-j", "-c", hook, "-r", hook, *arguments])
        try:
            yield daemon.wait_ready()
            assert daemon.stop() == 0
        finally:
            daemon.kill()


def test_a_packet_forged_as_from_another_appliance_does_not_go_round(lab):
    allowed = "--allow-from", f"{BALANCER[0]}/32", "--allow-from", BALANCER[1]
    for scope in "all", "default":
        lab.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
    first = lab.start(*allowed)
    with second_appliance(lab, *allowed) as second:
        lab.balancer.transmit("198.51.100.2", 4000, PAYLOAD)
        assert settled(lab, first, 1) == {"source_refused": 1}
        assert settled(lab, second, 0) == {}
        assert enis(first) == []


# ---- --allow-from


def test_sources_that_are_not_allowed(lab):
    daemon = lab.start("--allow-from", "192.0.2.0/30,10.9.0.0/16", "--logging", "geneve=debug")
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    for address in "192.0.2.4", "192.0.1.255", "10.8.255.255", "10.10.0.0", "8.8.8.8":
        lab.balancer.transmit(address, 4000, PAYLOAD)
    lab.balancer.transmit("10.9.255.255", 4000, PROBE)
    assert settled(lab, daemon, 7) == {"source_refused": 5, LET_IN: 1}
    assert enis(daemon) == [endpoint.id]
    assert "security group" not in daemon.log()
    assert lab.wait(lambda: daemon.log().count("dropped, it came from an address that --allow-from does not cover") == 5)


def test_every_packet_of_a_merged_datagram_is_counted(lab):
    daemon = lab.start("--allow-from", "10.0.0.0/8", "--logging", "geneve=debug")
    with lab.outside.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendmsg([PAYLOAD * 10 + PAYLOAD[:-1]], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(PAYLOAD)))], 0,
                       (APPLIANCE, geneve.PORT))
    assert settled(lab, daemon, 11) == {"source_refused": 11}
    totals = daemon.health()["totals"]
    assert totals["bytesFromGwlb"] == 11 * len(PAYLOAD) - 1
    assert lab.wait(lambda: daemon.log().count("--allow-from does not cover") >= 11)


def test_without_allow_from_the_log_says_what_guards_the_port(lab):
    daemon = lab.start()
    assert lab.wait(lambda: "security group alone guards UDP port 6081: give --allow-from" in daemon.log())


def test_a_flood_from_elsewhere_costs_a_line_of_log_and_the_traffic_beside_it_nothing(lab):
    daemon = lab.start("--allow-from", ",".join(BALANCER))
    endpoint = lab.endpoint()
    for number in range(3000):
        lab.balancer.transmit(f"198.18.{number >> 8}.{number & 255}", 4000, PAYLOAD)
        if number % 100 == 0:
            endpoint.send(PACKET)
    assert lab.wait(lambda: len(endpoint.received) == 30)
    assert settled(lab, daemon, 3030) == {"source_refused": 3000}
    assert lab.wait(lambda: "--allow-from does not cover" in daemon.log())
    assert daemon.log().count("Packets dropped") <= 2
    health = daemon.health()
    assert enis(daemon) == [endpoint.id] and health["flows"]["size"] == 1


def test_what_goes_to_all_hosts_is_dropped(lab):
    daemon = lab.start("--udpthreads", "1")  # the kernel gives each receiver a copy
    lab.appliance.ip("address add 192.0.2.20/24 brd 192.0.2.255 dev eth0")
    with lab.outside.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        for address in "192.0.2.255", "255.255.255.255":
            packet = packets.udp(BALANCER[0], address, 4000, geneve.PORT, PAYLOAD)
            sender.sendto(packet, ("eth0", geneve.PROTOCOL_IPV4, 0, 0, b"\xff" * 6))
    assert settled(lab, daemon, 2) == {"destination": 2}


# ---- Geneve inside Geneve


def test_an_inner_packet_to_the_appliances_own_port_is_not_taken_for_the_load_balancers(lab):
    """A hook of somebody's own that lets it through to the host."""
    daemon = lab.start(hook=ROUTE)
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    endpoint.send(packets.udp(CLIENT[0], APPLIANCE, 4000, geneve.PORT, PAYLOAD))
    assert lab.wait(lambda: daemon.drops().get("interface"))
    assert daemon.drops()["interface"] == 1
    assert enis(daemon) == [endpoint.id]


@pytest.mark.parametrize("script", ["create-route.sh", "create-nat.sh", "create-local.sh"])
def test_the_hooks_that_ship_keep_such_packets_from_the_port(lab, script):
    hook = SCRIPTS / script
    lab.appliance.ip(f"route add default via {BALANCER[0]}")
    daemon = lab.start("-c", hook, "-r", hook, hook=None)
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    endpoint.send(packets.udp(CLIENT[0], APPLIANCE, 4000, geneve.PORT, PAYLOAD))
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToLinux"] == 1)
    lab.balancer.inject(PROBE)  # by when this is counted, whatever had come before it would be
    assert lab.wait(lambda: daemon.drops().get(LET_IN) == 1)
    assert "interface" not in daemon.drops()
    assert enis(daemon) == [endpoint.id]


# ---- --uplink


def test_only_uplinks_are_received_by_also_when_they_come_later(lab):
    lab.route()
    daemon = lab.start("--uplink", "eth7,eth1")
    assert lab.wait(lambda: all(f"There is no interface {name} (--uplink)" in daemon.log() for name in ("eth1", "eth7")))
    endpoint = lab.endpoint()
    lab.balancer.inject(PAYLOAD)
    assert settled(lab, daemon, 1) == {"interface": 1}
    netns.link(lab.outside, "eth1", lab.appliance, "eth1")
    lab.outside.ip(f"route add {APPLIANCE}/32 dev eth1")

    def comes():
        lab.balancer.inject(PROBE)
        return daemon.drops().get(LET_IN)

    assert lab.wait(comes, AT_ONCE_S)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    assert "Interface eth1 (--uplink) has appeared" in daemon.log()
    lab.appliance.ip("link set eth1 down")
    lab.appliance.ip("link set eth1 name eth2 up")
    assert lab.wait(lambda: daemon.log().count("There is no interface eth1") == 2)
    before = daemon.drops()

    def refused():  # the link's other end may lose packets for a second after its carrier is back
        lab.balancer.inject(PROBE)
        return daemon.drops()["interface"] > before["interface"]

    assert lab.wait(refused)
    assert daemon.drops()[LET_IN] == before[LET_IN]


# ---- --allow-endpoint


def test_only_endpoints_that_are_allowed_get_interfaces(lab):
    allowed = [ENI, 0x076BC493B822CD32, 0xCAFE]
    daemon = lab.start("--allow-endpoint", f"vpce-{allowed[0]:017x},{allowed[1]:017X}", "--allow-endpoint", "cafe",
                       "--max-endpoints", "3")
    others = [eni for near in allowed for eni in (near - 1, near + 1)] + [0, (1 << 64) - 1]
    for eni in others:
        lab.balancer.inject(geneve.gwlb_header(eni, 1, 2).pack() + PACKET)
    endpoints = [lab.endpoint(eni) for eni in allowed]
    for endpoint in endpoints:
        endpoint.send(PACKET)
    assert lab.wait(lambda: all(endpoint.received == [PACKET] for endpoint in endpoints))
    assert daemon.drops() == {"endpoint_not_allowed": len(others)}
    assert sorted(enis(daemon)) == sorted(endpoint.id for endpoint in endpoints)
    assert daemon.health()["totals"]["receiverEntries"] <= len(os.sched_getaffinity(0)) + len(allowed) * 2
