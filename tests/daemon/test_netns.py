# SPDX-License-Identifier: MIT-0
"""--netns: a network namespace for each endpoint."""
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

import gwlb
import packets
from command import refused, run
from gwlbtun import netns
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from namednets import Appliance
from scripts import start

pytestmark = pytest.mark.one_path

NAME = f"vpce-{ENI:017x}"
OTHER = 0x076BC493B822CD32F
PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x" * 100)


@pytest.fixture
def appliance(lab):
    lab.appliance = Appliance(lab.appliance)
    return lab.appliance


def link(appliance, device, name=NAME):
    return json.loads(appliance.within(name, "ip", "-d", "-j", "link", "show", device).stdout)[0]


def test_an_endpoint_lives_in_a_namespace_of_its_own(lab, appliance):
    record = 'echo "$@" $(ip netns identify $$) >> "$0.calls"\n'
    daemon = lab.start("--netns", hook=PASSTHROUGH.replace("\n", "\n" + record, 1))
    endpoint, other = lab.endpoint(), lab.endpoint(OTHER)
    assert lab.carries(endpoint, PACKET) and lab.carries(other, PACKET)
    assert appliance.names() == sorted([NAME, f"vpce-{OTHER:017x}"])
    for device in "gwi", "gwo":
        made = link(appliance, device)
        assert "UP" in made["flags"] and (made["mtu"], made["qdisc"]) == (8500, "noqueue")
    assert "UP" in link(appliance, "lo")["flags"]
    assert "gwi" not in appliance.ip("link")
    assert (lab.directory / "hook.sh.calls").read_text().splitlines()[0] == f"CREATE gwi gwo {ENI:017x} {NAME}"
    eni = daemon.eni(endpoint)
    assert (eni["netns"], eni["tunnelIn"]["devname"], eni["tunnelOut"]["devname"]) == (NAME, "gwi", "gwo")
    assert f"New interface gwi and gwo in network namespace {NAME} for ENI ID {ENI:017x} created." in daemon.log()
    assert daemon.stop() == 0
    assert appliance.names() == [] and f"DESTROY gwi gwo {ENI:017x} {NAME}" in (lab.directory / "hook.sh.calls").read_text()


def test_no_thread_stays_behind_in_a_namespace(lab, appliance):
    daemon = lab.start("--netns")
    for number in range(20):
        assert lab.carries(lab.endpoint(ENI + number), PACKET)

    def homes():
        found = set()
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                found.add(os.readlink(task / "ns/net"))
        return found
    assert lab.wait(lambda: homes() == {os.readlink(f"/proc/{daemon.pid}/ns/net")}), homes()


def test_rp_filter_stays_off(lab, appliance):
    appliance.sysctl("net.ipv4.conf.all.rp_filter", 1)
    daemon = lab.start("--netns")
    assert lab.carries(lab.endpoint(), PACKET)
    setting = "net.ipv4.conf.gwi.rp_filter"
    assert appliance.within(NAME, "sysctl", "-n", setting, "net.ipv4.conf.all.rp_filter").stdout == "0\n0\n"
    appliance.within(NAME, "sysctl", "-w", f"{setting}=2")
    assert lab.wait(lambda: appliance.within(NAME, "sysctl", "-n", setting).stdout == "0\n")
    assert lab.wait(lambda: f"rp_filter of gwi of {NAME} had become 2." in daemon.log())


def test_a_table_that_is_gone_is_told_with_the_command_that_mends_it(lab, appliance):
    daemon = start(lab, "create-firewall.sh", "--netns")
    lab.endpoint(expectation=gwlb.WellFormed()).send(PACKET)
    assert lab.wait(lambda: "created." in daemon.log())
    appliance.within(NAME, "nft", "flush", "ruleset")
    assert lab.wait(lambda: "has been deleted" in daemon.log())
    line, = (line for line in daemon.log().splitlines() if "has been deleted" in line)
    appliance.run(*line.partition("Run: ")[2].split())
    assert "table inet gwlbtun-gwi\n" in appliance.within(NAME, "nft", "list", "tables").stdout


@pytest.mark.parametrize("deletion", [
    ("ip", "-n", NAME, "link", "delete", "gwi"), ("ip", "-n", NAME, "link", "delete", "gwo"), ("ip", "netns", "delete", NAME)],
    ids=["gwi", "gwo", "namespace"])
def test_what_somebody_deletes_is_made_again(lab, appliance, deletion):
    daemon = lab.start("--netns")
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, PACKET)
    appliance.run(*deletion)
    assert lab.wait(lambda: daemon.log().count(" created.") == 2)
    assert appliance.names() == [NAME]
    assert lab.carries(endpoint, PACKET)
    assert f"of {NAME} has been deleted: gwlbtun makes it again." in daemon.log() \
        or f"network namespace {NAME} has been deleted: gwlbtun makes it again." in daemon.log()


def test_what_somebody_sets_down_and_up_is_made_again_as_its_routes_are_gone(lab, appliance):
    daemon = lab.start("--netns")
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, PACKET)
    appliance.run("sh", "-c", f"ip -n {NAME} link set gwo down; ip -n {NAME} link set gwo up")
    assert lab.wait(lambda: daemon.log().count(" created.") == 2)
    assert f"gwo of {NAME} has been down, so Linux has removed its routes: gwlbtun makes it again." in daemon.log()
    appliance.run("ip", "-n", NAME, "link", "set", "gwi", "down")
    assert lab.wait(lambda: f"Set it up again: ip -n {NAME} link set gwi up." in daemon.log())
    appliance.run("ip", "-n", NAME, "link", "set", "gwi", "up")
    assert lab.carries(endpoint, PACKET)


def test_an_operators_namespace_is_used_and_kept(lab, appliance):
    appliance.run("ip", "netns", "add", NAME)
    appliance.run("ip", "-n", NAME, "link", "add", "own", "type", "veth", "peer", "own2")
    daemon = lab.start("--netns")
    assert lab.carries(lab.endpoint(), PACKET)
    assert link(appliance, "gwi") and link(appliance, "own")
    assert daemon.stop() == 0
    assert appliance.names() == [NAME]
    assert link(appliance, "own") and "gwi" not in appliance.run("ip", "-n", NAME, "link").stdout


def test_an_interface_of_somebody_else_in_it_is_named(lab, appliance):
    appliance.run("ip", "netns", "add", NAME)
    appliance.run("ip", "-n", NAME, "link", "add", "gwo", "type", "veth", "peer", "gwo2")
    daemon = lab.start("--netns")
    lab.endpoint().send(PACKET)
    assert lab.wait(lambda: f"somebody else has an interface gwo: delete it with ip -n {NAME} link delete gwo" in daemon.log())
    assert appliance.names() == [NAME] and "gwi" not in appliance.run("ip", "-n", NAME, "link").stdout


def test_what_a_killed_one_has_left_is_replaced(lab, appliance):
    first = lab.start("--netns")
    assert lab.carries(lab.endpoint(), PACKET)
    first.kill()
    lab.daemons.clear()
    assert appliance.names() == [NAME]
    appliance.within(NAME, "nft", "add", "table", "inet", "left")
    appliance.run("ip", "netns", "add", "vpce-operators")
    daemon = lab.start("--netns")
    assert appliance.names() == ["vpce-operators"]
    appliance.run("ip", "netns", "delete", "vpce-operators")
    assert lab.carries(lab.balancer.endpoints[0], PACKET)
    assert appliance.within(NAME, "nft", "list", "tables").stdout == ""
    assert daemon.stop() == 0 and appliance.names() == []


def test_a_file_without_a_namespace_is_no_obstacle(lab, appliance):
    appliance.run("sh", "-c", f"mkdir -p {netns.DIRECTORY}; : > {netns.DIRECTORY}/{NAME}")
    daemon = lab.start("--netns")
    assert lab.carries(lab.endpoint(), PACKET)
    assert daemon.stop() == 0 and appliance.names() == []


def test_processes_inside_outlive_the_endpoint_and_hold_nobody_up(lab, appliance):
    daemon = lab.start("--netns", "-t", "1")
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, PACKET)
    inhabitant = appliance.start("ip", "netns", "exec", NAME, "sleep", "infinity")
    assert lab.wait(lambda: appliance.run("ip", "netns", "pids", NAME).stdout.strip())
    assert lab.wait(lambda: appliance.names() == [])
    assert inhabitant.poll() is None
    assert "gw" not in appliance.run("nsenter", f"--net=/proc/{inhabitant.pid}/ns/net", "ip", "-br", "link").stdout
    assert lab.carries(endpoint, PACKET)
    inhabitant.send_signal(signal.SIGKILL)
    inhabitant.wait()
    assert daemon.drops().keys() <= {"no_flow", "not_ip"}


def test_without_the_right_to_make_namespaces_gwlbtun_says_so(lab, appliance):
    refused(run("--netns", prefix=["ip", "netns", "exec", appliance.name, "setpriv", "--bounding-set", "-sys_admin",
                                   "--inh-caps", "-sys_admin"]), "--netns", "CAP_SYS_ADMIN")


