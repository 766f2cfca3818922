# SPDX-License-Identifier: MIT-0
"""The path in the kernel, with a daemon and packets: they take it, come back right, and are counted once."""
import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

import gwlb
import packets
from carrying import Carrying
from expectations import Forwarded
from gwlbtun.kernel import bpf, layout
from gwlbtun.kernel.maps import possible_cpus
from kernelpath import map_array
from lab import BALANCER, CLIENT, ENI, ROUTE, SERVER
from linux import HAS_TCX


@pytest.mark.parametrize("version, protocol", [(4, "udp"), (4, "tcp"), (6, "udp"), (6, "tcp")])
def test_a_known_flow_takes_the_kernel(lab, version, protocol):
    flow = {"version": version, "protocol": protocol}
    carrying = Carrying(lab)
    assert carrying.until_carried(**flow), carrying.ebpf()
    assert carrying.takes_kernel(50, **flow) == (50, 50)


def test_what_the_kernel_sends_is_what_the_threads_send(lab):
    carrying = Carrying(lab)
    carrying.send()
    assert carrying.all_back()  # what waits for an endpoint leaves together
    by_threads = carrying.outer_headers(3)
    assert carrying.carried()[1] == 0
    assert carrying.until_carried()
    before = carrying.carried()
    by_kernel = carrying.outer_headers(20)
    assert carrying.carried()[1] - before[1] == 20
    assert by_kernel == by_threads


def test_a_new_cookie_in_the_midst_of_a_flow(lab):
    carrying = Carrying(lab)
    for cookie in 0x11111111, 0x22222222, 0x33333333:
        assert carrying.until_carried(), carrying.ebpf()
        flow, = set(carrying.endpoint.flows.values())
        flow.renew(cookie=cookie)
        carrying.send()
        assert carrying.all_back()
    assert carrying.ebpf()["headerChanges"] == 3
    assert carrying.until_carried()


def test_another_source_port_in_the_midst_of_a_flow(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    flow, = set(carrying.endpoint.flows.values())
    flow.renew(port=40_123)
    assert carrying.until_carried()
    flow.renew(address=BALANCER[1])
    assert carrying.until_carried() and carrying.all_back()


def test_each_packet_is_counted_once(lab):
    carrying = Carrying(lab)
    for port in range(1000, 1004):
        assert carrying.until_carried(port=port)
    begin = time.monotonic()
    carrying.send()
    assert carrying.all_counted(), carrying.daemon.health()["totals"]
    size = {len(packet) for packet in carrying.endpoint.received}
    health, eni = carrying.daemon.health(), carrying.daemon.eni(carrying.endpoint)
    sent, inner = carrying.sent, sum(map(len, carrying.endpoint.received))
    assert size and health["ebpf"]["ingress"]["accelerated"] > 10
    totals, summary = health["totals"], health["summary"]
    assert (totals["pktsFromGwlb"], totals["pktsToLinux"], totals["pktsToGwlb"]) == (sent, sent, sent)
    assert (totals["bytesFromGwlb"], totals["bytesToLinux"], totals["bytesToGwlb"]) == (inner + 40 * sent, inner, inner)
    assert (summary["totalPktsIn"], summary["totalBytesIn"]) == (sent, inner + 40 * sent)
    assert (summary["totalPktsOut"], summary["totalBytesOut"]) == (sent, inner)
    assert (eni["pktsOut"], eni["bytesOut"], eni["tunnelIn"]["pktsOut"]) == (sent, inner, sent)
    assert (eni["tunnelOut"]["pktsSent"], eni["tunnelOut"]["bytesSent"]) == (sent, inner)
    by_sockets = sum(thread["pktsIn"] for thread in health["udp"]["UDPPacketReceiver"]["threads"])
    assert by_sockets + health["ebpf"]["ingress"]["accelerated"] == sent
    assert eni["secsSinceLastPacket"] < 5 + time.monotonic() - begin
    metrics = carrying.daemon.get("/metrics")[2].decode()
    assert f"gwlbtun_from_gwlb_packets_total {sent}\n" in metrics
    assert f'gwlbtun_kernel_packets_total{{direction="in"}} {health["ebpf"]["ingress"]["accelerated"]}\n' in metrics


def test_an_endpoint_that_only_the_kernel_works_for_is_not_idle(lab):
    idle_s = 6
    carrying = Carrying(lab, "-t", idle_s, "-i", idle_s, "--udp-idle", idle_s)
    assert carrying.until_carried() and carrying.all_counted()
    by_threads = carrying.daemon.health()["totals"]["receiverBatches"]
    end = time.monotonic() + 2 * idle_s
    while time.monotonic() < end:
        assert carrying.takes_kernel(100) == (100, 100)
    assert carrying.daemon.health()["totals"]["receiverBatches"] == by_threads
    assert lab.wait(lambda: carrying.daemon.health()["enis"] == [])


def test_a_tap_sees_what_leaves_while_it_is_there(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried() and carrying.all_back()
    with lab.appliance.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    with tap:
        tap.bind((carrying.endpoint.gwo, 3))
        assert lab.wait(lambda: carrying.ebpf()["aside"])
        tap.setblocking(False)
        carrying.send(10)
        assert carrying.all_back()
        seen = []
        with contextlib.suppress(BlockingIOError):
            while True:
                seen.append(tap.recv(65536))
        assert len([packet for packet in seen if packet[0] >> 4 == 4]) == 10  # Linux itself sends some IPv6
        assert carrying.carried()[1] < carrying.carried()[0]
    assert lab.wait(lambda: not carrying.ebpf()["aside"])
    assert carrying.until_carried()


def test_a_qdisc_on_gwo_holds_packets_back(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    lab.appliance.run("tc", *f"qdisc replace dev {carrying.endpoint.gwo} root pfifo limit 1000".split())
    assert lab.wait(lambda: carrying.ebpf()["aside"])
    assert carrying.takes_kernel(20) == (20, 0)
    shown = lab.appliance.run("tc", "-s", "qdisc", "show", "dev", carrying.endpoint.gwo).stdout
    assert int(re.search(r" (\d+) pkt", shown)[1]) >= 20  # Linux may send packets of its own
    lab.appliance.run("tc", *f"qdisc replace dev {carrying.endpoint.gwo} root noqueue".split())
    assert carrying.until_carried()


def test_gwi_down_and_up(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    lab.appliance.ip(f"link set {carrying.endpoint.gwi} down")
    before = carrying.carried()
    assert lab.wait(lambda: not carrying.daemon.health()["healthy"])
    carrying.endpoint.send(carrying.packet())
    assert lab.wait(lambda: carrying.daemon.drops().get("tun_write"))
    assert carrying.carried() == before
    lab.appliance.ip(f"link set {carrying.endpoint.gwi} up")


def test_interfaces_that_are_made_again(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    lab.appliance.ip(f"link del {carrying.endpoint.gwo}")
    assert lab.wait(lambda: carrying.daemon.log().count("created.") == 2)
    assert carrying.until_carried(), carrying.ebpf()


def test_the_neighbour_and_the_uplink_change(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    lab.outside.ip("link set eth0 address 02:00:00:00:00:99")
    lab.appliance.ip(f"neighbour replace {BALANCER[0]} dev eth0 lladdr 02:00:00:00:00:99 nud reachable")
    carrying.skip_lost()
    assert carrying.until_carried() and carrying.takes_kernel(20) == (20, 20)
    lab.appliance.ip("link set eth0 down")
    lab.appliance.ip("link set eth0 up")
    carrying.skip_lost()
    assert carrying.until_carried() and carrying.all_back()


def test_a_restart_in_place(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried() and carrying.all_counted()
    before = carrying.daemon.health()["totals"]
    os.kill(carrying.daemon.pid, signal.SIGHUP)
    assert lab.wait(lambda: "this is another program now" in carrying.daemon.log()), carrying.daemon.log()
    after = carrying.daemon.health()["totals"]
    for key in "pktsFromGwlb", "bytesFromGwlb", "pktsToLinux", "pktsToGwlb", "bytesToGwlb":
        assert after[key] == before[key]
    assert carrying.until_carried() and carrying.all_counted()
    assert carrying.daemon.health()["totals"]["pktsToGwlb"] == carrying.sent


def test_nothing_is_left_behind(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    carrying.daemon.kill()
    lab.daemons.remove(carrying.daemon)
    assert ("bpf" not in lab.appliance.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout) == HAS_TCX
    again = Carrying(lab, eni=ENI + 1)
    assert again.until_carried()


@pytest.mark.parametrize("arguments, reason", [
    (["--kernel-path", "off"], "--kernel-path is off"), (["--offload", "none"], "--offload leaves something out"),
    (["--logging", "geneve=debug"], "the log tells of single packets"), (["--no-return"], "nothing goes back"),
    (["--netns"], "network namespace of its own"),
])
def test_options_that_leave_all_to_the_threads(lab, arguments, reason):
    daemon = lab.start("--kernel-path", "auto", *arguments, hook=None)
    ebpf = daemon.health()["ebpf"]
    assert not ebpf["active"] and reason in ebpf["reason"] and ebpf["ingress"]["total"] == 0
    assert reason in daemon.get("/")[2].decode()


def test_a_sender_who_invents_addresses_keeps_no_load_balancer_out_for_long(lab, impatient):
    carrying = Carrying(lab, "--udp-idle", 15)  # in which they all must have come
    lab.appliance.ip("route add 172.16.0.0/12 via", BALANCER[0])
    header = carrying.endpoint.header(7, 4)
    for number in range(layout.LINKS + 100):
        for _ in range(6):
            lab.balancer.transmit(f"172.16.{number >> 8}.{number & 255}", 1234,
                                  header + packets.udp("10.3.0.1", "10.3.0.2", 1024 + number, 7, b"invented"))
        time.sleep(0.001)
    assert lab.wait(lambda: carrying.ebpf()["map_full"]["ingress"] > 0)
    assert carrying.until_carried(most=5000, seconds=120)


def test_what_the_programs_have_to_drop_is_a_drop(lab):
    """There is no want of memory here, so it is written into the counters."""
    carrying = Carrying(lab)
    assert carrying.until_carried() and carrying.all_counted()
    before = carrying.daemon.health()["totals"]
    reasons = map_array(carrying.daemon.pid, "gwlbtun_reasons", layout.Reasons, possible_cpus())
    reasons[0].count[layout.IN_LOST] += 3
    reasons[0].count[layout.OUT_LOST] += 5
    health = carrying.daemon.health()
    assert {"kernel_strip": 3}.items() | {"kernel_wrap": 5}.items() <= health["drops"].items()
    assert health["totals"]["pktsFromGwlb"] == before["pktsFromGwlb"] + 3
    assert health["totals"]["pktsFromLinux"] >= before["pktsFromLinux"] + 5  # Linux sends some of its own accord
    assert (health["ebpf"]["ingress"]["lost"], health["ebpf"]["egress"]["lost"]) == (3, 5)
    assert 'gwlbtun_drops_total{reason="kernel_wrap"} 5' in carrying.daemon.get("/metrics")[2].decode()


def test_by_default_it_is_on_where_an_interface_loses_nothing_by_it(lab):
    ebpf = lab.start(hook=None, kernel_path=None).health()["ebpf"]
    assert ebpf["active"] == HAS_TCX and ("before Linux 6.6" in ebpf["reason"]) == (not HAS_TCX)


def test_when_it_is_off_nothing_of_it_is_there(lab):
    lab.route()
    daemon, endpoint = lab.start("--kernel-path", "off", hook=ROUTE), lab.endpoint(ENI, Forwarded())
    for number in range(30):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000, 7, b"%d" % number))
    assert lab.wait(lambda: len(endpoint.received) == 30)
    ebpf = daemon.health()["ebpf"]
    assert not ebpf["active"] and ebpf["reason"] == "--kernel-path is off"
    assert not {"gwlbtun-kernel", "gwlbtun Links"} & set(daemon.threads().values())
    assert not [fd for fd in Path(f"/proc/{daemon.pid}/fd").iterdir() if "bpf" in os.readlink(fd)]


def test_only_one_uplink(lab):
    carrying = Carrying(lab, "--ebpf-interface", "eth7")
    carrying.send(30)
    assert carrying.all_back() and carrying.carried() == (0, 0)

    def told():
        carrying.send()  # what came in one batch may not have been enough
        return carrying.ebpf()["links"] == ["it leaves by eth0, and --ebpf-interface names eth7"]

    assert lab.wait(told)


@pytest.mark.parametrize("missing", ["bpf", "perfmon"])
def test_it_is_required_and_cannot_be(lab, missing):
    done = lab.appliance.run(*map(str, [
        "setpriv", f"--bounding-set=-{missing},-sys_admin", "--inh-caps=-all", "python3",
        gwlb.__file__.rpartition("/tests/")[0] + "/gwlbtun.py", "--kernel-path", "require", "--control", ""]), check=False)
    assert done.returncode == 1 and done.stdout.count("\n") <= 2
    assert f"--kernel-path require: it takes the capability CAP_{missing.upper()}" in done.stderr


def test_it_cannot_be_and_the_threads_do_all(lab, started_by):
    started_by("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all")
    carrying = Carrying(lab, "--kernel-path", "auto", "--logging", "core=info")
    carrying.send(30)
    assert carrying.all_back()
    ebpf = carrying.ebpf()
    assert not ebpf["active"] and "CAP_BPF" in ebpf["reason"]
    assert "none takes the kernel alone: it takes the capability CAP_BPF" in carrying.daemon.log()


def test_without_cap_sys_admin(lab, started_by):
    started_by("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all")
    carrying = Carrying(lab)
    assert carrying.until_carried(), carrying.ebpf()


@contextlib.contextmanager
def program_of_others(appliance, interface):
    """At the egress of an interface: one that passes everything. What health says of it."""
    if not HAS_TCX:
        appliance.run("tc", *f"filter add dev {interface} egress bpf da bytecode".split(), "1,6 0 0 0")
        yield "tc filters are at its egress"
        appliance.run("tc", *f"filter del dev {interface} egress pref 49152".split())
        return
    passing = bytes.fromhex("b700000000000000" "9500000000000000")  # r0 = TCX_PASS; exit
    with appliance.entered():
        program = bpf.program_load(passing, "theirs")
        link = bpf.link_create(program, socket.if_nametoindex(interface), bpf.TCX_EGRESS)
    yield "eBPF programs of others are at its egress"
    os.close(link)
    os.close(program)


def test_a_program_of_somebody_else_at_gwo(lab):
    """TCX programs have no reports of the kernel; ours are before or behind it, whoever came first."""
    carrying = Carrying(lab)
    assert carrying.until_carried()
    with program_of_others(lab.appliance, carrying.endpoint.gwo) as what:
        assert lab.wait(lambda: carrying.ebpf()["aside"] == [f"{carrying.endpoint.gwo}: {what}"])
        assert carrying.takes_kernel(20) == (20, 0)
    assert lab.wait(lambda: not carrying.ebpf()["aside"])
    assert carrying.until_carried()
