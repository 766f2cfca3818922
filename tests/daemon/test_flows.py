# SPDX-License-Identifier: MIT-0
"""Which header a packet goes back under, how long it is remembered, and what happens without one."""
import contextlib
import random
import socket
import sys

import pytest

import gwlb
import packets
from gwlbtun import geneve
from lab import BALANCER, CLIENT, ENI, SERVER
from restarts import again_and_again
from test_path import DOWNLOAD, SERVE, both, url_host

# Linux sends to the hosts itself, from an address of its own.
LOCAL_IPV4, LOCAL_IPV6 = "10.9.9.9", "2001:db8:9::9"
LOCAL = f"""#!/bin/sh -e
[ "$1" = CREATE ] || exit 0
ip address add {LOCAL_IPV4} dev "$2"
ip -6 address add {LOCAL_IPV6} dev "$2" nodad
ip route add 10.0.0.0/8 dev "$3" src {LOCAL_IPV4}
ip -6 route add 2001:db8::/33 dev "$3" src {LOCAL_IPV6}
"""


def ends(version):
    return CLIENT[version == 6], SERVER[version == 6]


def reverse(version):
    return ends(version)[::-1]


PROTOCOLS = {
    "udp": lambda version, back: packets.udp(*(reverse(version) if back else ends(version)),
                                             *((2, 1) if back else (1, 2)), b"x"),
    "tcp": lambda version, back: packets.tcp(*(reverse(version) if back else ends(version)),
                                             *((2, 1) if back else (1, 2)), b"x", seq=1, ack=1),
    "echo": lambda version, back: packets.echo(*(reverse(version) if back else ends(version)), 77, 1, b"x", reply=back),
    "gre": lambda version, back: packets.ip(*(reverse(version) if back else ends(version)), 47, b"\0\0\x08\0" + bytes(8)),
}
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

CHANGES = {
    "cookie": {"cookie": 0x01020304},
    "port": {"port": 40001},
    "balancer": {"address": "other"},
    "options": {"extra_options": [geneve.Option(0x0FFF, 1, b"abcd")]},
    "all": {"cookie": 0x01020304, "port": 40001, "address": "other", "extra_options": [geneve.Option(7, 7, bytes(100))]},
}


def renew(flow, change):
    changed = dict(change)
    if "address" in changed:
        changed["address"] = next(address for address in BALANCER if address != flow.envelope.address)
    flow.renew(**changed)


@both
@each_protocol
def test_what_linux_sends_goes_back_under_the_flows_header_in_either_direction(lab, version, protocol):
    daemon = lab.start()
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    there, back = (PROTOCOLS[protocol](version, direction) for direction in (False, True))
    endpoint.send(there)
    assert lab.wait(lambda: endpoint.received == [there])
    lab.emit(endpoint.gwo, back)
    lab.emit(endpoint.gwi, there)
    assert lab.wait(lambda: sorted(endpoint.received) == sorted([there, there, back]))
    assert endpoint.flow(there).returned == 3
    assert daemon.eni(endpoint)[f"v{version}FlowCache"]["size"] == 1
    assert daemon.eni(endpoint)[f"v{10 - version}FlowCache"]["size"] == 0


@pytest.mark.parametrize("change", CHANGES)
@both
def test_the_newest_header_wins(lab, version, change):
    daemon = lab.start()
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    there, back = (PROTOCOLS["tcp"](version, direction) for direction in (False, True))
    flow = endpoint.flow(there)
    endpoint.send(there)
    assert lab.wait(lambda: flow.returned == 1)
    renew(flow, CHANGES[change])
    endpoint.send(back)  # learned in one direction, it holds for both
    assert lab.wait(lambda: flow.returned == 2)
    assert flow.newest_returned == 1
    lab.emit(endpoint.gwo, there)
    assert lab.wait(lambda: flow.returned == 3)
    assert flow.newest_returned == 1
    assert daemon.eni(endpoint)[f"v{version}FlowCache"]["size"] == 1


def test_a_header_may_change_between_any_two_packets(lab):
    lab.start("--udpthreads", "1")  # several receivers, which share packets out by port, know no order among them
    lab.one_wire()
    endpoint, counters = lab.endpoint(), lab.balancer.counters
    rng = random.Random(3)
    packet = packets.udp(*ends(4), 1, 2, bytes(200), dont_fragment=False, ident=1)
    flow = endpoint.flow(packet)
    for number in range(2000):
        if rng.random() < 0.2:
            flow.renew(cookie=number, port=rng.randrange(1024, 65536), address=rng.choice(BALANCER))
        assert lab.wait(lambda: counters.sent - counters.returned < 256)
        endpoint.send(packets.udp(*ends(4), 1, 2, number.to_bytes(2, "big") * 50))
    assert lab.wait(lambda: flow.returned == 2000)
    assert flow.newest_returned == len(flow.envelopes) - 1


def test_a_five_tuple_used_again_has_its_new_cookie(lab):
    lab.start()
    pair = lab.pair()
    with pair.server.namespace.entered():
        listener = socket.create_server((SERVER[0], 80))
    cookies = []
    with listener:
        for _ in range(2):
            with pair.client.namespace.entered():
                client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT: port 7777 again
            client.settimeout(60)
            client.bind((CLIENT[0], 7777))
            with client:
                client.connect((SERVER[0], 80))
                listener.settimeout(60)
                connection, _ = listener.accept()
                connection.settimeout(60)
                with connection:
                    client.sendall(b"to and")
                    assert connection.recv(100) == b"to and"
                    connection.sendall(b"fro")
                    assert client.recv(100) == b"fro"
            flow, = pair.endpoint.flows.values()
            assert lab.wait(lambda: flow.sent == flow.returned)
            assert flow.newest_returned == len(flow.envelopes) - 1
            cookies.append(flow.cookie)
            flow.renew(cookie=0x0BADCAFE, port=33333)
    assert cookies[0] != cookies[1] == 0x0BADCAFE


def test_an_idle_flow_is_forgotten_and_a_busy_one_is_not(lab):
    daemon = lab.start("-i", "4", "--udp-idle", "4", "--endpoint", f"vpce-{ENI:017x}")
    assert lab.wait(lambda: daemon.get()[0] == 200)
    endpoint = lab.endpoint()
    idle, busy = packets.udp(*ends(4), 1, 2, b"x"), packets.udp(*ends(4), 3, 4, b"x")
    idle6 = packets.udp(*ends(6), 1, 2, b"x")
    for packet in idle, idle6, busy:
        endpoint.send(packet)
    assert lab.wait(lambda: len(endpoint.received) == 3)
    assert daemon.eni(endpoint)["v4FlowCache"]["size"] == 2

    caches = "v4FlowCache", "v6FlowCache"

    def forgotten():
        report = daemon.eni(endpoint)
        assert {report[cache]["idleTimeoutSecs"] for cache in caches} == {4}
        return report["v4FlowCache"]["size"] == 1 and report["v6FlowCache"]["size"] == 0

    with again_and_again(lambda: endpoint.send(busy), 0.1):
        assert lab.wait(forgotten)
        report = daemon.eni(endpoint)
    assert [report[cache]["timedOutTotal"] for cache in caches] == [1, 1]
    lab.emit(endpoint.gwo, idle)
    assert lab.wait(lambda: daemon.drops() == {"no_flow": 1})
    endpoint.send(idle)
    assert lab.wait(lambda: endpoint.flow(idle).returned == 2)


@pytest.mark.parametrize("device", ["gwi", "gwo"])
def test_what_belongs_to_no_flow_is_dropped_and_counted(lab, device):
    daemon = lab.start()
    endpoints = [lab.endpoint(ENI + number) for number in range(2)]
    packet = packets.udp(*ends(4), 1, 2, b"x")
    for endpoint in endpoints:
        endpoint.send(packet)
    endpoints[1].send(packets.udp(*ends(4), 1, 3, b"x"))
    assert lab.wait(lambda: lab.balancer.counters.returned == 3)
    strays = [
        packets.udp(*ends(4), 1, 3, b"known to the other endpoint alone"),
        packets.tcp(*ends(4), 1, 2, b"another protocol"),
        packets.udp(*ends(6), 1, 2, b"another family"),
        packets.udp(ends(4)[0], "10.0.2.3", 1, 2, b"another address"),
        packets.udp(*ends(4), 2, 1, b"ports the wrong way round"),
        packets.echo(*ends(4), 1),
        packets.ipv4(*ends(4), packets.UDP, b"12345678", ident=9, fragment_offset=800, dont_fragment=False),
        packets.icmp("192.0.2.10", CLIENT[0], 3, 1, bytes(4), packets.udp(*ends(4), 1, 9)[:28]),
    ]
    for stray in strays:
        lab.emit(getattr(endpoints[0], device), stray)
    assert lab.wait(lambda: daemon.drops().get("no_flow", 0) >= len(strays))
    assert daemon.drops() == {"no_flow": len(strays)}


def test_what_is_not_ip_is_dropped_and_counted(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    endpoint.send(packets.udp(*ends(4), 1, 2, b"x"))
    assert lab.wait(lambda: endpoint.received)
    for frame in b"\x55" + bytes(60), b"\0", packets.udp(*ends(4), 1, 2, b"cut short")[:-1], packets.udp(*ends(6), 1, 2)[:30]:
        lab.emit(endpoint.gwo, frame, 0x88B5)
    assert lab.wait(lambda: daemon.drops() == {"not_ip": 4})


@both
def test_errors_of_linux_about_any_protocol_find_their_flow(lab, version):
    lab.start()
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    kinds = [PROTOCOLS[protocol](version, False) for protocol in PROTOCOLS]
    kinds.append(packets.fragments(*ends(version), packets.UDP, packets.udp_datagram(*ends(version), 5, 6, bytes(2000)),
                                   1008, 55)[0])
    own = ("192.0.2.10", "2001:db8:ffff::10")[version == 6]
    for number, packet in enumerate(kinds):
        flow = endpoint.flow(packet)
        endpoint.send(packet)
        assert lab.wait(lambda: flow.returned == 1)
        kind = (3, 1)[version == 6]
        header = 20 if version == 4 else packets.parse(packet).transport
        error = packets.icmp(own, CLIENT[version == 6], kind, 1, bytes(4), packet[:header + 8])
        lab.emit(endpoint.gwo, error)
        assert lab.wait(lambda: flow.returned == 2), number
        assert endpoint.received[-1] == error


@pytest.fixture
def local(lab):
    """A client and services on the appliance itself."""
    for name in "ipv4.ip_forward", "ipv6.conf.all.forwarding":
        lab.appliance.sysctl(f"net.{name}", 0)
    for scope in "all", "default":
        lab.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
    daemon = lab.start(hook=LOCAL)
    pair = lab.pair(expectation=gwlb.WellFormed())
    return daemon, pair


def local_address(version):
    return LOCAL_IPV4 if version == 4 else LOCAL_IPV6


@both
@pytest.mark.parametrize("size", [56, 8400, 30000])
def test_linux_itself_answers_in_one_piece_and_in_fragments(local, version, size):
    daemon, pair = local
    pair.client.namespace.run("ping", "-c3", "-i0.05", "-W60", f"-s{size}", local_address(version))
    assert daemon.drops() == {}


@both
def test_a_download_from_a_service_on_the_appliance(lab, local, version, tmp_path):
    """What Linux makes itself comes in super-packets without checksums, where offloads are on."""
    _, pair = local
    content = random.Random(version).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(content)
    pair.client.namespace.run("ping", "-c1", "-W60", local_address(version))
    server = lab.appliance.start(sys.executable, "-c", SERVE, local_address(version), tmp_path)
    assert server.stdout.readline() == b"ready\n"
    client = pair.client.namespace.start(sys.executable, "-c", DOWNLOAD, f"http://{url_host(local_address(version))}/file")
    got, errors = client.communicate(timeout=60)
    server.kill()
    server.communicate()
    assert got == content, errors


@both
def test_a_port_without_service_on_the_appliance_is_refused(local, version):
    _, pair = local
    pair.client.namespace.run("ping", "-c1", "-W60", local_address(version))
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        with pair.client.namespace.entered():
            client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        with client:
            client.settimeout(60)
            with pytest.raises(ConnectionRefusedError):
                client.connect((local_address(version), 4))
                client.send(b"x")
                client.recv(1)


# ---- The outer ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [1, 1023, 6081, 6080, 65535])
def test_any_source_port_of_gwlb_is_sent_from(lab, port):
    daemon = lab.start()
    endpoint = lab.endpoint()
    for number in range(20):
        packet = packets.udp(*ends(4), 1000 + number, 2, b"x")
        flow = endpoint.flow(packet)
        flow.renew(port=port)
        for _ in range(3):
            endpoint.send(packet)
    assert lab.wait(lambda: lab.balancer.counters.returned == 60)
    assert daemon.drops() == {}


def test_a_source_port_that_another_program_holds_is_sent_from_all_the_same(lab):
    lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(*ends(4), 1, 2, bytes(100))
    with lab.appliance.entered():
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(other):
        other.bind(("0.0.0.0", 5353))
        endpoint.flow(packet).renew(port=5353)
        for _ in range(10):
            endpoint.send(packet)
        assert lab.wait(lambda: lab.balancer.counters.returned == 10)


def test_more_source_ports_than_descriptors_are_sent_from(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    ports = random.Random(4).sample(range(1024, 65536), 5000)
    for number, port in enumerate(ports):
        packet = packets.udp("10.0.%d.%d" % divmod(number, 250), SERVER[0], 1, 2, b"x")
        endpoint.flow(packet).renew(port=port)
        endpoint.send(packet)
        if number % 64 == 0:
            assert lab.wait(lambda: number - lab.balancer.counters.returned < 256)
    assert lab.wait(lambda: lab.balancer.counters.returned == 5000)
    assert daemon.drops() == {}


def test_a_full_flow_table_stays_bounded_and_every_packet_is_accounted_for(lab):
    daemon = lab.start("--max-flows", "1000")
    endpoint = lab.endpoint()
    counters = lab.balancer.counters
    for number in range(5000):
        endpoint.send(packets.udp("10.0.%d.%d" % (number >> 8, number & 255), SERVER[0], 1, 2, b"x"))
        if number % 500 == 499:
            assert lab.wait(lambda: counters.returned + daemon.drops().get("no_flow", 0) == counters.sent)
    assert counters.returned > 2500
    health = daemon.health()
    assert 0 < health["flows"]["size"] <= health["flows"]["bound"] == 1000
    assert daemon.eni(endpoint)["v4FlowCache"]["size"] == health["flows"]["size"]
    assert set(daemon.drops()) <= {"no_flow"}
