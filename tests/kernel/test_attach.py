# SPDX-License-Identifier: MIT-0
"""Programs come and go at interfaces, and other people's filters stay."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kernelpath import frame, header, packet
from kernelwires import Wires
from linux import HAS_TCX

from gwlbtun.kernel import attach, bpf, clsact, probe
from gwlbtun.kernel.attach import Place

ROOT = Path(__file__).resolve().parents[2]

# Attaches the ingress program to an interface, says so, and waits to be killed.
VICTIM = """
import socket, sys, time
sys.path.insert(0, sys.argv[1])
from gwlbtun.kernel import attach, maps, programs
made = maps.Maps(16, 1)
program = programs.load("ingress", made.fd)
attach.attach(socket.if_nametoindex(sys.argv[3]), attach.Place.INGRESS, program, tcx=sys.argv[2] == "tcx")
print("attached", flush=True)
time.sleep(60)
"""


@pytest.fixture
def wires():
    made = Wires(tcx=True, attached=False)
    yield made
    made.close()


def filters(wires, place="ingress"):
    return wires.appliance.run("tc", "filter", "show", "dev", "uplink", place).stdout


def ours(wires):
    return filters(wires).count("handle 0x6757 gwlbtun")


def add_filter(wires, words):
    wires.appliance.run("tc", "filter", "add", "dev", "uplink", "ingress", *words.split())


def qdiscs(wires):
    return wires.appliance.run("tc", "qdisc", "show", "dev", "uplink").stdout


def killed(appliance, way, interface="uplink"):
    """A process that has attached, and is gone without a word."""
    victim = appliance.start(sys.executable, "-c", VICTIM, ROOT, way, interface, stdout=subprocess.PIPE, text=True)
    with victim.stdout as said:
        assert said.readline() == "attached\n"
        victim.send_signal(signal.SIGKILL)
    victim.wait()


def carries(wires):
    inner = packet()
    wires.world.add(inner)
    wires.send(frame(inner, ethernet=wires.to_appliance))
    return wires.on_gwi.read() == [inner]


def test_nothing_that_works_is_left_of_a_killed_process(wires):
    killed(wires.appliance, "tcx")
    time.sleep(0.1)  # the kernel takes the link away after a grace period
    inner = packet()
    wires.send(frame(inner, ethernet=wires.to_appliance))
    assert wires.received_up() == [header(4) + inner]
    assert ("clsact" not in qdiscs(wires)) == HAS_TCX  # without links the filter stays, with maps that nobody fills


@pytest.mark.parametrize("tcx", [True, False])
def test_filter_of_a_killed_process_is_replaced_and_taken_away(wires, tcx):
    killed(wires.appliance, "cls_bpf")
    assert ours(wires) == 1
    with wires.appliance.entered():
        attached = attach.attach(wires.index["uplink"], Place.INGRESS, wires.world.ingress, tcx=tcx)
        assert carries(wires)
        assert ours(wires) == (0 if tcx and HAS_TCX else 1)
        attached.detach()
    assert "gwlbtun" not in filters(wires) and "clsact" not in qdiscs(wires)
    assert not carries(wires)


def test_sweep_takes_only_ours(wires):
    killed(wires.appliance, "cls_bpf")
    add_filter(wires, "pref 7 protocol all u32 match u32 0 0 flowid 1:1")
    with wires.appliance.entered():
        attach.sweep(wires.index["uplink"], Place.INGRESS)
        attach.sweep(wires.index["uplink"], Place.EGRESS)
    assert "gwlbtun" not in filters(wires) and "pref 7" in filters(wires)
    assert "clsact" in qdiscs(wires)  # somebody uses it


@pytest.mark.parametrize("path", ["auto", "off"] if HAS_TCX else ["off"])
def test_a_start_takes_away_what_a_killed_one_has_left(lab, path):
    """For some seconds it would hand packets to interfaces that are gone."""
    killed(lab.appliance, "cls_bpf", "eth0")
    lab.start("--kernel-path", path, hook=None).get()  # when it answers, it also hears signals
    assert "filter" not in lab.appliance.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    assert "clsact" not in lab.appliance.run("tc", "qdisc", "show", "dev", "eth0").stdout


def test_a_second_start_leaves_those_of_a_gwlbtun_that_runs(lab):
    killed(lab.appliance, "cls_bpf", "eth0")
    with lab.appliance.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("", 6081))
        with pytest.raises(AssertionError, match="UDP port 6081 is taken"):
            lab.start("--kernel-path", "auto", hook=None)
    lab.daemons.clear()
    assert "gwlbtun" in lab.appliance.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout


@pytest.mark.parametrize("tcx", [True, False])
def test_others_filters_and_their_qdisc_stay_and_run(wires, tcx):
    wires.appliance.run("tc", "qdisc", "add", "dev", "uplink", "clsact")
    add_filter(wires, "pref 9000 protocol ip u32 match ip protocol 17 0xff action mirred egress redirect dev gwo")
    before = filters(wires)
    with wires.appliance.entered():
        attached = attach.attach(wires.index["uplink"], Place.INGRESS, wires.world.ingress, tcx=tcx)
        inner = packet()
        wires.send(frame(inner, ethernet=wires.to_appliance))
        assert wires.received_up() == []  # what we leave alone meets the filter
        assert carries(wires)
        attached.detach()
    assert filters(wires) == before
    assert "clsact" in qdiscs(wires)


def test_place_of_ours_that_somebody_else_has(wires):
    wires.appliance.run("tc", "qdisc", "add", "dev", "uplink", "clsact")
    with wires.appliance.entered():
        index = wires.index["uplink"]
        attached = attach.attach(index, Place.INGRESS, wires.world.ingress, tcx=False)
        attached.detach()
        name, clsact.NAME = clsact.NAME, "somebody else"
        attach.attach(index, Place.INGRESS, wires.world.egress, tcx=False)
        clsact.NAME = name
        with pytest.raises(FileExistsError):
            attach.attach(index, Place.INGRESS, wires.world.ingress, tcx=False)
        attach.sweep(index, Place.INGRESS)
    assert "somebody else" in filters(wires)


def test_both_places_share_the_qdisc(wires):
    with wires.appliance.entered():
        both = [attach.attach(wires.index["uplink"], place, wires.world.ingress, tcx=False) for place in Place]
        both[0].detach()
        assert "clsact" in qdiscs(wires) and "gwlbtun" in filters(wires, "egress")
        both[1].detach()
    assert "clsact" not in qdiscs(wires)


def test_interface_that_is_gone(wires):
    for tcx in True, False:
        with wires.appliance.entered():
            with pytest.raises(OSError):
                attach.attach(4711, Place.INGRESS, wires.world.ingress, tcx=tcx)
            attached = attach.attach(wires.index["gwo"], Place.EGRESS, wires.world.egress, tcx=tcx)
            wires.appliance.ip("link delete gwo")
            attached.detach()
        wires.close()
        wires.__init__(tcx=True, attached=False)


# ---- What works here


def test_probe_finds_that_all_works():
    assert probe.probe() == probe.Finding(works=True, reason="", ipv6=True, tcx=HAS_TCX)


def refused_without(*capabilities):
    """What probe() says in a process without the capabilities."""
    script = "from gwlbtun.kernel import probe; print(probe.probe().reason)"
    return subprocess.run(["setpriv", "--bounding-set", ",".join(f"-{name}" for name in capabilities), sys.executable, "-c",
                           script], cwd=ROOT, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout


def test_probe_tells_which_capability_is_missing():
    assert refused_without("bpf", "sys_admin") == "it takes the capability CAP_BPF (before Linux 5.8, CAP_SYS_ADMIN)\n"
    assert refused_without("net_admin", "sys_admin") == "it takes the capability CAP_NET_ADMIN\n"
    assert refused_without("sys_admin") == "\n"


def test_probe_leaves_nothing_open():
    before = sorted(os.listdir("/proc/self/fd"))
    probe.probe()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_refusal_tells_what_the_verifier_says():
    with pytest.raises(bpf.Refused) as refusal:
        bpf.program_load(bytes.fromhex("9500000000000000"), "bad")
    assert re.search("R0 !read_ok|R0 is not readable", str(refusal.value))  # the latter since 7.3
    with contextlib.suppress(OSError):
        os.close(bpf.program_load(bytes.fromhex("b7000000000000009500000000000000"), "good"))
