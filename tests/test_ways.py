# SPDX-License-Identifier: MIT-0
"""The ways back to the load balancer: the interface they lead by, the sockets they take, and what is lost on them."""
import re
import socket

import pytest

import netns
import packets
from gwlbtun import geneve
from lab import APPLIANCE, BALANCER

from test_transmit import all_return, datagram, drops, send_all, start, with_and_without_net_raw

FAR = "198.51.100.1"  # the load balancer, beyond a router


@pytest.fixture
def two_armed(lab):
    """A management interface with the default route, and a data interface that only a rule for its address leads by."""
    with netns.Namespace("mgmt") as management:
        netns.link(management, "eth0", lab.appliance, "mgmt0")
        management.ip("address add 203.0.113.1/24 dev eth0")
        lab.appliance.ip("address add 203.0.113.2/24 dev mgmt0")
        lab.appliance.ip("route add default via 203.0.113.1 dev mgmt0")
        lab.appliance.ip(f"route add default via {BALANCER[0]} dev eth0 table 100")
        lab.appliance.ip(f"rule add from {APPLIANCE} lookup 100")
        for scope in "all", "eth0", "mgmt0":
            lab.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
        lab.outside.ip(f"address add {FAR}/32 dev lo")
        lab.balancer.addresses[:] = [FAR]
        yield lab


def sent_by(lab, interface):
    """Packets that have left by it."""
    shown = lab.appliance.ip("-s link show", interface).split("TX:")[1].splitlines()[1]
    return int(shown.split()[1])


@with_and_without_net_raw
def test_replies_take_the_way_that_routing_has_for_their_source(two_armed, net_raw):
    lab = two_armed
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, net_raw=net_raw)
    endpoint = lab.endpoint()
    before = sent_by(lab, "mgmt0")
    flows = [datagram(number) for number in range(3000)]  # more outer ports than a thread has sockets
    for number, packet in enumerate(flows):
        endpoint.flow(packet).renew(port=20000 + number)
    endpoint.flow(flows[0]).renew(port=geneve.PORT)
    for _ in range(2):
        send_all(lab, endpoint, flows)
        assert all_return(lab, 20), drops(daemon)
    assert sent_by(lab, "mgmt0") == before
    assert drops(daemon) == {}


def test_a_port_that_another_program_holds_has_the_same_way(two_armed):
    lab = two_armed
    with lab.appliance.entered():
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with other:
        other.bind(("0.0.0.0", 30001))
        daemon = start(lab)
        endpoint = lab.endpoint()
        endpoint.flow(datagram(1)).renew(port=30001)
        send_all(lab, endpoint, [datagram(1)] * 100)
        assert all_return(lab), drops(daemon)
    assert sent_by(lab, "mgmt0") == 0


def sockets_at(lab, port):
    """The daemon's sockets that are bound to a port."""
    shown = lab.appliance.run("ss", "-Huan", f"sport = :{port}").stdout
    return len(shown.splitlines())


@pytest.mark.parametrize("port, most", [(22465, 16), (22464, 128)])
@with_and_without_net_raw
def test_sockets_of_one_port_are_bounded(lab, net_raw, port, most):
    """A sender chooses outer ports, and so where the kernel's table of UDP sockets gets long chains: 22465 - 6081 is 16384."""
    lab.outside.ip("link set eth0 arp off")
    lab.appliance.ip("link set eth0 arp off")  # so that forged addresses need no answer
    lab.outside.ip("link set eth0 address 02:00:00:00:00:01")
    lab.appliance.ip("link set eth0 address 02:00:00:00:00:01")
    lab.appliance.ip("route add 10.128.0.0/16 dev eth0")
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, net_raw=net_raw)
    endpoint = lab.endpoint()
    header = endpoint.flow(datagram(1)).envelope.header
    with lab.outside.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        for number in range(2000):
            source = f"10.128.{number // 250}.{1 + number % 250}"
            raw.sendto(packets.udp(source, APPLIANCE, port, geneve.PORT, header + datagram(number)), (APPLIANCE, 0))
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] == 2000), (drops(daemon), daemon.health()["totals"])
    assert 1 < sockets_at(lab, port) <= most + 1
    # Every reply has gone to where its packet came from.
    assert drops(daemon) == {}


# That cuts super-packets, and tells only when it has dropped all of one; and that takes them as they are.
TBF = ["qdisc add dev eth0 root tbf rate 20mbit burst 20kb limit 40kb"]
HTB = ["qdisc add dev eth0 root handle 1: htb default 1", "class add dev eth0 parent 1: classid 1:1 htb rate 20mbit",
       "qdisc add dev eth0 parent 1:1 pfifo limit 20"]


def dropped_by_qdisc(lab):
    shown = lab.appliance.run("tc", "-s", "qdisc", "show", "dev", "eth0").stdout
    return max(map(int, re.findall(r"dropped (\d+)", shown)))


@pytest.mark.parametrize("offload, commands", [("all", HTB), ("udp-gro,tun", HTB), ("udp-gro,tun", TBF)])
def test_what_a_queueing_discipline_drops_is_not_called_sent(lab, offload, commands):
    daemon = start(lab, "--udpthreads", 1, "--tunthreads", 1, "--offload", offload)
    mac = lab.outside.ip("link show eth0").split("link/ether ")[1].split()[0]
    for address in BALANCER:  # or what asks for it would be dropped, and then what waits for the answer, which is told to nobody
        lab.appliance.ip(f"neigh replace {address} lladdr {mac} dev eth0 nud permanent")
    endpoint = lab.endpoint()
    first = datagram(0, 1000)
    endpoint.send(first)
    assert all_return(lab)
    for command in commands:
        lab.appliance.run("tc", *command.split())
    for number in range(2000):
        endpoint.send(datagram(number % 16, 1000))
    assert lab.wait(lambda: daemon.health()["totals"]["pktsFromLinux"] == 2001)
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] + drops(daemon).get("send", 0) == 2001)
    assert dropped_by_qdisc(lab) > 10
    returned = daemon.health()["totals"]["pktsToGwlb"]
    assert lab.wait(lambda: lab.balancer.counters.returned == returned), (lab.balancer.counters, drops(daemon))
    assert drops(daemon) == {"send": 2001 - returned}
