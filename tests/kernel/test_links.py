# SPDX-License-Identifier: MIT-0
"""The ways out for the programs: what the kernel says of routes and neighbours, as it changes."""
import contextlib
import ctypes
import os
import socket
import subprocess
import time

import pytest

import netns
from gwlbtun.kernel import links as module
from gwlbtun.kernel import resolve
from gwlbtun.kernel.layout import Link
from gwlbtun.kernel.links import Links
from turning import turn_until

OWN, BALANCER, ROUTER, FAR = "192.0.2.10", "192.0.2.1", "192.0.2.254", "198.51.100.7"
MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


def number(address):
    """An address as it stands in the map."""
    return ctypes.c_uint32.from_buffer_copy(socket.inet_aton(address)).value


def octets(mac):
    return bytes.fromhex(mac.replace(":", ""))


class Host:
    """An appliance with an uplink, and who is at its other end; the test's thread is in the appliance."""

    def __init__(self, stack, book):
        self.there, self.here = (stack.enter_context(netns.Namespace(label)) for label in ("far", "here"))
        netns.link(self.there, "eth0", self.here, "up0", mtu=1500)
        self.there.ip(f"link set eth0 address {MAC}")
        for address in BALANCER, ROUTER:
            self.there.ip(f"address add {address}/24 dev eth0")
        self.here.ip(f"address add {OWN}/24 dev up0")
        stack.enter_context(self.here.entered())
        self.table = (Link * 4)()
        self.refusal = ""
        self.uplinks = []
        self.links = Links(self.table, self._uplink, self._free, book.log)
        stack.callback(self.links.close)
        self._pairs = 0
        self.idle = []  # places that thread K would give up

    def _uplink(self, index, name):
        self.uplinks.append((index, name))
        return self.refusal

    def _free(self, idle_s):
        idle, self.idle = self.idle, []
        for number in idle:
            self.table[number].valid = self.table[number].own_address = self.table[number].gwlb_address = 0
        return len(idle)

    def want(self, gwlb, own=OWN):
        """As thread K does; the entry."""
        entry = self.table[self._pairs]
        entry.own_address, entry.gwlb_address = number(own), number(gwlb)
        self._pairs += 1
        self.links.grow(self._pairs)
        return entry

    def until(self, condition):
        assert turn_until(condition, self.links), (self.links.reasons, [bytes(entry).hex() for entry in self.table])

    def mac(self, interface="up0"):
        return octets(self.here.run("cat", f"/sys/class/net/{interface}/address").stdout.strip())


@pytest.fixture
def host(book):
    with contextlib.ExitStack() as stack:
        yield Host(stack, book)


def test_a_neighbour_that_nobody_has_asked_for_yet(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    assert (entry.ifindex, entry.mtu) == (socket.if_nametoindex("up0"), 1500)
    assert bytes(entry.ethernet) == octets(MAC) + host.mac() + b"\x08\x00"
    assert (entry.ifindex, "up0") in host.uplinks and host.links.valid == 1


def test_pairs_without_flows_give_up_their_places(host):
    entries = [host.want(address) for address in (BALANCER, ROUTER)]
    host.until(lambda: all(entry.valid for entry in entries))
    host.idle = [0]
    end = time.monotonic() + 2.5 * module.LOOK_S
    host.until(lambda: time.monotonic() >= end)
    assert host.idle == [0] and host.links.valid == 2  # there is room
    host.want("192.0.2.77")
    host.until(lambda: not host.idle)
    assert not entries[0].valid and host.links.valid == 1
    host.here.ip("route add 198.51.100.0/24 via", ROUTER)
    entries[0].gwlb_address, entries[0].own_address = number(FAR), number(OWN)
    host.links.grow(3)
    host.until(lambda: entries[0].valid)
    assert bytes(entries[0].ethernet) == bytes(entries[1].ethernet) and host.links.valid == 2


def test_the_router_on_the_way(host):
    host.here.ip(f"route add 198.51.100.0/24 via {ROUTER} mtu 1400")
    entry = host.want(FAR)
    host.until(lambda: entry.valid)
    assert bytes(entry.ethernet)[:6] == octets(MAC) and entry.mtu == 1400


def test_a_neighbour_with_another_address(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    host.here.ip(f"neighbour replace {BALANCER} dev up0 lladdr {OTHER_MAC} nud reachable")
    host.until(lambda: bytes(entry.ethernet)[:6] == octets(OTHER_MAC))
    assert entry.valid


def test_a_neighbour_that_moves_is_found_again(host):
    """Nothing but the kernel's own probes can tell: the packets of the programs do not count."""
    for name, value in ("base_reachable_time_ms", 500), ("delay_first_probe_time", 1), ("retrans_time_ms", 200):
        host.here.sysctl(f"net.ipv4.neigh.up0.{name}", value)
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    host.there.ip(f"link set eth0 address {OTHER_MAC}")
    host.until(lambda: entry.valid and bytes(entry.ethernet)[:6] == octets(OTHER_MAC))


def test_a_permanent_neighbour_stays_permanent(host, monkeypatch):
    monkeypatch.setattr(module, "FRESH_S", 0.05)
    host.here.ip(f"neighbour replace {BALANCER} dev up0 lladdr {OTHER_MAC} nud permanent")
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    end = time.monotonic() + 0.5
    host.until(lambda: time.monotonic() >= end)
    assert bytes(entry.ethernet)[:6] == octets(OTHER_MAC)
    assert host.here.run("ip", "neighbour", "show", BALANCER).stdout.split() == [
        BALANCER, "dev", "up0", "lladdr", OTHER_MAC, "PERMANENT"]


def test_a_neighbour_that_goes_and_comes(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    host.there.ip("link set eth0 arp off")
    host.here.ip(f"neighbour flush to {BALANCER} dev up0")
    host.until(lambda: not entry.valid)
    host.there.ip("link set eth0 arp on")
    host.until(lambda: entry.valid)


def test_a_neighbour_that_nobody_has_is_asked_for_ever_less_often(host, monkeypatch):
    """A sender may invent addresses in our subnet, and the kernel's table of neighbours has little room."""
    monkeypatch.setattr(module, "LOOK_S", 3600.0)
    monkeypatch.setattr(module, "MISSING_S", 0.01)
    monkeypatch.setattr(module, "FRESH_S", 0.2)
    entry = host.want("192.0.2.77")
    host.until(lambda: host.links.due() > time.monotonic() + 0.5)
    assert not entry.valid
    host.there.ip("address add 192.0.2.77/24 dev eth0")
    host.here.ip(f"neighbour replace 192.0.2.77 dev up0 lladdr {MAC} nud reachable")  # as when a thread has sent something
    host.until(lambda: entry.valid)
    assert host.links.due() < time.monotonic() + 0.3


def test_our_own_ethernet_address_changes(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    host.here.ip(f"link set up0 address {OTHER_MAC}")
    host.until(lambda: bytes(entry.ethernet)[6:12] == octets(OTHER_MAC))


def test_the_uplink_goes_down_and_up_with_another_mtu(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    host.here.ip("link set up0 down")
    host.until(lambda: not entry.valid)
    host.here.ip("link set up0 mtu 1300 up")
    host.until(lambda: entry.valid)
    assert entry.mtu == 1300


def test_the_route_moves_to_another_interface(host):
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    netns.link(host.there, "eth1", host.here, "up1", mtu=1450)
    host.there.ip("address add 192.0.2.253/24 dev eth1")
    host.here.ip(f"route add {BALANCER}/32 dev up1")
    host.until(lambda: entry.valid and entry.ifindex == socket.if_nametoindex("up1"))
    assert entry.mtu == 1450 and bytes(entry.ethernet)[6:12] == host.mac("up1")
    host.here.ip(f"route del {BALANCER}/32 dev up1")
    host.until(lambda: entry.valid and entry.ifindex == socket.if_nametoindex("up0"))


def test_a_rule_by_source_address(host):
    host.here.ip("address add 192.0.2.11/24 dev up0")
    netns.link(host.there, "eth1", host.here, "up1")
    host.there.ip("address add 192.0.2.253/24 dev eth1")
    plain, ruled = host.want(BALANCER), host.want(BALANCER, "192.0.2.11")
    host.until(lambda: plain.valid and ruled.valid)
    host.here.ip(f"route add {BALANCER}/32 dev up1 table 77")
    host.here.ip("rule add from 192.0.2.11 table 77")
    host.until(lambda: ruled.valid and ruled.ifindex == socket.if_nametoindex("up1"))
    assert plain.ifindex == socket.if_nametoindex("up0")


def test_our_address_goes(host):
    host.here.ip("address add 192.0.2.11/32 dev up0")
    entry = host.want(BALANCER, "192.0.2.11")
    host.until(lambda: entry.valid)
    host.here.ip("address del 192.0.2.11/32 dev up0")
    host.until(lambda: not entry.valid)
    assert host.links.reasons == ["there is no route"]


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("compatible", [1, 0])
def test_several_next_hops_are_left_to_the_threads(host, book, group, compatible):
    host.here.sysctl("net.ipv4.nexthop_compat_mode", compatible)
    if group:
        for hop, router in (1, ROUTER), (2, BALANCER):
            host.here.ip(f"nexthop add id {hop} via {router} dev up0")
        host.here.ip("nexthop add id 3 group 1/2")
        host.here.ip("route add 198.51.100.0/24 nhid 3")
    else:
        host.here.ip(f"route add 198.51.100.0/24 nexthop via {ROUTER} nexthop via {BALANCER}")
    entry = host.want(FAR)
    assert not entry.valid and host.links.reasons == ["the route has several next hops"]
    book.wait_for(f"What goes to {FAR} does not take the kernel, as the route has several next hops")


POLICY = "udp dport 6081 dir out"


def test_what_ipsec_is_to_protect_is_left_to_the_threads(host, book, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    monkeypatch.setattr(module, "SHARE", 1.0)
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    for selector in (f"src {OWN} dst 192.0.2.0/24 proto {POLICY} action block", f"src 0.0.0.0/0 dst {BALANCER} proto {POLICY} "
                     f"tmpl src {OWN} dst {BALANCER} proto esp mode transport"):
        host.here.ip(f"xfrm policy add {selector}")
        host.until(lambda: not entry.valid)
        assert host.links.reasons == ["a policy of IPsec is for it"]
        host.here.ip("xfrm policy flush")
        host.until(lambda: entry.valid)
    book.wait_for(f"What goes to {BALANCER} does not take the kernel, as a policy of IPsec is for it")


@pytest.mark.parametrize("other", [
    f"src {OWN} dst {FAR} proto {POLICY} action block", f"src 192.0.2.11 dst {BALANCER} proto {POLICY} action block",
    f"src {OWN} dst {BALANCER} proto udp dport 6080 dir out action block",
    f"src {OWN} dst {BALANCER} proto tcp dport 6081 dir out action block", f"src {OWN} dst {BALANCER} dir fwd action block",
    f"src {OWN} dst {BALANCER} dev lo dir out action block", "src ::/0 dst ::/0 dir out action block",
    f"src {OWN} dst {BALANCER} dir out if_id 7 action block", f"src {OWN} dst {BALANCER} dir out mark 7 action block",
    f"src {OWN} dst {BALANCER} dir out priority 1 action allow"])
def test_policies_for_other_things(host, other):
    host.here.ip(f"xfrm policy add {other}")
    host.here.ip("xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out priority 2 "
                 + ("action block" if "allow" in other else "action allow"))
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)


def test_no_ethernet_is_left_to_the_threads(host, book):
    host.here.ip("tuntap add tun0 mode tun")
    host.here.ip("link set tun0 up")
    host.here.ip("route add 198.51.100.0/24 dev tun0")
    entry = host.want(FAR)
    assert not entry.valid
    book.wait_for("tun0 is no Ethernet interface")
    for again in "198.51.100.8", "198.51.100.9":  # said once
        assert not host.want(again).valid
    assert sum("no Ethernet" in line for line in book.lines()) == 1


def test_an_uplink_that_takes_no_program(host):
    host.refusal = "up0 takes no program"
    host.want(BALANCER)
    host.until(lambda: host.links.reasons == ["up0 takes no program"])
    assert not host.table[0].valid


def test_nothing_is_asked_of_a_way_to_ourselves(host):
    assert not host.want(OWN).valid and host.links.reasons == ["it is an address of this host"]


def test_more_changes_than_reports_hold(host, monkeypatch):
    """The kernel drops reports (ENOBUFS); what is so is asked anew."""
    monkeypatch.setattr(module, "LOOK_S", 3600.0)
    entry = host.want(BALANCER)
    host.until(lambda: entry.valid)
    listener = socket.socket(fileno=os.dup(host.links.fileno()))
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    changes = [f"route replace 203.0.113.{turn}/32 dev up0" for turn in range(100)]
    changes.append(f"neighbour replace {BALANCER} dev up0 lladdr {OTHER_MAC} nud reachable")
    subprocess.run(["ip", "-n", host.here.name, "-batch", "-"], input="\n".join(changes), text=True, check=True)
    host.until(lambda: bytes(entry.ethernet)[:6] == octets(OTHER_MAC))


def test_the_only_interface_of_a_host(host):
    assert resolve.only_interface() == ["up0"]
    host.here.ip("link add other0 type veth peer name other1")
    assert resolve.only_interface() == ["up0"]  # the other has no address
    host.here.ip("address add 198.51.100.10/24 dev other0")
    assert resolve.only_interface() == []
    host.here.ip("link del up0")
    assert resolve.only_interface() == ["other0"]
    host.here.ip("link del other0")
    assert resolve.only_interface() == []
    host.here.ip("tuntap add tun0 mode tun")
    host.here.ip("address add 198.51.100.10/24 dev tun0")
    assert resolve.only_interface() == []  # it has no Ethernet headers
