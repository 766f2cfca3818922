# SPDX-License-Identifier: MIT-0
"""The control socket of a live daemon: who may ask at it, and whose path it is."""
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest

import netns
from gwlbtun.rendezvous import DEFAULT_PATH
from gwlbtun.show import command
from lab import Daemon, command_line

pytestmark = pytest.mark.one_path

NOBODY = 65534
MEMBERS = 54321  # a group that the host need not have


@pytest.fixture
def place():
    """A directory that everybody may look into."""
    path = Path(tempfile.mkdtemp(prefix="gwlbtun-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def start_behind(lab, mount, *arguments):
    """A daemon on a host with something else mounted."""
    within = ["unshare", "-m", "sh", "-c", f'mount {mount} && exec "$@"', "sh", *command_line()]
    daemon = Daemon(lab.appliance, lab.directory, ["-j", *arguments], within)
    lab.daemons.append(daemon)
    return daemon.wait_ready()


def start_with_groups(lab, groups, control):
    path = lab.directory / "group"
    path.write_text(groups)
    return start_behind(lab, f"--bind '{path}' /etc/group", "--control", control)


def show_as(user, group, groups, control):
    """Runs `show` as somebody else; its status, and what it printed."""
    out = tempfile.TemporaryFile("w+")
    child = os.fork()
    if not child:
        status = 99
        try:
            os.setgroups(groups)
            os.setgid(group)
            os.setuid(user)
            sys.stdout = sys.stderr = out
            status = command.main(["--socket", str(control)])
            out.flush()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out.seek(0)
    return status, out.read()


def test_only_root_may_ask_without_the_group(lab, place):
    control = place / "control.sock"
    start_with_groups(lab, "root:x:0:\n", control)
    status, text = show_as(NOBODY, NOBODY, [NOBODY], control)
    assert (status, text) == (1, f"gwlbtun: only root may ask at {control}: run this with sudo\n")
    assert show_as(0, 0, [], control)[0] == 0
    control.chmod(0o666)  # somebody has opened it to all: the daemon still looks at who comes
    status, text = show_as(NOBODY, NOBODY, [0], control)
    assert status == 1 and "only root and the group of the control socket" in text


def test_the_group_may_ask(lab, place):
    control = place / "control.sock"
    start_with_groups(lab, f"root:x:0:\ngwlbtun:x:{MEMBERS}:\n", control)
    status = control.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 0, MEMBERS)
    for group, others in (MEMBERS, []), (NOBODY, [NOBODY, MEMBERS]):
        assert show_as(NOBODY, group, others, control)[0] == 0
    status, text = show_as(NOBODY, NOBODY, [], control)
    assert status == 1 and f"only root and the group {MEMBERS} may ask at {control}" in text
    place.chmod(0o700)
    assert show_as(NOBODY, NOBODY, [], control)[0] == 1


def test_two_daemons_in_two_namespaces(lab, tmp_path):
    first = lab.start()
    (tmp_path / "two").mkdir()
    with netns.Namespace("two") as namespace:
        second = Daemon(namespace, tmp_path / "two", ["-j", "--control", first.control])
        try:
            second.wait_ready()
            beside = first.control.with_name(f"control-{second.pid}.sock")
            assert lab.wait(beside.exists)
            assert lab.wait(lambda: f"`show --pid {second.pid}` asks this one, at {beside}" in second.log())
            for daemon, control in (first, first.control), (second, beside):
                status, text = show_as(0, 0, [], control)
                assert status == 0 and f"process {daemon.pid}:" in text
            assert second.stop() == 0
            assert not beside.exists() and first.control.exists()
            assert show_as(0, 0, [], first.control)[0] == 0
        finally:
            second.kill()


def test_a_killed_daemons_socket_is_replaced(lab):
    killed = lab.start()
    killed.kill()
    lab.daemons.remove(killed)
    assert killed.control.exists()
    status, text = show_as(0, 0, [], killed.control)
    assert status == 1 and f"no gwlbtun answers at {killed.control}: is it running" in text
    daemon = lab.start()
    assert daemon.control == killed.control and f"process {daemon.pid}:" in show_as(0, 0, [], daemon.control)[1]
    assert daemon.stop() == 0
    assert not daemon.control.exists()


def test_what_is_no_socket_keeps_a_daemon_that_wants_its_path_from_starting(lab, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("precious")
    daemon = Daemon(lab.appliance, tmp_path, ["--control", taken])
    assert daemon.process.wait(60) == 1
    assert daemon.errors() == (f"gwlbtun: cannot make the control socket {taken}: there is a file of that name which is not a "
                               "socket; choose another path with --control, or --control '' for none\n")
    assert taken.read_text() == "precious"


def test_no_control_socket(lab, tmp_path):
    daemon = lab.start("--control", "")
    assert daemon.errors() == "gwlbtun: --control is empty: there is no control socket\n"
    assert not daemon.control.exists() and "gwlbtun Control" not in daemon.threads().values()


def test_a_host_that_has_no_place_for_it(lab):
    daemon = start_behind(lab, "-t tmpfs -o ro none /run", "--control", DEFAULT_PATH, "--logging", "core=info")
    assert lab.wait(lambda: daemon.log().count("Read-only file system") == 1)
    line, = [line for line in daemon.log().splitlines() if "Read-only" in line]
    assert f"gwlbtun cannot make the control socket {DEFAULT_PATH}: Read-only file system" in line and "--control" in line
    assert daemon.errors() == ""
