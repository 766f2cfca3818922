# SPDX-License-Identifier: MIT-0
"""A restart in place with options that have changed, and what stands against one: gwlbtun then goes on as it was."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import packets
from lab import CLIENT, ENI, HEALTH_PORT, PROGRAM, SERVER, command_line
from restarts import Restartable, streaming


@pytest.fixture
def restartable(lab, tmp_path):
    return Restartable(lab, tmp_path)


def queues(restartable):
    health = restartable.daemon.eni(restartable.endpoint)
    return health["tunnelIn"]["queues"], health["tunnelOut"]["queues"]


@pytest.mark.alone
def test_threads_come_and_go_and_no_packet_is_lost(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, options="--udpthreads 2 --tunthreads 2")
    restartable.exchange()
    interfaces = restartable.interfaces()
    with streaming(lab, 4000) as found:
        for receivers, tunnels in (4, 4), (1, 1), (3, 2), (2, 3):
            restartable.restart(f"--udpthreads {receivers} --tunthreads {tunnels}")
            names = list(restartable.daemon.threads().values())
            assert len([name for name in names if name.startswith("gwlbtun U")]) == receivers
            assert queues(restartable) == (tunnels, tunnels)
    assert found[0]["lost"] == found[0]["wrong"] == 0
    assert restartable.interfaces() == interfaces and restartable.ran() == ["CREATE"]


def test_levels_times_and_the_health_port_change(restartable):
    daemon = restartable.daemon
    restartable.exchange()
    restartable.restart(f"--logging udp=debug --timeout 1 -p {HEALTH_PORT + 1}")
    restartable.exchange()
    assert restartable.lab.wait(lambda: ",debug" in daemon.log())
    with pytest.raises(OSError):
        daemon.get()
    assert restartable.lab.wait(lambda: restartable.ran()[:2] == ["CREATE", "DESTROY"]), daemon.log()


@pytest.mark.one_path
def test_the_health_port_moves_between_all_addresses_and_one(restartable):
    for options, told in (f"-p 127.0.0.1:{HEALTH_PORT}", "127.0.0.1"), ("", ""), (f"-p [::1]:{HEALTH_PORT}", "[::1]"):
        restartable.restart(options)
        with restartable.lab.appliance.entered():
            with socket.create_connection((told.strip("[]") or "127.0.0.1", HEALTH_PORT), 5) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert "192.0.2.1: this host does not have that address" in restartable.refuse(f"-p 192.0.2.1:{HEALTH_PORT}")
    log = restartable.daemon.log()
    assert log.count("Health checks move from") == 3 and "Health checks stay on" not in log


def test_an_endpoint_that_is_not_allowed_any_more_goes(restartable):
    other = restartable.lab.endpoint(ENI + 1)
    restartable.exchange()
    restartable.exchange(other)
    restartable.restart(f"--allow-endpoint {restartable.endpoint.id}")
    assert restartable.lab.wait(lambda: restartable.ran() == ["CREATE", "CREATE", "DESTROY"])
    assert f"--allow-endpoint does not name ENI ID {ENI + 1:017x} any more" in restartable.daemon.log()
    other.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x"))
    assert restartable.lab.wait(lambda: restartable.daemon.drops().get("endpoint_not_allowed") == 1)
    restartable.exchange()
    assert restartable.lab.wait(lambda: len(restartable.daemon.health()["enis"]) == 1)


@pytest.mark.one_path
def test_a_right_that_is_missing_for_the_new_options_is_said_before(lab, tmp_path):
    """Without an endpoint, nothing else stands against --netns."""
    rights = "net_admin,+net_raw"
    restartable = Restartable(lab, tmp_path, command=["setpriv", f"--bounding-set=-all,+{rights}", f"--inh-caps=-all,+{rights}",
                                                      *command_line()])
    assert "--netns cannot make network namespaces" in restartable.refuse("--netns")
    restartable.restart("")
    restartable.exchange()


@pytest.mark.one_path
def test_a_link_to_the_clone_that_leads_to_another_now(lab, tmp_path, copy):
    newer = shutil.copytree(copy.parent, tmp_path / "newer")
    init = newer / "gwlbtun" / "__init__.py"
    current = tmp_path / "current"
    current.symlink_to(copy.parent.name)
    restartable = Restartable(lab, tmp_path, command=[sys.executable, current / copy.name])
    version = restartable.daemon.health()["version"]
    init.write_text(init.read_text().replace(version, "99.0"))
    (tmp_path / "next").symlink_to(newer.name)
    os.replace(tmp_path / "next", current)
    restartable.restart()
    restartable.exchange()
    assert restartable.daemon.health()["version"] == "99.0"


@pytest.mark.parametrize("options, why", [
    ("--udpthreads none", "--udpthreads"), ("--max-flows 4096", "the flow table is made for"),
    ("--max-endpoints 7", "as many endpoints as"), ("--netns", "--netns has changed"), ("-p 6", "taken"),
    ("@nowhere", "nowhere")])
def test_what_cannot_be_taken_over_is_said(restartable, options, why):
    restartable.exchange()
    with restartable.lab.appliance.entered():
        holder = socket.socket(socket.AF_INET6)
        holder.bind(("", 6))
        holder.listen()
    with holder:
        assert why in restartable.refuse(options)
    restartable.exchange()
    restartable.restart("")
    restartable.exchange()


def test_another_layout_of_the_flow_table_is_said(lab, tmp_path, copy):
    """The program is replaced by one that was built from other sources."""
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    state = copy.parent / "gwlbtun" / "takeover" / "state.py"
    text = state.read_text()
    state.write_text(text.replace("shim.flow_layout()", "shim.flow_layout() + 1"))
    assert "another layout in memory" in restartable.refuse()
    state.write_text(text.replace("VERSION = 1", "VERSION = 2"))
    assert "form 1" in restartable.refuse()
    state.write_text("this is no Python")
    assert "SyntaxError" in restartable.refuse()
    state.unlink()
    assert "state" in restartable.refuse()
    state.write_text(text + "\n")  # of another length, lest Python take what it has compiled for this
    restartable.restart()
    restartable.exchange()


def test_a_rehearsal_that_is_killed_or_hangs(lab, tmp_path, copy):
    restartable = Restartable(lab, tmp_path, command=[sys.executable, copy])
    restartable.exchange()
    rehearsal = copy.parent / "gwlbtun" / "takeover" / "rehearsal.py"
    text = rehearsal.read_text()
    rehearsal.write_text(text.replace("def main(arguments: List[str]) -> int:\n", "def main(arguments: List[str]) -> int:\n"
                                      "    os.kill(os.getpid(), signal.SIGKILL)\n"))
    assert "signal 9" in restartable.refuse()
    rehearsal.write_text(text.replace("def main(arguments: List[str]) -> int:\n", "def main(arguments: List[str]) -> int:\n"
                                      "    time.sleep(60)\n"))
    restartable.hang_up()  # and it is stopped meanwhile
    children = Path(f"/proc/{restartable.daemon.pid}/task/{restartable.daemon.pid}/children")
    assert lab.wait(lambda: children.read_text().split())
    restartable.exchange()
    assert restartable.daemon.stop(timeout=30) == 0


def test_a_storm_of_signals(restartable):
    restartable.exchange()
    for _ in range(300):
        restartable.hang_up()
        time.sleep(0.002)
    restartable.exchange()
    assert restartable.lab.wait(lambda: restartable.done() >= 1)
    restartable.hang_up()
    time.sleep(0.1)
    restartable.daemon.process.send_signal(signal.SIGTERM)
    assert restartable.daemon.process.wait(60) == 0
    assert restartable.ran() == ["CREATE", "DESTROY"]


def test_a_stop_at_any_moment_of_a_restart(lab, tmp_path):
    for number in range(6):
        restartable = Restartable(lab, tmp_path)
        restartable.exchange()
        restartable.hang_up()
        time.sleep(0.08 * number)
        restartable.daemon.process.send_signal(signal.SIGTERM)
        assert restartable.daemon.process.wait(60) == 0, restartable.daemon.errors()
        assert restartable.interfaces() == []


def test_a_dist_file_that_was_replaced_by_a_newer_version(lab, tmp_path, onefile):
    mine = tmp_path / "gwlbtun"
    shutil.copy(onefile, mine)
    restartable = Restartable(lab, tmp_path, command=[mine])
    restartable.exchange()
    root = tmp_path / "newer"
    shutil.copytree(PROGRAM.parent / "gwlbtun", root / "gwlbtun")
    init = root / "gwlbtun" / "__init__.py"
    version = restartable.daemon.health()["version"]
    init.write_text(init.read_text().replace(version, "99.0"))
    for directory in "tools", "native":
        shutil.copytree(PROGRAM.parent / directory, root / directory)
    subprocess.run([sys.executable, root / "tools" / "onefile.py", root / "native" / "gwlbtun.so", tmp_path / "next"],
                   check=True, cwd=root)
    os.replace(tmp_path / "next", mine)
    restartable.restart()
    restartable.exchange()
    assert restartable.daemon.health()["version"] == "99.0" and restartable.ran() == ["CREATE"]


def test_check_rehearses_and_changes_nothing(restartable):
    restartable.exchange()
    program = [*command_line("check", "--takeover", "-p", HEALTH_PORT, "--control", restartable.daemon.control)]
    done = restartable.lab.appliance.run(*program, check=False)
    assert f"ok    takeover: SIGHUP would put this program in the place of process {restartable.daemon.pid}" in done.stdout
    done = restartable.lab.appliance.run(*program, "--max-flows", 4096, check=False)
    assert done.returncode == 1 and "takeover: the flow table is made for" in done.stdout
    assert restartable.told() == []
