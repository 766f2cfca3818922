# SPDX-License-Identifier: MIT-0
"""Notes: what has changed so that packets do not come back is told in health and in the log, and health stays 200."""
import itertools

import pytest

import packets
from expectations import Forwarded
from gwlbtun import forwarding
from lab import CLIENT, ENI, PASSTHROUGH, ROUTE, SERVER, command_line
from namednets import Appliance
from restarts import again_and_again

NAME = f"vpce-{ENI:017x}"
RP_FILTER = "net.ipv4.conf.all.rp_filter"
BOTH = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"


def udp(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"%d" % number)


def up(lab, daemon, *endpoints):
    """Carries a packet of each, and returns when the patrol has seen that they are up."""
    for endpoint in endpoints:
        before = len(endpoint.received)
        endpoint.send(udp())
        assert lab.wait(lambda: len(endpoint.received) > before)
    daemon.wait_patrolled()
    assert notes(daemon) == []


def notes(daemon):
    status, _, _ = daemon.get()
    health = daemon.health()
    assert status == 200 and health["healthy"] and health["reasons"] == []
    return health["notes"]


def lines(daemon, part):
    return [line for line in daemon.log().splitlines() if part in line]


def come_and_go(lab, daemon, changes):
    """By the fact that a note begins with, what makes it come and what makes it go. The notes; the log has a line of each."""
    for spoil, _ in changes.values():
        spoil()
    assert lab.wait(lambda: len(notes(daemon)) == len(changes))
    found = sorted(notes(daemon))
    assert [note.split(": ")[0] for note in found] == sorted(changes)
    text, page = (daemon.get(path)[2].decode() for path in ("/text", "/status"))
    assert all(f"Note: {note}\n" in text for note in found) and all(fact in page for fact in changes)
    assert f"\ngwlbtun_notes {len(changes)}\n" in daemon.get("/metrics")[2].decode()
    for fact in changes:
        assert lab.wait(lambda: len(lines(daemon, f" : {fact}: ")) == 1)
    for _, mend in changes.values():
        mend()
    assert lab.wait(lambda: notes(daemon) == [])
    for fact in changes:
        assert lab.wait(lambda: len(lines(daemon, f" : No longer so: {fact}.")) == 1)
    return found


@pytest.fixture
def router(lab):
    lab.route()
    daemon = lab.start(hook=ROUTE)
    up(lab, daemon, lab.endpoint(expectation=Forwarded()))
    return daemon


def setting(namespace, name, good, bad):
    return {f"{name} has become {bad}": (lambda: namespace.sysctl(name, bad), lambda: namespace.sysctl(name, good))}


def test_what_stops_forwarding_and_what_flaps(lab, router):
    host, gwi = lab.appliance, router.health()["enis"][0]["tunnelIn"]["devname"]
    filters, off, policy = come_and_go(lab, router, {
        **setting(host, RP_FILTER, 0, 1), **setting(host, BOTH[0], 1, 0),
        "the policy of the chain ip filter FORWARD has become drop": (
            lambda: host.run("iptables-nft", "-P", "FORWARD", "DROP"),
            lambda: host.run("iptables-nft", "-P", "FORWARD", "ACCEPT"))})
    assert f"`sysctl -w {RP_FILTER}=0`" in filters and f"`sysctl -w {BOTH[0]}=1`" in off
    assert "`nft insert rule ip filter FORWARD iifname 'gwi-*' accept`" in policy
    come_and_go(lab, router, {
        **setting(host, BOTH[1], 1, 0),
        "the policy of the chain inet guard forwards has become drop": (
            lambda: host.run("nft", "add table inet guard; add chain inet guard forwards "
                                    "{ type filter hook forward priority 0; policy drop; }"),
            lambda: host.run("nft", "delete table inet guard"))})
    come_and_go(lab, router, setting(host, f"net.ipv4.conf.{gwi}.forwarding", 1, 0))
    before = len(router.log().splitlines())
    for _ in range(100):
        host.sysctl(BOTH[0], 0)
        host.sysctl(BOTH[0], 1)
    assert lab.wait(lambda: notes(router) == [])
    assert len(router.log().splitlines()) - before <= 6


DROP = "type filter hook forward priority 0; policy drop;"


def test_chains_that_forwarded_packets_pass(lab):
    for chain in ("inet a in { type filter hook input priority 0; policy drop; }", "inet a plain",
                  "inet a forwards { type filter hook forward priority 0; policy accept; }",
                  f"bridge b forwards {{ {DROP} }}", f"inet c one {{ {DROP} }}", f"ip d two {{ {DROP} }}",
                  f"ip6 e three {{ {DROP} }}"):
        family, table, *_ = chain.split()
        lab.appliance.run("nft", f"add table {family} {table}; add chain {chain}")
    with lab.appliance.entered():
        assert sorted(map(str, forwarding.dropping_chains())) == ["inet c one", "ip d two", "ip6 e three"]


READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\""


def test_what_was_so_before_is_no_change(lab):
    """/proc/sys is read-only to gwlbtun, as in many containers."""
    lab.appliance.sysctl(RP_FILTER, 2)
    lab.appliance.run("iptables-nft", "-P", "FORWARD", "DROP")
    daemon = lab.start(command=["unshare", "-m", "sh", "-c", READ_ONLY, "sh", *command_line()])
    endpoint = lab.endpoint()
    up(lab, daemon, endpoint)
    lab.appliance.run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    lab.appliance.run("iptables-nft", "-P", "FORWARD", "DROP")  # as a firewall does that is loaded anew
    lab.appliance.run("nft", f"add table inet gwlbtun-x; add chain inet gwlbtun-x forwards {{ {DROP} }}")  # a hook's own
    daemon.wait_patrolled()
    assert notes(daemon) == []
    come_and_go(lab, daemon, setting(lab.appliance, f"net.ipv4.conf.{endpoint.gwi}.rp_filter", 0, 1))


def traffic(*endpoints):
    """A packet of each endpoint 20 times a second, of several flows."""
    numbers = itertools.count(1)

    def send():
        number = next(numbers)
        for endpoint in endpoints:
            endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000 + number % 7, 2000, b"%d" % number))
    return again_and_again(send, 0.05)


def test_an_endpoint_that_returns_nothing_any_more(lab):
    """The cause of one is a setting, of another that its packets belong to no flow; of the third there is none to see."""
    lab.route()
    daemon = lab.start(hook=PASSTHROUGH)
    endpoints = first, second, third = [lab.endpoint(ENI + number) for number in range(3)]
    silent = lab.endpoint(ENI + 3)
    silent.send(udp())
    with traffic(*endpoints):
        assert lab.wait(lambda: all(endpoint.received for endpoint in (*endpoints, silent)))
        daemon.wait_patrolled()
        assert notes(daemon) == []
        for endpoint in first, second:
            lab.appliance.run("tc", "filter", "del", "dev", endpoint.gwi, "ingress")
        lab.appliance.ip("route add 10.0.0.0/8 dev", second.gwo)
        lab.appliance.run("nft", f"add table ip t; add chain ip t c {{ type filter hook postrouting priority 0; }}; "
                                 f"add rule ip t c oifname {second.gwo} ip saddr set 10.9.9.9")
        assert lab.wait(lambda: len(notes(daemon)) == 2)
        fact = f"nothing comes back from Linux on {first.gwi} any more"
        note, = [note for note in notes(daemon) if note.startswith(fact)]
        assert "gwlbtun sees no cause" in note
        note, = [note for note in notes(daemon) if note.startswith(f"nothing comes back from Linux on {second.gwi} any more")]
        assert "packets because what Linux sent belongs to no flow" in note
        lab.appliance.sysctl(BOTH[0], 0)
        assert lab.wait(lambda: any(note.startswith(fact) and f"What gwlbtun sees: {BOTH[0]} has become 0" in note
                                    for note in notes(daemon)))
        lab.appliance.sysctl(BOTH[0], 1)
        for endpoint in first, second:
            lab.appliance.run("tc", "filter", "replace", "dev", endpoint.gwi, "ingress", *PASSTHROUGH_FILTER, endpoint.gwo)
        assert lab.wait(lambda: notes(daemon) == [])
    assert lab.wait(lambda: lines(daemon, f"No longer so: nothing comes back from Linux on {first.gwi}")
                    or lines(daemon, f"The same holds for {first.gwi}"))
    assert not lines(daemon, third.gwi + " any more") and not lines(daemon, silent.gwi + " any more")
    lab.balancer.violations.clear()


PASSTHROUGH_FILTER = "pref 1 protocol all u32 match u32 0 0 action mirred egress redirect dev".split()


def test_the_namespace_of_each_endpoint_counts(lab):
    lab.appliance = Appliance(lab.appliance)
    daemon = lab.start("--netns", hook=PASSTHROUGH)
    endpoint, other = lab.endpoint(), lab.endpoint(ENI + 1)
    up(lab, daemon, endpoint, other)

    def inside(*command):
        return lambda: lab.appliance.within(NAME, *command)
    lab.appliance.sysctl(RP_FILTER, 1)  # of the host's own namespace: it does not matter
    filters, policy = come_and_go(lab, daemon, {
        f"{RP_FILTER} in network namespace {NAME} has become 2": (
            inside("sysctl", "-qw", f"{RP_FILTER}=2"), inside("sysctl", "-qw", f"{RP_FILTER}=0")),
        f"the policy of the chain ip filter FORWARD in network namespace {NAME} has become drop": (
            inside("iptables-nft", "-P", "FORWARD", "DROP"), inside("iptables-nft", "-P", "FORWARD", "ACCEPT"))})
    assert f"`ip netns exec {NAME} sysctl -w {RP_FILTER}=0`" in filters
    assert f"`ip netns exec {NAME} nft insert rule ip filter FORWARD iifname 'gwi' accept`" in policy
