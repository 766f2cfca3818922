# SPDX-License-Identifier: MIT-0
"""Hook scripts fail closed, and the host's own ports are closed to what comes from an endpoint."""
import contextlib
import re
import socket
import subprocess
import threading

import pytest

import gwlb
import packets
from gwlbtun import geneve
from lab import APPLIANCE, CLIENT, SERVER
from scripts import (
    CLIENT4_TO_SERVER, FIRST, FORWARDING, HOOKS, HOST, NAT, NUMBERED, OUTSIDE, SCRIPTS, SECOND, VERSIONS,
    client_to_server, pick, start,
)

HEALTH_PORT = 8080
LOCAL = "169.254.0.1", "fd67:776c:6274::6081"  # the addresses that create-local.sh gives to its first endpoint


class Ports:
    """Ports of the host's: what reaches one in spite of all is in got(), and is answered over TCP."""

    def __init__(self, stack, namespace):
        self._sockets = []
        with namespace.entered():
            for kind, port in (socket.SOCK_DGRAM, geneve.PORT), (socket.SOCK_DGRAM, 53), (socket.SOCK_STREAM, 22), \
                    (socket.SOCK_STREAM, HEALTH_PORT):
                made = stack.enter_context(contextlib.closing(socket.socket(socket.AF_INET6, kind)))
                made.bind(("::", port))
                made.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    made.listen()
                else:
                    self._sockets.append(made)

    def got(self):
        found = []
        for made in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(made.recv(2000))
        return found


@pytest.fixture
def ports(instance):
    with contextlib.ExitStack() as stack:
        yield Ports(stack, instance.namespace)


def to_the_host(version, address):
    """What a client may try."""
    ends = pick(CLIENT, version), address
    return [packets.udp(*ends, 1000, geneve.PORT, b"Geneve"), packets.udp(*ends, 1000, 9, b"no service"),
            packets.tcp(*ends, 1000, HEALTH_PORT, flags=packets.SYN), packets.tcp(*ends, 1000, 22, flags=packets.SYN)]


def flush(namespace):
    namespace.run("nft", "flush ruleset")


@contextlib.contextmanager
def heard_outside(instance):
    """What the host sends to the world, as a list that is complete at the end."""
    heard = []
    with instance.world.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.setblocking(False)
        yield heard
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, address = tap.recvfrom(10000)
                if address[2] != socket.PACKET_OUTGOING and address[1] in (0x0800, 0x86DD) and \
                        not gwlb.is_multicast(packet) and packets.parse(packet).protocol != packets.ICMPV6:
                    heard.append(packet)


@VERSIONS
@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_the_hosts_own_ports_are_out_of_reach(instance, ports, script, version):
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    sent = to_the_host(version, pick(HOST, version)) + [packets.echo(pick(CLIENT, version), pick(HOST, version), 1)]
    for packet in sent:
        stub.send(packet)
    assert stub.silent()
    assert ports.got() == []
    chain = instance.namespace.run("nft", f"list chain inet gwlbtun-{stub.gwi[4:]} input").stdout
    assert f"counter packets {len(sent)} " in chain


@VERSIONS
def test_local_shows_what_it_names_and_neither_gwlbtuns_ports_nor_ssh(instance, ports, version, monkeypatch):
    monkeypatch.setenv("GWLBTUN_HEALTH_PORT", str(HEALTH_PORT))
    monkeypatch.setenv("GWLBTUN_LOCAL_TCP", f"80, {HEALTH_PORT}")
    monkeypatch.setenv("GWLBTUN_LOCAL_UDP", f"53, {geneve.PORT}")
    stub = instance.endpoint()
    stub.hook("create-local.sh", "CREATE")
    client = pick(CLIENT, version)
    for address in pick(SERVER, version), pick(HOST, version), pick(LOCAL, version):
        stub.send(packets.udp(client, address, 1000, geneve.PORT, b"Geneve"))
        assert stub.silent()
        for number, port in enumerate((22, HEALTH_PORT, 80)):  # the last is open, and has no service
            stub.send(packets.tcp(client, address, 1000 + number, port, flags=packets.SYN))
            _, refused = stub.receive()
            parsed = packets.parse(refused)
            assert (parsed.source, refused[parsed.transport + 13] & packets.RST) == (packets.address(address), packets.RST)
        stub.send(packets.udp(client, address, 1000, 9))
        _, refused = stub.receive()
        assert packets.is_icmp_error(packets.parse(refused), refused)
        assert ports.got() == []
        stub.send(packets.udp(client, address, 1000, 53, b"question"))
        assert stub.silent() and ports.got() == [b"question"]


def test_local_with_nothing_open(instance, ports, monkeypatch):
    monkeypatch.setenv("GWLBTUN_LOCAL_TCP", "")
    monkeypatch.setenv("GWLBTUN_LOCAL_UDP", "")
    stub = instance.endpoint()
    stub.hook("create-local.sh", "CREATE")
    stub.send(packets.udp(*CLIENT4_TO_SERVER, 1000, 53, b"question"))
    _, refused = stub.receive()
    assert packets.is_icmp_error(packets.parse(refused), refused) and ports.got() == []


@pytest.mark.parametrize("script", NAT)
def test_nat_asks_for_nothing_in_the_hosts_name_that_is_the_hosts_alone(instance, script):
    """Instance metadata, and other appliances that would take Geneve for the load balancer's."""
    instance.namespace.ip("-6 route add fd00:ec2::/32 via", "2001:db8:100::1")
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    with heard_outside(instance) as heard:
        for packet in [packets.tcp(CLIENT[0], "169.254.169.254", 1000, 80, flags=packets.SYN),
                       packets.tcp(CLIENT[1], "fd00:ec2::254", 1000, 80, flags=packets.SYN),
                       packets.udp(CLIENT[0], "198.51.100.1", 1000, geneve.PORT),
                       packets.udp(CLIENT[0], OUTSIDE[0], 1000, 53, b"this one passes")]:
            stub.send(packet)
        stub.silent()
    assert [packet[28:] for packet in heard if packet[:1] == b"E"] == [b"this one passes"] and len(heard) == 1


@pytest.mark.parametrize("script", NUMBERED)
def test_after_a_flush_nothing_passes_until_the_script_is_called_again(instance, ports, script):
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    flush(instance.namespace)
    # What the owner sets up again does not stand in for it, even if it were to mark packets.
    instance.namespace.run("nft", "add table inet gwlbtun-other; add chain inet gwlbtun-other forward "
                                  "{ type filter hook forward priority 0; }")
    with heard_outside(instance) as heard:
        for version in 4, 6:
            ends = client_to_server(version)
            for packet in [packets.tcp(*ends, 1000, 22, flags=packets.SYN), packets.tcp(*ends, 1000, 80, flags=packets.SYN),
                           packets.echo(*ends, 1), packets.udp(ends[0], pick(OUTSIDE, version), 1000, 53),
                           packets.udp(*ends, 1000, 33434, ttl=1),
                           *to_the_host(version, pick(HOST, version)), *to_the_host(version, pick(LOCAL, version))]:
                stub.send(packet)
        assert stub.silent()
    assert heard == [] and ports.got() == []
    stub.hook(script, "CREATE")
    with heard_outside(instance) as heard:
        stub.send(packets.echo(*CLIENT4_TO_SERVER, 1))
        returned = stub.receive(0.2 if script in NAT else 5)
    assert bool(heard) is (script in NAT) and bool(returned) is (script not in NAT)


@pytest.mark.parametrize("script", NUMBERED)
def test_called_again_a_script_lets_nothing_past_meanwhile(instance, ports, script):
    """Under traffic that it does not let through; the last script took over from another."""
    namespace = instance.namespace
    for name in "ipv4.ip_forward", "ipv6.conf.all.forwarding":
        namespace.sysctl(f"net.{name}", 1)
    stub = instance.endpoint()
    stub.hook("create-route.sh", "CREATE")
    stub.hook(script, "CREATE")
    forbidden = to_the_host(4, HOST[0])[:1] + to_the_host(6, HOST[1])[:1]
    if script == "create-firewall.sh":
        forbidden.append(packets.tcp(*CLIENT4_TO_SERVER, 1000, 22, flags=packets.SYN))
    # By the main table it would go out into the world as it came.
    carried = packets.udp(CLIENT[0], OUTSIDE[0], 4000, 53, b"carried")
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            for packet in [*forbidden, carried]:
                stub.send(packet)
            stop.wait(0.0005)

    with heard_outside(instance) as heard:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for round_number in range(3):
                if round_number == 1:
                    flush(namespace)
                stub.hook(script, "CREATE")
        finally:
            stop.set()
            thread.join()
    assert [packet for packet in heard if packets.parse(packet).source == packets.address(CLIENT[0])] == []
    assert b"Geneve" not in ports.got()
    while True:
        returned = stub.receive(0.2)
        if returned is None:
            break
        assert returned.packet[20:] != forbidden[-1][20:]


@pytest.mark.parametrize("script", NUMBERED)
def test_a_script_that_fails_leaves_the_endpoint_closed(instance, ports, script, tmp_path):
    (tmp_path / "nft").write_text("#!/bin/sh\necho nft is broken >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    stub = instance.endpoint()
    command = SCRIPTS / script, "CREATE", stub.gwi, stub.gwo, f"{stub.eni:017x}"
    namespace = instance.namespace
    namespace.sysctl("net.ipv4.ip_forward", 1)
    namespace.sysctl("net.ipv4.fwmark_reflect", 1)
    namespace.sysctl("net.ipv6.fwmark_reflect", 1)
    namespace.sysctl("net.ipv6.conf.all.forwarding", 1)
    done = namespace.run("env", f"PATH={tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin", *command, check=False)
    assert done.returncode != 0 and "nft is broken" in done.stderr
    with heard_outside(instance) as heard:
        for packet in [packets.udp(CLIENT[0], OUTSIDE[0], 1000, 53), *to_the_host(4, HOST[0]), *to_the_host(6, HOST[1])]:
            stub.send(packet)
        assert stub.silent()
    assert heard == [] and ports.got() == []


def test_the_hosts_rule_for_the_local_table_is_always_there(instance):
    """It is moved behind the endpoints' rules; the host must not be out of reach meanwhile."""
    # The first rule that anyone adds in a network namespace makes Linux split its tables local and main (fib_unmerge). For
    # some microseconds main then lacks the local addresses, and nothing looks at local yet: that is not for a hook to mend.
    instance.namespace.ip("rule", "add", "pref", "1", "lookup", "local")
    instance.namespace.ip("rule", "del", "pref", "1", "lookup", "local")
    stub = instance.endpoint()
    script = 'for i in 1 2 3 4 5; do "$0" CREATE "$@"; "$0" DESTROY "$@"; done'
    process = instance.namespace.start("sh", "-euc", script, SCRIPTS / "create-route.sh", stub.gwi, stub.gwo,
                                       f"{stub.eni:017x}", stderr=subprocess.STDOUT)
    with instance.namespace.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with instance.world.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener, sender:
        listener.bind((HOST[0], 7000))
        listener.settimeout(5)
        count = 0
        while process.poll() is None:
            sender.sendto(b"%d" % count, (HOST[0], 7000))
            assert listener.recv(100) == b"%d" % count
            count += 1
    assert process.stdout.read() == b"" and process.returncode == 0
    assert count > 100
    rules = instance.namespace.ip("rule")
    assert re.match(r"0:\s+from all lookup local\s*\n32766:", rules), rules


@pytest.mark.parametrize("script", HOOKS)
def test_geneve_within_an_endpoint_makes_no_endpoint(lab, script):
    daemon = start(lab, script)
    endpoint = lab.endpoint(FIRST, gwlb.WellFormed())
    inner = packets.udp(*CLIENT4_TO_SERVER, 1, 2)
    header = geneve.gwlb_header(SECOND, 1, 2, geneve.PROTOCOL_IPV4).pack()
    endpoint.send(packets.udp(CLIENT[0], APPLIANCE, 1000, geneve.PORT, header + inner))
    assert lab.wait(lambda: (daemon.eni(endpoint) or {"tunnelIn": {"pktsOut": 0}})["tunnelIn"]["pktsOut"] == 1)
    assert not lab.wait(lambda: len(daemon.health()["enis"]) > 1, 0.3)
