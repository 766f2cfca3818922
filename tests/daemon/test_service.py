# SPDX-License-Identifier: MIT-0
"""Manners towards whoever starts and stops the daemon: a service manager, a login session, a container, a careless shell."""
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import pytest

import lab as laboratory
import packets
from lab import CLIENT, ENI, HEALTH_PORT, PASSTHROUGH, PROGRAM, SERVER, Daemon

pytestmark = pytest.mark.one_path

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")


def carry(lab, eni=ENI):
    endpoint = lab.endpoint(eni)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])


# ---- Signals


def telling(lab, wait=""):
    """A hook that passes all traffic through, and tells of its end."""
    return lab.hook(PASSTHROUGH.replace("exit 0", f"{{ {wait} echo destroyed; exit 0; }}"))


AT_A_TERMINAL = """
import fcntl, os, pty, sys, termios
_, end = pty.openpty()
os.set_inheritable(_, True)
os.setsid()
fcntl.ioctl(end, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_the_end_of_a_session_is_a_clean_stop_however_often_it_is_told(lab, tmp_path, started_by):
    started_by(sys.executable, "-c", AT_A_TERMINAL)
    hook = telling(lab, f"until [ -e {tmp_path}/go ]; do sleep 0.01; done;")
    daemon = lab.start("-c", hook, "-r", hook, hook=None)
    carry(lab)
    daemon.process.send_signal(signal.SIGHUP)
    assert lab.wait(lambda: "SIGHUP: stopping" in daemon.log())
    daemon.process.send_signal(signal.SIGHUP)
    assert lab.wait(lambda: not int(status(daemon)["SigPnd"], 16) | int(status(daemon)["ShdPnd"], 16))
    assert daemon.health()["reasons"] == ["gwlbtun is stopping"]
    (tmp_path / "go").touch()
    assert daemon.process.wait(60) == 0
    assert ": destroyed" in daemon.log() and "gwi-" not in lab.appliance.ip("link")


def test_under_nohup_the_end_of_a_session_is_nothing(lab, started_by):
    started_by("nohup")
    daemon = lab.start()
    daemon.process.send_signal(signal.SIGHUP)
    carry(lab)
    assert daemon.health()["healthy"]
    assert daemon.stop() == 0 and "SIGHUP" not in daemon.log()


def status(daemon):
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines())


# ---- Descriptors


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed_lead_nowhere(lab, started_by, closed):
    started_by("sh", "-c", f'exec "$@" {closed}', "sh")
    daemon = lab.start()
    carry(lab)
    for number in range(3):
        target = os.readlink(f"/proc/{daemon.pid}/fd/{number}")
        assert target == os.devnull or target.startswith(str(lab.directory))


# ---- Children


def children(pid):
    """States of a process's children, by name."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == pid:
                found[path.parent.name] = rest.split()[0]
    return found


def test_as_process_1_of_a_container_it_buries_what_hooks_leave_behind(lab, tmp_path, started_by):
    started_by("unshare", "--pid", "--fork", "--kill-child")
    hook = lab.hook(PASSTHROUGH + f"for i in 1 2 3; do (until [ -e {tmp_path}/go ]; do sleep 0.05; done) & done\n"
                    f"touch {tmp_path}/left\n")
    daemon = Daemon(lab.appliance, tmp_path, ["-j", "-c", hook]).wait_ready()
    try:
        own, = map(int, children(daemon.pid))
        assert re.search(r"^NSpid:.*\t1$", Path(f"/proc/{own}/status").read_text(), re.MULTILINE)
        carry(lab)
        assert len(children(own)) == 3
        (tmp_path / "go").touch()
        assert lab.wait(lambda: not children(own))
        os.kill(own, signal.SIGTERM)
        assert daemon.process.wait(60) == 0
    finally:
        daemon.kill()


def test_as_process_1_of_a_container_it_hears_a_stop_that_comes_before_it_is_ready(lab, tmp_path, started_by):
    """Linux throws away what process 1 of a PID namespace neither handles nor blocks."""
    started_by("unshare", "--pid", "--fork", "--kill-child")
    daemon = Daemon(lab.appliance, tmp_path, [])
    try:
        assert lab.wait(lambda: children(daemon.pid))
        own, = map(int, children(daemon.pid))
        assert lab.wait(lambda: blocks_or_handles(own, signal.SIGTERM))
        os.kill(own, signal.SIGTERM)
        assert daemon.process.wait(60) == 0 and "Stopped." in daemon.log()
    finally:
        daemon.kill()


def blocks_or_handles(pid, number):
    masks = re.findall(r"^Sig(?:Blk|Cgt):\t(.*)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def test_hooks_have_a_status_also_when_whoever_starts_it_ignores_that_of_children(lab, started_by):
    started_by(sys.executable, "-c", "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
               "os.execvp(sys.argv[1], sys.argv[1:])")
    daemon = lab.start(hook=PASSTHROUGH + "exit 3\n")
    carry(lab)
    assert daemon.health()["hooksFailed"] == 1 and "ended with status 3" in daemon.log()


@pytest.mark.parametrize("port", [HEALTH_PORT, ""])
def test_hooks_know_the_health_port(lab, port):
    hook = lab.hook("#!/bin/sh\necho \"port '$GWLBTUN_HEALTH_PORT'\"\n")
    log = lab.directory / "log"
    with open(log, "wb") as output:
        process = lab.appliance.start(*laboratory.command_line("-p", port, "-c", hook), stdout=output)
    try:
        assert lab.wait(lambda: "Receiving" in log.read_text())
        lab.endpoint().send(PACKET)
        assert lab.wait(lambda: f": port '{port}'" in log.read_text())
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


# ---- Threads that it cannot do without

# The command, with a part that fails once there is a file.
ONE_PART_FAILS = """
import os, sys
sys.path.insert(0, {root!r})
from gwlbtun import cli, daemon, endpoints, listener, logs

whole = {part}

def failing(*arguments, **named):
    if os.path.exists({go!r}):
        raise ValueError("broken")
    return whole(*arguments, **named)

{part} = failing
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("part, thread", [
    ('logs.FORMATS["text"]', "gwlbtun Logger"), ("daemon.Daemon._tick", None),
    ("listener.Listener._hear", "gwlbtun Hook"), ("daemon.health.Health.totals", None),
])
def test_it_stops_with_an_error_rather_than_limp(lab, tmp_path, monkeypatch, part, thread):
    program, go = tmp_path / "gwlbtun.py", tmp_path / "go"
    program.write_text(ONE_PART_FAILS.format(root=str(PROGRAM.parent), go=str(go), part=part))
    monkeypatch.setattr(laboratory, "PROGRAM", program)
    hook = lab.hook(PASSTHROUGH.replace("exit 0", f"{{ touch {tmp_path}/destroyed; exit 0; }}") + "echo hook\n")
    daemon = Daemon(lab.appliance, tmp_path, ["-c", hook, "-r", hook]).wait_ready()
    try:
        carry(lab)
        go.touch()
        lab.endpoint(ENI + 1).send(PACKET)
        assert daemon.process.wait(60) == 1
    finally:
        daemon.kill()
    assert "ValueError: broken" in daemon.errors()
    if thread:
        assert f"Exception in thread {thread}" in daemon.errors()
    if thread != "gwlbtun Logger":
        assert "(core,critical) : Stopping with status 1" in daemon.log()
    assert (tmp_path / "destroyed").exists() and "gwi-" not in lab.appliance.ip("link")


def test_a_stop_that_fails_ends_with_an_error(lab, tmp_path, monkeypatch):
    program, go = tmp_path / "gwlbtun.py", tmp_path / "go"
    program.write_text(ONE_PART_FAILS.format(root=str(PROGRAM.parent), go=str(go), part="endpoints.Endpoints.stop"))
    monkeypatch.setattr(laboratory, "PROGRAM", program)
    daemon = Daemon(lab.appliance, tmp_path, []).wait_ready()
    go.touch()
    assert daemon.stop() == 1
    assert "Exception in thread gwlbtun Stop" in daemon.errors()
