# SPDX-License-Identifier: MIT-0
"""A restart in place after which the path in the kernel cannot be as it was, or not all of it: no packet is lost by that."""
import contextlib
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from gwlbtun.kernel import bpf
from kernelrestarts import Restarting
from lab import BALANCER
from restarts import patched

WRITE = '        memory = state.write({**record, "descriptors": descriptors})\n'
EXECVE = "os.execve(words[0], "
LEFT = 'record["kernel_path"]'


def open_objects(daemon):
    """What it has of maps, programs and links."""
    found = []
    for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # some are open for a moment only
            found.append(os.readlink(fd))
    return sorted(name for name in found if name.startswith("anon_inode:bpf"))


def programs_at_uplink(lab):
    with lab.appliance.entered():
        return len(bpf.programs_at(socket.if_nametoindex("eth0"), bpf.TCX_INGRESS))


def restarts(restarting, options, receivers_stay=True):
    """Under traffic. Nothing is lost or overtakes; but where flows come to other receivers, two may have packets of one."""
    with restarting.traffic():
        restarting.restart(options)
    assert restarting.all_back() and (not receivers_stay or restarting.in_order())
    assert restarting.daemon.health()["totals"]["pktsFromGwlb"] == restarting.sent


@pytest.mark.parametrize("options", [
    "--tunthreads 3", "--udpthreads 3", "--udpthreads 2 --tunthreads 2", "-i 700 --udp-idle 300", "--ebpf-interface eth0",
    "--timeout 600"])
def test_options_with_which_flows_take_the_kernel_yet(lab, tmp_path, options):
    restarting = Restarting(lab, tmp_path)
    for port in range(3000, 3004):
        assert restarting.until_carried(port=port)
    receivers_stay = "--udpthreads" not in options
    restarts(restarting, options, receivers_stay)
    assert restarting.until_carried(port=3000)
    restarts(restarting, "", receivers_stay)
    assert restarting.until_carried(port=3000)


@pytest.mark.parametrize("options, reason", [
    ("--kernel-path auto --logging udp=debug", "the log tells of single packets"),
    ("--kernel-path off", "--kernel-path is off"),
    ("--kernel-path auto --offload none", "--offload leaves something out")])
def test_options_that_leave_all_to_the_threads(lab, tmp_path, options, reason):
    restarting = Restarting(lab, tmp_path)
    for port in range(3000, 3004):
        assert restarting.until_carried(port=port)
    restarts(restarting, options)
    ebpf = restarting.ebpf()
    assert not ebpf["active"] and reason in ebpf["reason"]
    assert open_objects(restarting.daemon) == [] and programs_at_uplink(lab) == 0
    restarts(restarting, "--kernel-path auto")
    assert restarting.until_carried(port=3000) and programs_at_uplink(lab) == 1


@pytest.mark.parametrize("options, reason", [
    (f"--allow-from {BALANCER[0]}/32", "source_refused"), ("--uplink eth7", "interface"),
    ("--allow-endpoint 1", "endpoint_not_allowed")])
def test_whoever_may_not_come_in_any_more_does_not_by_the_kernel_either(lab, tmp_path, options, reason):
    restarting = Restarting(lab, tmp_path)
    endpoint = restarting.endpoint
    flow = {"port": next(port for port in range(3000, 4000)
                         if endpoint.flow(restarting.packet(port=port)).envelope.address == BALANCER[1])}
    assert restarting.until_carried(**flow)
    assert restarting.all_back()
    restarting.restart(options)
    before, returned = restarting.carried(), len(endpoint.received)
    restarting.send(20, **flow)
    assert lab.wait(lambda: restarting.daemon.drops().get(reason) == 20)
    assert restarting.carried()[0] == before[0] and len(endpoint.received) == returned


def test_another_uplink(lab, tmp_path):
    restarting = Restarting(lab, tmp_path)
    assert restarting.until_carried()
    restarts(restarting, "--ebpf-interface eth7")
    assert programs_at_uplink(lab) == 0 and restarting.takes_kernel() == (0, 0)
    assert restarting.ebpf()["links"] == ["it leaves by eth0, and --ebpf-interface names eth7"]


def test_what_refuses_the_restart_leaves_flows_in_the_kernel(lab, tmp_path):
    restarting = Restarting(lab, tmp_path)
    assert restarting.until_carried()
    assert "the flow table is made for" in restarting.refuse("--max-flows 4096")
    assert restarting.takes_kernel() == (20, 20)


def test_programs_that_differ(lab, tmp_path, copy):
    """They begin anew, and what was counted stays."""
    restarting = Restarting(lab, tmp_path, command=[sys.executable, copy])
    for port in range(3000, 3004):
        assert restarting.until_carried(port=port)
    before = open_objects(restarting.daemon)
    with open(copy.parent / "gwlbtun" / "kernel" / "programs.txt", "a") as file:
        file.write("# These differ.\n")
    restarts(restarting, "")
    assert restarting.until_carried(port=3000) and restarting.all_counted()
    assert restarting.daemon.health()["totals"]["pktsToGwlb"] == restarting.sent
    assert open_objects(restarting.daemon) == before and programs_at_uplink(lab) == 1


def test_an_execution_that_fails(lab, tmp_path, copy):
    """The old program goes on, with its flows where they were."""
    patched(copy, "handover.py", EXECVE, "os.execve(words[0] + '-gone', ")
    restarting = Restarting(lab, tmp_path, command=[sys.executable, copy])
    assert restarting.until_carried()
    for number in range(1, 4):
        with restarting.traffic():
            restarting.hang_up()
            assert lab.wait(lambda n=number: sum("it failed, and gwlbtun goes on" in line for line in restarting.told()) == n)
        assert restarting.all_back() and restarting.in_order()
        assert restarting.takes_kernel() == (20, 20)
    assert restarting.until_carried(port=2000)


@pytest.mark.parametrize("damage, goes_on", [
    (f"{LEFT} = None", False),
    (f"{LEFT} = 7", False),
    (f"del {LEFT}['maps']['flows']", False),
    (f"os.close({LEFT}['maps']['flows'])", False),
    (f"{LEFT}['maps']['flows'] = {LEFT}['maps']['enis']", False),
    (f"{LEFT}['programs']['ingress'] = {LEFT}['links'][0]", False),
    (f"{LEFT}['programs'].update(ingress={LEFT}['programs']['egress'], egress={LEFT}['programs']['ingress'])", False),
    (f"{LEFT}['counts']['entries'] = 'many'", False),
    (f"{LEFT}['signature'] = 'another'", False),
    (f"descriptors.remove({LEFT}['links'][-1])", True),
    (f"[descriptors.remove(fd) for fd in {LEFT}['links']]", True),
    (f"{LEFT}['links'].append(self._receivers[0].socket.fileno())", True),
    ("descriptors.remove(self._flows_fd)", True),
    ("descriptors.remove(self._receivers[0].socket.fileno())", True),
    ("descriptors.remove(self._endpoints.passing()[0].descriptors()[0])", True),
    ("record['endpoints'] = 7", True),
    ("memory = state.write({'takeover': state.VERSION})", False),
])
def test_what_cannot_be_taken_over(lab, tmp_path, copy, damage, goes_on):
    """It is made anew, and the programs of before do not stay."""
    line = f"        {damage}\n"
    patched(copy, "handover.py", WRITE, WRITE + line if "memory" in damage else line + WRITE)
    restarting = Restarting(lab, tmp_path, command=[sys.executable, copy])
    assert restarting.until_carried() and restarting.all_back()
    before = open_objects(restarting.daemon)
    restarting.restart()
    restarting.skip_lost()
    assert restarting.until_carried() and restarting.all_back() and restarting.in_order()
    assert open_objects(restarting.daemon) == before and programs_at_uplink(lab) == 1
    assert restarting.daemon.health()["healthy"]
    promoted = restarting.ebpf()["flowsPromoted"]
    assert promoted >= (2 if goes_on and "links" not in damage else 1), promoted
    assert not re.search("Traceback|Error", restarting.daemon.errors()), restarting.daemon.errors()
