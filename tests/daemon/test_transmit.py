# SPDX-License-Identifier: MIT-0
"""The way back to the load balancer, at its edges: ports, addresses, sizes, and a network that refuses."""
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

import lab as lab_module
import netns
import packets
from gwlbtun import geneve
from lab import APPLIANCE, BALANCER, CLIENT, ENI, SERVER

ROOT = Path(__file__).resolve().parents[2]
PR_CAPBSET_DROP = 24
CAP_NET_RAW = 13
IN_FLIGHT = 256  # fewer than any queue on the way holds

with_and_without_net_raw = pytest.mark.parametrize("net_raw", [True, False], ids=["with net_raw", "without net_raw"])


def start(lab, *arguments, net_raw=True):
    """A daemon, of which the kernel takes CAP_NET_RAW away if it is not to have it."""
    if net_raw:
        return lab.start(*arguments)
    started = []

    def run():  # the bounding set is the thread's, and its children inherit it
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_CAPBSET_DROP, CAP_NET_RAW, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        started.append(lab.start(*arguments))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return started[0]


def datagram(number, size=20, ends=(CLIENT[0], SERVER[0])):
    """A packet of its own flow, by number."""
    return packets.udp(*ends, 1024 + number % 60000, 53 + number // 60000, random.Random(number).randbytes(size))


def send_all(lab, endpoint, sent):
    """Sends packets, no faster than they come back."""
    counters = lab.balancer.counters
    for number, packet in enumerate(sent):
        if number % 64 == 0:
            lab.balancer.wait(lambda: counters.sent - counters.returned < IN_FLIGHT)
        endpoint.send(packet)


def all_return(lab, timeout=60):
    counters = lab.balancer.counters
    return lab.balancer.wait(lambda: counters.returned == counters.sent, timeout) and lab.balancer.awaited == 0


def drops(daemon):
    """Losses, but for what Linux sends of its own accord."""
    return {name: count for name, count in daemon.drops().items() if name != "no_flow"}


def sends_of(daemon):
    return daemon.health()["totals"]["sendsToGwlb"]


def udp_socket(namespace, address, port):
    with namespace.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, port))
    return opened


# ---- Ports -----------------------------------------------------------------------------------------------------------


def test_a_balancer_that_sends_from_port_6081_itself(lab):
    """Packets go back from the port that the receivers have, and nothing that comes to it goes astray."""
    daemon = start(lab, "--udpthreads", 2)
    endpoint = lab.endpoint()
    sent = [datagram(number) for number in range(8)]
    for number, packet in enumerate(sent):
        endpoint.flow(packet).renew(port=geneve.PORT if number % 2 else None, address=BALANCER[number // 4])
    for _ in range(40):
        send_all(lab, endpoint, sent)
        assert all_return(lab)
    assert drops(daemon) == {}


def test_bursts_from_port_6081(lab):
    """With UDP_SEGMENT, if the kernel has it: many packets of one size are waiting."""
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1)
    endpoint = lab.endpoint()
    packet = datagram(1, 1000)
    endpoint.flow(packet).renew(port=geneve.PORT)
    endpoint.send(packet)
    assert all_return(lab)
    with stopped(daemon):
        for _ in range(500):
            endpoint.send(packet)
    assert all_return(lab)
    assert drops(daemon) == {}
    assert sends_of(daemon) < 250


@contextlib.contextmanager
def stopped(daemon):
    """The daemon stands still, so that what is sent meanwhile is one batch."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@with_and_without_net_raw
def test_more_source_ports_than_a_thread_has_sockets(lab, net_raw):
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, net_raw=net_raw)
    endpoint = lab.endpoint()
    sent = [datagram(number) for number in range(3000)]
    for number, packet in enumerate(sent):
        endpoint.flow(packet).renew(port=10000 + number)
    for _ in range(2):
        send_all(lab, endpoint, sent)
        assert all_return(lab), drops(daemon)
    assert drops(daemon) == {}


def test_a_port_that_another_process_holds(lab):
    daemon = start(lab)
    endpoint = lab.endpoint()
    held, free = datagram(1), datagram(2)
    endpoint.flow(held).renew(port=20001)
    with udp_socket(lab.appliance, "0.0.0.0", 20001):
        send_all(lab, endpoint, [held, free] * 20)
        assert all_return(lab)
    assert drops(daemon) == {}


def test_a_port_that_another_process_holds_without_net_raw(lab):
    daemon = start(lab, net_raw=False)
    endpoint = lab.endpoint()
    held, free = datagram(1), datagram(2)
    endpoint.flow(held).renew(port=20001)
    with udp_socket(lab.appliance, "0.0.0.0", 20001):
        send_all(lab, endpoint, [free] * 20)
        assert all_return(lab)
        send_all(lab, endpoint, [held] * 20)
        assert lab.balancer.wait(lambda: drops(daemon) == {"send": 20}), drops(daemon)
        send_all(lab, endpoint, [free] * 20)
        assert lab.balancer.wait(lambda: lab.balancer.counters.returned == 40)
    # And once it is free, it is used.
    assert lab.balancer.wait(lambda: endpoint.send(held) or time.sleep(0.2) or lab.balancer.counters.returned > 40)


def test_a_source_port_of_0(lab):
    """Nobody can bind it, so only a raw socket can keep it."""
    daemon = start(lab)
    endpoint = lab.endpoint()
    packet = datagram(1)
    endpoint.flow(packet).renew(port=0)
    send_all(lab, endpoint, [packet] * 5)
    assert all_return(lab)
    assert drops(daemon) == {}


def test_threads_without_net_raw_leave_each_other_sockets(lab, monkeypatch):
    """The process may have as many as half of its descriptors; one endpoint takes more than that."""
    command_line = lab_module.command_line
    monkeypatch.setattr(lab_module, "command_line", lambda *arguments: [
        "sh", "-c", 'ulimit -n 400; exec "$@"', "sh", *command_line(*arguments)])
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, net_raw=False)
    greedy, modest = lab.endpoint(ENI), lab.endpoint(ENI + 1)
    sent = [datagram(number) for number in range(600)]
    for number, packet in enumerate(sent):
        greedy.flow(packet).renew(port=10000 + number)
    send_all(lab, greedy, sent)
    send_all(lab, modest, [datagram(number) for number in range(10)] * 20)
    send_all(lab, greedy, sent)
    assert all_return(lab), drops(daemon)
    assert drops(daemon) == {}


def connected_ports(daemon):
    """Of its sockets to the load balancer."""
    return sorted(own for (_, own), (_, peer) in daemon.udp_sockets() if peer == geneve.PORT)


@pytest.mark.unsanitized(reason="its shim is built by itself, and what it does atomically would be unknown")
def test_sockets_that_are_idle_are_closed_while_their_thread_sleeps(lab, copy, monkeypatch):
    """In a copy that takes ten seconds for what is a minute otherwise."""
    shutil.copy(ROOT / "Makefile", copy.parent)
    subprocess.run(["make", "-sB", "-C", copy.parent, "CFLAGS=-O1 -DGW_WAYS_IDLE_S=10u"], check=True)
    monkeypatch.setattr(lab_module, "PROGRAM", copy)
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1)
    endpoint = lab.endpoint()
    packet = datagram(1)
    for port in 10001, 10002, 10003:
        endpoint.flow(packet).renew(port=port)
        send_all(lab, endpoint, [packet])
        assert all_return(lab)
    assert connected_ports(daemon) == [10001, 10002, 10003]
    assert lab.wait(lambda: connected_ports(daemon) == [])
    send_all(lab, endpoint, [packet])
    assert all_return(lab)


def test_neighbours_that_do_not_answer_hold_nothing_up(lab):
    """What goes to them, by the raw socket that all threads share, waits in the kernel for their link addresses."""
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1)
    endpoint, free = lab.endpoint(), datagram(1)
    send_all(lab, endpoint, [free])
    nobody = [f"192.0.2.{100 + number}" for number in range(60)]
    header = endpoint.flow(free).envelope.header
    for _ in range(40):
        for count, address in enumerate(nobody):
            lab.balancer.transmit(address, 0, header + datagram(1000 + count, 1000))
        send_all(lab, endpoint, [free])
    assert lab.balancer.wait(lambda: endpoint.flow(free).returned == 41), drops(daemon)
    assert daemon.stop(timeout=60) == 0


# ---- Addresses -------------------------------------------------------------------------------------------------------


def test_replies_come_from_the_address_that_was_sent_to(lab):
    start(lab)
    endpoint = lab.endpoint()
    sent = [datagram(number) for number in range(6)]
    for address in APPLIANCE, "192.0.2.11", "198.51.100.7", APPLIANCE:
        if address != APPLIANCE:
            lab.appliance.ip("address add", f"{address}/32", "dev", "lo" if address.startswith("198") else "eth0")
            lab.outside.ip("route replace", f"{address}/32", "dev eth0")
        lab.balancer.appliance = address  # and what comes back must come from there
        send_all(lab, endpoint, sent)
        assert all_return(lab), address


def test_a_flow_whose_balancer_moves(lab):
    start(lab)
    endpoint = lab.endpoint()
    packet = datagram(1)
    for number in range(6):
        endpoint.flow(packet).renew(address=BALANCER[number % 2], port=30000 + number // 2)
        send_all(lab, endpoint, [packet] * 3)
        assert all_return(lab)


# ---- Offloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["none", "udp-gro", "tun", "udp-gso"])
def test_traffic_with_any_choice_of_offloads(lab, offload):
    daemon = start(lab, "--offload", offload)
    pair = lab.pair()
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        target = pair.server.address(version)
        sent = random.Random(version).randbytes(1_000_000)
        with pair.server.namespace.entered():
            listener = socket.create_server((target, 80), family=family)
            service = socket.socket(family, socket.SOCK_DGRAM)
        with pair.client.namespace.entered():
            client = socket.socket(family, socket.SOCK_STREAM)
            asker = socket.socket(family, socket.SOCK_DGRAM)
        with listener, service, client, asker:
            for opened in listener, service, client, asker:
                opened.settimeout(60)
            client.connect((target, 80))
            connection, _ = listener.accept()
            sender = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            sender.start()
            with connection, connection.makefile("rb") as stream:
                assert stream.read() == sent
            sender.join()
            service.bind((target, 7))
            for size in 0, 1, 1000, 20_000:
                asker.sendto(sent[:size], (target, 7))
                got, peer = service.recvfrom(65535)
                service.sendto(got[::-1], peer)
                assert asker.recv(65535) == sent[:size][::-1]
    assert drops(daemon) == {}
    for host in pair.client, pair.server:
        assert host.namespace.counter("TcpInCsumErrors") == host.namespace.counter("UdpInCsumErrors") == 0


# ---- A network that refuses ------------------------------------------------------------------------------------------


def second_way(lab, mtu):
    """Packets to the second address of the balancer leave by an interface of its own."""
    netns.link(lab.outside, "eth1", lab.appliance, "eth1", mtu)
    lab.appliance.ip("route add", BALANCER[1], "dev eth1 src", APPLIANCE)
    for name in "all", "eth1":
        lab.outside.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)


@pytest.mark.parametrize("offload", ["all", "none"])
def test_a_reply_that_does_not_fit_the_way_out(lab, offload):
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, "--offload", offload)
    second_way(lab, 1500)
    endpoint = lab.endpoint()
    fits, too_big = 1500 - 68 - 28, 1500 - 68 - 28 + 1
    flows = {}
    for number, (address, size) in enumerate([(0, 8472), (1, fits), (1, too_big), (1, 8472), (1, 100)]):
        flows[number] = datagram(number, size)
        endpoint.flow(flows[number]).renew(address=BALANCER[address], port=30000)
    endpoint.send(flows[0])
    assert all_return(lab)
    with stopped(daemon):
        for _ in range(50):
            for number in flows:
                endpoint.send(flows[number])
    counters = lab.balancer.counters
    assert lab.balancer.wait(lambda: drops(daemon).get("too_big") == 100), drops(daemon)
    assert lab.balancer.wait(lambda: counters.returned == 151)
    assert [endpoint.flow(flows[number]).returned for number in flows] == [51, 50, 0, 0, 50]
    assert drops(daemon) == {"too_big": 100}
    assert daemon.health()["totals"]["sendErrors"] <= 2 * 100 + 10
    if offload == "all":  # what did not fit has not turned UDP_SEGMENT off
        before = sends_of(daemon)
        with stopped(daemon):
            for _ in range(200):
                endpoint.send(flows[1])
        assert lab.balancer.wait(lambda: counters.returned == 351)
        assert sends_of(daemon) - before < 100


@pytest.mark.parametrize("verdict", ["drop", "reject"])
def test_a_rule_that_stops_packets_on_their_way_out(lab, verdict):
    daemon = lab.start(kernel_path="off")  # what takes it does not pass by these rules
    endpoint = lab.endpoint()
    stopped_flow, free = datagram(1, 500), datagram(2)
    endpoint.flow(stopped_flow).renew(port=30001)
    endpoint.flow(free).renew(port=30002)
    send_all(lab, endpoint, [stopped_flow, free] * 5)
    assert all_return(lab)
    lab.appliance.run("nft", "add table ip t; add chain ip t out { type filter hook output priority 0; };"
                             f"add rule ip t out udp sport 30001 {verdict}")
    for _ in range(100):
        endpoint.send(stopped_flow)
        endpoint.send(free)
    counters = lab.balancer.counters
    assert lab.balancer.wait(lambda: drops(daemon) == {"send": 100}), drops(daemon)
    assert lab.balancer.wait(lambda: endpoint.flow(free).returned == 105)
    lab.appliance.run("nft", "delete table ip t")
    send_all(lab, endpoint, [stopped_flow, free] * 5)
    assert lab.balancer.wait(lambda: counters.returned == 120)
    assert drops(daemon) == {"send": 100}


def icmp_error(flow, packet, kind, code, rest=bytes(4)):
    """What the balancer's host might say of the packet when it has gone back under the flow's newest header."""
    under = flow.envelope
    quoted = packets.udp(APPLIANCE, under.address, under.port, geneve.PORT, under.header + packet)[:100]
    return packets.icmp(under.address, APPLIANCE, kind, code, rest, quoted)


ICMP_ERRORS = {"net unreachable": (0, 0), "host unreachable": (1, 0), "protocol unreachable": (2, 0),
               "port unreachable": (3, 0), "fragmentation needed": (4, 576), "filtered": (13, 0)}


@pytest.mark.parametrize("kind", ICMP_ERRORS)
def test_an_icmp_error_about_a_packet_loses_no_other(lab, kind):
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1)
    endpoint = lab.endpoint()
    packet = datagram(1, 800)
    flow = endpoint.flow(packet)
    flow.renew(address=BALANCER[0], port=30001)
    send_all(lab, endpoint, [packet] * 3)
    assert all_return(lab)
    code, mtu = ICMP_ERRORS[kind]
    error = icmp_error(flow, packet, 3, code, struct.pack("!HH", 0, mtu))
    for _ in range(5):
        lab.forge(error)
        send_all(lab, endpoint, [packet] * 3)
        assert all_return(lab), (lab.balancer.awaited, drops(daemon))
    assert drops(daemon) == {}


def test_a_way_out_that_is_stuck_holds_nothing_up(lab):
    """What cannot leave is dropped; what leaves by another interface goes on, and gwlbtun stops when it is told to."""
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, "--kernel-path", "off")
    second_way(lab, 9001)
    lab.appliance.run("tc", *"qdisc add dev eth1 root tbf rate 8kbit burst 10000 limit 100000000".split())
    endpoint = lab.endpoint()
    stuck, free = datagram(1, 8000), datagram(2)
    endpoint.flow(stuck).renew(address=BALANCER[1], port=30001)
    endpoint.flow(free).renew(address=BALANCER[0], port=30002)
    for sent in range(1, 41):
        for _ in range(50):  # far less than a ring holds: only what cannot leave may be dropped
            endpoint.send(stuck)
        endpoint.send(free)
        assert lab.balancer.wait(lambda: endpoint.flow(free).returned == sent), (sent, drops(daemon))
    lost = drops(daemon)
    assert lost.pop("send") > 500
    assert lost == {}
    assert daemon.stop(timeout=60) == 0
