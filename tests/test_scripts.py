# SPDX-License-Identifier: MIT-0
"""The hook scripts of example-scripts/.

First by themselves: in a namespace that looks like an instance, with TUN interfaces whose other end the test holds
where gwlbtun would. Then in gwlbtun, with hosts and a load balancer around it.
"""
import contextlib
import fcntl
import fnmatch
import http.client
import http.server
import os
import random
import re
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

import pytest

import gwlb
import netns
import packets
from lab import APPLIANCE, APPLIANCE_IPV6, CLIENT, ENI, SERVER

SCRIPTS = Path(__file__).resolve().parent.parent / "example-scripts"
HOOKS = sorted(path.name for path in SCRIPTS.glob("create-*.sh"))
FORWARDING = "create-route.sh", "create-overlapping-v4.sh", "create-firewall.sh"
NAT = "create-nat.sh", "create-nat-overlapping.sh"
NUMBERED = sorted(set(HOOKS) - {"create-passthrough.sh"})

FIRST, SECOND = ENI, 0x076BC493B822CD32

HOST = "198.51.100.10", "2001:db8:100::10"     # the host's own addresses, on eth0
WORLD = "198.51.100.1", "2001:db8:100::1"      # its default gateway
OUTSIDE = "203.0.113.80", "2001:db8:200::80"   # a server out there, behind the gateway

# <linux/if_tun.h>
IFF_MULTI_QUEUE = 0x0100

CLIENT4_TO_SERVER = CLIENT[0], SERVER[0]
CLIENT6_TO_SERVER = CLIENT[1], SERVER[1]

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def pick(addresses, version):
    return addresses[version == 6]


# ---- By themselves ---------------------------------------------------------------------------------------------------


class Returned(NamedTuple):
    side: str
    packet: bytes


class Stub:
    """The interfaces of one endpoint, and what gwlbtun does with them: packets go in at gwi, and come out of both."""

    def __init__(self, namespace: netns.Namespace, eni: int):
        self.namespace = namespace
        self.eni = eni
        name = gwlb.base60(eni)
        self.gwi, self.gwo = "gwi-" + name, "gwo-" + name
        self.fds = {"gwi": self._open(self.gwi), "gwo": self._open(self.gwo)}

    def _open(self, name: str) -> int:
        with self.namespace.entered():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, gwlb.TUNSETIFF,
                        struct.pack("16sH22x", name.encode(), gwlb.IFF_TUN | gwlb.IFF_NO_PI | IFF_MULTI_QUEUE))
        self.namespace.ip("link set", name, "mtu", gwlb.MTU, "up")
        return fd

    def close(self) -> None:
        """The interfaces go, as when gwlbtun dies."""
        while self.fds:
            os.close(self.fds.popitem()[1])

    def hook(self, script: str, action: str) -> str:
        """Runs it; it must end well and have nothing to say."""
        done = self.namespace.run(SCRIPTS / script, action, self.gwi, self.gwo, f"{self.eni:017x}")
        assert done.stdout + done.stderr == ""

    def send(self, packet: bytes) -> None:
        os.write(self.fds["gwi"], packet)

    def receive(self, timeout: float = 5) -> Optional[Returned]:
        """The next packet that Linux sends to the endpoint, with the side it came out of; None: there is none in time.

        Multicast is left out: Linux joins groups of its own accord.
        """
        end = time.monotonic() + timeout
        while True:
            ready = select.select(list(self.fds.values()), [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                return None
            for side, fd in self.fds.items():
                if fd in ready:
                    packet = os.read(fd, 65535)
                    if not gwlb.is_multicast(packet):
                        return Returned(side, packet)

    def silent(self) -> bool:
        """Nothing comes, however long one waits; one waits a little."""
        return self.receive(0.2) is None


class Instance:
    """A host such as the scripts are for, with one interface besides the endpoints', and the world behind that."""

    def __init__(self, stack: contextlib.ExitStack):
        self.namespace = stack.enter_context(netns.Namespace("host"))
        self.world = stack.enter_context(netns.Namespace("world"))
        connect_to_world(self.namespace, "eth0", self.world)
        self._stubs: List[Stub] = []

    def endpoint(self, eni: int = FIRST) -> Stub:
        stub = Stub(self.namespace, eni)
        self._stubs.append(stub)
        return stub

    def close(self) -> None:
        for stub in self._stubs:
            stub.close()

    def numbers(self) -> dict:
        """The number of each endpoint, by its gwi."""
        rules = self.namespace.ip("rule")
        return {gwi: int(number) for number, gwi in re.findall(r"^(\d+):.* iif (\S+)", rules, re.MULTILINE)}


def state(namespace: netns.Namespace) -> dict:
    """All that a hook might have changed, by the command that shows it."""
    shown = {}
    for command in ("ip -d rule", "ip -6 -d rule", "ip route show table all", "ip -6 route show table all",
                    "ip address", "nft list ruleset", "iptables-save", "ip6tables-save", "tc qdisc",
                    "sysctl -a -r ^net[.]"):
        # Without what counts by itself, and what the interface takes with it.
        shown[command] = "\n".join(
            line for line in namespace.run(*command.split()).stdout.splitlines()
            if not re.search(r"^#|conntrack_count|gwi-\w+\.(rp_filter|forwarding) = ", line))
    shown["/run"] = sorted(str(path) for path in Path("/run").glob("*/*gwlbtun*"))
    return shown


def sysctls(namespace: netns.Namespace) -> dict:
    lines = namespace.run("sysctl", "-a", "-r", "^net[.]").stdout.splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)


def turn_on(namespace: netns.Namespace) -> None:
    """All that hooks turn on for the whole host is on already."""
    for name in "ipv4.ip_forward", "ipv6.conf.all.forwarding", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect":
        namespace.sysctl(f"net.{name}", 1)


def connect_to_world(namespace: netns.Namespace, name: str, world: netns.Namespace) -> None:
    """Gives a namespace an interface with a default route into the world, where a server has its addresses."""
    netns.link(namespace, name, world, "inner")
    for own, gateway, outside, length in zip(HOST, WORLD, OUTSIDE, (24, 64)):
        namespace.ip("address add", f"{own}/{length}", "dev", name)
        world.ip("address add", f"{gateway}/{length}", "dev inner")
        world.ip("address add", outside, "dev lo")
        namespace.ip("route add default via", gateway)


@pytest.fixture
def instance():
    with contextlib.ExitStack() as stack:
        made = Instance(stack)
        stack.callback(made.close)
        yield made


@pytest.mark.parametrize("arguments", [[], ["CREATE"], ["create", "gwi-1", "gwo-1", "0" * 16 + "1"]])
@pytest.mark.parametrize("script", HOOKS)
def test_wrong_arguments_are_told_how_to_be_right(script, arguments):
    done = netns.run(SCRIPTS / script, *arguments, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr and "CREATE|DESTROY" in done.stderr


@pytest.mark.parametrize("script", HOOKS)
def test_destroy_leaves_nothing_behind(instance, script):
    # What the owner of the host has set up stays, and stays out of the way.
    instance.namespace.ip("rule add pref 6081 from 10.9.9.9 lookup 6081")
    instance.namespace.run("nft", "add table inet mine")
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    before = state(instance.namespace)
    for stub in stubs:
        stub.hook(script, "CREATE")
    created = state(instance.namespace)
    assert created != before
    stubs[0].hook(script, "DESTROY")
    assert state(instance.namespace) not in (before, created)
    stubs[1].hook(script, "DESTROY")
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", HOOKS)
def test_create_clears_what_a_dead_gwlbtun_left(instance, script):
    survivor, victim = instance.endpoint(SECOND), instance.endpoint(FIRST)
    survivor.hook(script, "CREATE")
    before = state(instance.namespace)
    victim.hook(script, "CREATE")
    number = instance.numbers().get(victim.gwi)
    victim.close()
    again = instance.endpoint(FIRST)
    again.hook(script, "CREATE")
    assert instance.numbers().get(again.gwi) == number
    once = state(instance.namespace)
    again.hook(script, "CREATE")
    assert state(instance.namespace) == once
    again.hook(script, "DESTROY")
    # The interfaces' indexes are not as they were; all the rest is.
    assert without_interfaces(state(instance.namespace)) == without_interfaces(before)


def without_interfaces(shown: dict) -> dict:
    return {key: value for key, value in shown.items() if key not in ("ip address", "tc qdisc")}


@pytest.mark.parametrize("script", NUMBERED)
def test_what_the_owner_has_numbered_is_neither_used_nor_touched(instance, script):
    ip = instance.namespace.ip
    ip("-6 rule add pref 6081 from 2001:db8:9::/64 lookup main")
    ip("rule add pref 100 from 10.9.9.9 lookup 6082")
    ip("-6 rule add pref 101 from 2001:db8:9::/64 lookup 6083")
    ip("route add 10.9.0.0/16 dev eth0 table 6084")
    ip("-6 route add 2001:db8:9::/64 dev eth0 table 6085")
    ip("rule add pref 102 fwmark 6086/0xffff lookup main")
    stub = instance.endpoint()
    before = state(instance.namespace)
    stub.hook(script, "DESTROY")
    assert state(instance.namespace) == before
    stub.hook(script, "CREATE")
    assert instance.numbers() == {stub.gwi: 6087}
    late = ["rule {} pref 6087 from 10.8.8.8 lookup main", "-6 rule {} pref 6087 iif eth0 lookup main",
            "route {} 10.7.0.0/16 dev eth0 table 6087", "-6 route {} 2001:db8:7::/64 dev eth0 table 6087"]
    for what in late:
        ip(what.format("add"))
    stub.hook(script, "CREATE")
    stub.hook(script, "DESTROY")
    for what in late:
        ip(what.format("del"))
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", NUMBERED)
def test_endpoints_at_the_same_time_get_numbers_of_their_own(instance, script):
    stubs = [instance.endpoint(eni) for eni in range(1, 13)]
    before = state(instance.namespace)
    for action in "CREATE", "DESTROY":
        threads = [threading.Thread(target=stub.hook, args=(script, action)) for stub in stubs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if action == "CREATE":
            numbers = instance.numbers()
            assert sorted(numbers) == sorted(stub.gwi for stub in stubs)
            assert sorted(numbers.values()) == list(range(6081, 6093))
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", HOOKS)
def test_sysctls_of_the_host_are_changed_as_the_script_says(instance, script):
    stub = instance.endpoint()
    before = sysctls(instance.namespace)
    stub.hook(script, "CREATE")
    created = sysctls(instance.namespace)
    changed = {name for name in before if created[name] != before[name]}
    changed = {name for name in changed if stub.gwi not in name and "conntrack_count" not in name}
    text = (SCRIPTS / script).read_text()
    if "as create-route.sh" in text:
        text = (SCRIPTS / "create-route.sh").read_text()
    if "as create-nat.sh" in text:
        text = (SCRIPTS / "create-nat.sh").read_text()
    named = re.findall(r"net[.]ipv[46][.][\w.*]+\b", text.split(". \"$(dirname")[0])
    # Those of single interfaces follow the one for all (ip-sysctl.rst).
    followers = r"net\.ipv6\.conf\.[\w-]+\.(forwarding|accept_ra)$" if "net.ipv6.conf.all.forwarding" in named else "$^"
    assert {name for name in changed
            if not any(fnmatch.fnmatch(name, pattern) for pattern in named) and not re.match(followers, name)} == set()
    assert {pattern for pattern in named if not fnmatch.filter(changed, pattern)} == set()


@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_sysctls_are_put_back_by_the_last_endpoint_as_they_were(instance, script):
    """Each to its own value, be it on or off; not one that its owner has set meanwhile."""
    namespace = instance.namespace
    namespace.ip("link add mine type veth peer name other")
    namespace.sysctl("net.ipv6.conf.mine.forwarding", 1)
    namespace.sysctl("net.ipv4.fwmark_reflect", 1)
    namespace.sysctl("net.ipv6.conf.other.accept_ra", 0)
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    before = state(namespace)
    for stub in stubs:
        stub.hook(script, "CREATE")
    namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 0)
    stubs[0].hook(script, "DESTROY")
    while_one_is_left = sysctls(namespace)
    assert while_one_is_left["net.ipv6.conf.all.forwarding"] == while_one_is_left["net.ipv6.fwmark_reflect"] == "1"
    stubs[1].hook(script, "DESTROY")
    assert sysctls(namespace)["net.ipv6.conf.eth0.accept_ra"] == "0"
    namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    assert state(namespace) == before


@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_sysctls_are_put_back_for_a_gwlbtun_that_died(instance, script):
    dead, stub = instance.endpoint(FIRST), instance.endpoint(SECOND)
    before = sysctls(instance.namespace)
    dead.hook(script, "CREATE")
    dead.close()
    stub.hook(script, "CREATE")
    stub.hook(script, "DESTROY")
    after = sysctls(instance.namespace)
    assert {name for name in after if after[name] != before[name] and stub.gwi not in name
            and "conntrack_count" not in name} == set()


@pytest.mark.parametrize("script", ["create-route.sh", "create-nat.sh"])
def test_forwarding_does_not_stop_the_host_from_taking_router_advertisements(instance, script):
    instance.namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    instance.endpoint().hook(script, "CREATE")
    assert sysctls(instance.namespace)["net.ipv6.conf.eth0.accept_ra"] == "2"


@pytest.mark.parametrize("script", HOOKS)
def test_rp_filter_is_turned_off(instance, script):
    instance.namespace.sysctl("net.ipv4.conf.default.rp_filter", 2)
    stub = instance.endpoint()
    value = f"net.ipv4.conf.{stub.gwi}.rp_filter"
    assert sysctls(instance.namespace)[value] == "2"
    stub.hook(script, "CREATE")
    assert sysctls(instance.namespace)[value] == "0"


@pytest.mark.parametrize("script", HOOKS)
def test_on_a_host_with_systemd_a_drop_in_keeps_rp_filter_off(instance, script):
    stub = instance.endpoint()
    drop_in = f"/run/sysctl.d/99-gwlbtun-{stub.gwi}.conf"
    arguments = stub.gwi, stub.gwo, f"{stub.eni:017x}"
    done = instance.namespace.run(
        "unshare", "--mount", "sh", "-euc",
        'mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; script=$1; drop_in=$2; shift 2\n'
        '"$script" CREATE "$@"; cat "$drop_in"; "$script" DESTROY "$@"; ls /run/sysctl.d',
        "sh", SCRIPTS / script, drop_in, *arguments)
    assert done.stdout == f"net.ipv4.conf.{stub.gwi}.rp_filter = 0\n"
    assert done.stderr == ""


@pytest.mark.parametrize("script", HOOKS)
def test_a_host_without_ipv6(instance, script):
    for scope in "all", "default":
        instance.namespace.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
    before = instance.namespace.ip("-6 rule")
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    assert instance.namespace.ip("-6 rule") == before
    stub.hook(script, "DESTROY")


@pytest.mark.parametrize("script", HOOKS)
def test_destroy_of_what_was_never_created(instance, script):
    stub = instance.endpoint()
    before = state(instance.namespace)
    stub.hook(script, "DESTROY")
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", HOOKS)
def test_sysctls_that_are_right_may_be_read_only(instance, script):
    """As in a container with CAP_NET_ADMIN alone."""
    turn_on(instance.namespace)
    stub = instance.endpoint()
    done = instance.namespace.run(
        "unshare", "--mount", "sh", "-euc",
        'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; "$@"',
        "sh", SCRIPTS / script, "CREATE", stub.gwi, stub.gwo, f"{stub.eni:017x}")
    assert done.stdout + done.stderr == ""


def test_passthrough_leaves_the_filters_of_others(instance):
    stub = instance.endpoint()
    tc = "filter add dev", stub.gwi, "ingress pref 10 protocol ip u32 match ip protocol 50 0xff", \
        "action mirred egress mirror dev lo"
    instance.namespace.run("tc", "qdisc", "add", "dev", stub.gwi, "clsact")
    instance.namespace.run("tc", *" ".join(tc).split())

    def shown():
        return [instance.namespace.run("tc", what, "show", "dev", stub.gwi, "ingress").stdout
                for what in ("qdisc", "filter")]

    before = shown()
    stub.hook("create-passthrough.sh", "CREATE")
    assert shown() != before
    stub.hook("create-passthrough.sh", "DESTROY")
    assert shown() == before


def test_a_script_works_through_a_symbolic_link(instance, tmp_path):
    link = tmp_path / "hook"
    link.symlink_to(SCRIPTS / "create-firewall.sh")
    stub = instance.endpoint()
    instance.namespace.run(link, "CREATE", stub.gwi, stub.gwo, f"{stub.eni:017x}")
    assert "dport { 80, 443 }" in instance.namespace.run("nft", "list ruleset").stdout


# ---- Packets through the kernel --------------------------------------------------------------------------------------


def two_endpoints(instance: Instance, script: str) -> List[Stub]:
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    for stub in stubs:
        stub.hook(script, "CREATE")
    return stubs


def test_passthrough_returns_all_that_an_interface_carries(instance):
    stubs = two_endpoints(instance, "create-passthrough.sh")
    now = sysctls(instance.namespace)
    assert now["net.ipv4.ip_forward"] == now["net.ipv6.conf.all.forwarding"] == "0"
    sent = [packets.udp(*CLIENT4_TO_SERVER, 1000, 2000, b"x" * 8000),
            packets.udp(*CLIENT6_TO_SERVER, 1000, 2000, b"x" * 8000),
            packets.udp(*CLIENT4_TO_SERVER, 1000, 2000, ttl=1),
            packets.udp(HOST[0], HOST[0], 1000, 2000),             # to the host's own address, and from it
            packets.ipv4("127.0.0.1", "255.255.255.255", 89, b"what no host would take"),
            packets.ipv6("::1", "::", 253, b"")]
    for stub in stubs:
        for packet in sent:
            stub.send(packet)
            assert stub.receive() == ("gwo", packet)
    assert all(stub.silent() for stub in stubs)


def client_to_server(version):
    return pick(CLIENT, version), pick(SERVER, version)


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
    end = time.monotonic() + 5
    while instance.namespace.counter("IpReasmOKs") != before + 2:
        assert time.monotonic() < end
        time.sleep(0.01)


@VERSIONS
def test_firewall_tells_ports_directions_and_connections_apart(instance, version):
    client, server = client_to_server(version)
    first, second = two_endpoints(instance, "create-firewall.sh")

    def passes(packet, stub=first):
        stub.send(packet)
        return not stub.silent()

    def segment(flags, port=80, back=False, client_port=1000):
        if back:
            return packets.tcp(server, client, port, client_port, flags=flags, seq=8, ack=1)
        return packets.tcp(client, server, client_port, port, flags=flags, ack=0 if flags == packets.SYN else 9)

    syn, syn_ack = packets.SYN, packets.SYN | packets.ACK
    assert not passes(segment(syn, port=22))
    assert not passes(segment(syn, port=8080))
    assert not passes(segment(syn_ack, back=True)), "an answer that was never asked for"
    assert passes(segment(syn))
    assert not passes(segment(syn_ack, back=True), second), "an answer to another endpoint's connection"
    assert passes(segment(syn_ack, back=True))
    assert passes(segment(syn, port=443))
    assert passes(packets.echo(client, server, 5))
    assert passes(packets.echo(server, client, 5, reply=True))
    assert not passes(packets.echo(server, client, 6, reply=True))
    assert not passes(packets.udp(client, server, 1000, 80))
    assert not passes(packets.tcp(client, pick(HOST, version), 1000, 80, flags=syn)), "the host's own services"
    table = instance.namespace.run("nft", "list table inet", first.gwi.replace("gwi", "gwlbtun")).stdout
    assert re.search(r"counter packets [1-9]\d* bytes \d+ drop", table)


@pytest.mark.parametrize("script", NAT)
def test_nat_without_a_route_refuses_and_sends_nothing_back_as_it_came(instance, script):
    instance.namespace.ip("route del default")
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    sent = packets.udp(*CLIENT4_TO_SERVER, 1000, 2000)
    stub.send(sent)
    side, packet = stub.receive()
    assert (side, packet[20], packet[28:56]) == ("gwo", 3, sent)


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


# ---- In gwlbtun ------------------------------------------------------------------------------------------------------


EXPECTATIONS = {"create-passthrough.sh": gwlb.Identical, **{script: gwlb.Forwarded for script in FORWARDING}}
CONTENT = {eni: random.Random(eni).randbytes(1_000_000) for eni in (FIRST, SECOND)}


class Web:
    """An HTTP server in a namespace, on both families; it remembers who asked, and at which address."""

    def __init__(self, namespace: netns.Namespace, content: bytes, port: int = 80):
        self.asked = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                asked.append((self.client_address[:2], self.request.getsockname()[:2]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with namespace.entered():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        self._server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def connect(host: gwlb.Host, address: str, port: int = 80, own_port: int = 0, timeout: float = 20):
    """An HTTP connection that stands, from a port that others may share."""
    version = 6 if ":" in address else 4
    with host.namespace.entered():
        tcp = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.settimeout(timeout)
    try:
        tcp.bind((host.address(version), own_port))
        tcp.connect((address, port))
    except OSError:
        tcp.close()
        raise
    connection = http.client.HTTPConnection(address, port)
    connection.sock = tcp
    return connection


def get(connection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def ping(host: gwlb.Host, address: str) -> None:
    host.namespace.run("ping", "-c2", "-i0.02", "-W5", address)


def start(lab, script: str):
    return lab.start("-c", SCRIPTS / script, "-r", SCRIPTS / script, hook=None)


@contextlib.contextmanager
def nothing_left_behind(lab, script: str):
    """Runs a daemon with the script, whose hooks end well and leave the appliance as it was."""
    before = state(lab.appliance)
    daemon = start(lab, script)
    yield daemon
    assert daemon.stop() == 0
    assert "hook" not in daemon.log(), daemon.log()
    assert without_interfaces(state(lab.appliance)) == without_interfaces(before)


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
        # By ICMP, which the firewall lets through.
        shown = pair.client.namespace.run("traceroute", f"-{version}", "-I", "-n", "-q1", "-w5", "-m4",
                                          pair.server.address(version)).stdout
        hops = re.findall(r"^ *\d+ +(\S+)", shown, re.MULTILINE)
        assert hops == [(APPLIANCE, APPLIANCE_IPV6)[version == 6], pair.server.address(version)]


@VERSIONS
def test_firewall_lets_one_port_through_and_not_another(lab, version):
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left_behind(lab, "create-firewall.sh"))
        for pair in [lab.pair(eni, gwlb.Forwarded()) for eni in (FIRST, SECOND)]:
            for port in 443, 8080:
                stack.enter_context(Web(pair.server.namespace, b"hello", port))
            with contextlib.closing(connect(pair.client, pair.server.address(version), 443)) as connection:
                assert get(connection) == b"hello"
            with pytest.raises(socket.timeout):
                connect(pair.client, pair.server.address(version), 8080, timeout=1)


@contextlib.contextmanager
def world_outside(lab):
    """The appliance has a second interface, by which its default route leads to a server outside."""
    with netns.Namespace("world") as world:
        connect_to_world(lab.appliance, "eth1", world)
        yield world


@VERSIONS
@pytest.mark.parametrize("script", NAT)
def test_nat_out_of_the_default_interface(lab, script, version):
    clients = {"create-nat.sh": [CLIENT, SERVER], "create-nat-overlapping.sh": [CLIENT, CLIENT]}[script]
    outside, own = pick(OUTSIDE, version), pick(HOST, version)
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(world_outside(lab))
        stack.enter_context(nothing_left_behind(lab, script))
        web = stack.enter_context(Web(world, CONTENT[FIRST]))
        hosts = []
        for eni, addresses in zip((FIRST, SECOND), clients):
            hosts.append(lab.host("cli", addresses))
            lab.endpoint(eni, gwlb.WellFormed()).attach(hosts[-1])
        for host in hosts:
            ping(host, outside)
        connections = [stack.enter_context(contextlib.closing(connect(host, outside, own_port=4000))) for host in hosts]
        for connection in connections:
            assert get(connection) == CONTENT[FIRST]
        seen = [client for client, _ in web.asked]
        assert [address.replace("::ffff:", "") for address, _ in seen] == [own, own]
        assert len(set(seen)) == 2


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
            made.settimeout(10)
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
