# SPDX-License-Identifier: MIT-0
"""A restart in place where gwlbtun may do little, or finds little."""
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from command import PROGRAM
import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from restarts import COUNTING, Restartable

pytestmark = pytest.mark.one_path


@pytest.fixture
def public():
    """A directory with the program and a hook, where every user may look."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for part in "gwlbtun", "native":
            shutil.copytree(PROGRAM.parent / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROGRAM, root)
        (root / "hook").write_text(PASSTHROUGH)
        (root / "hook").chmod(0o755)
        yield root


def goes_on(restartable):
    """It restarts, and what needs rights or files works afterwards: a new endpoint, with its hook."""
    restartable.exchange()
    for number in range(3):
        restartable.restart()
        restartable.exchange()
        restartable.exchange(restartable.lab.endpoint(ENI + 1 + number))
    assert restartable.daemon.health()["hooksFailed"] == 0 and restartable.daemon.drops() == {}


@pytest.mark.unsanitized(reason="there, Python has no sanitizer's library")
def test_as_another_user_with_capabilities(lab, public):
    user, rights = 60_000 + os.getpid() % 5000, "-all,+net_admin,+net_raw,+net_bind_service"
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--bounding-set={rights}",
               f"--inh-caps={rights}", f"--ambient-caps={rights}", "--no-new-privs", "/usr/bin/python3", public / "gwlbtun.py"]
    restartable = Restartable(lab, public, "-c", public / "hook", "-r", public / "hook", "--control", "", hook=None,
                              command=command)
    before = Path(f"/proc/{restartable.daemon.pid}/status").read_text()
    goes_on(restartable)
    after = Path(f"/proc/{restartable.daemon.pid}/status").read_text()
    for line in "Uid", "CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs":
        assert [text for text in before.splitlines() if text.startswith(line)] == [
            text for text in after.splitlines() if text.startswith(line)]


def test_without_proc(lab, tmp_path, onefile):
    script = 'mount --make-rprivate /; umount -l /proc; exec "$@"'
    goes_on(Restartable(lab, tmp_path, command=["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, onefile]))


@pytest.mark.parametrize("level", [1, 2])
def test_where_memory_files_must_not_be_executed(lab, tmp_path, onefile, level):
    """vm.memfd_noexec holds for a PID namespace; kernels before 6.3 have none."""
    script = f'! test -e /proc/sys/vm/memfd_noexec || echo {level} >/proc/sys/vm/memfd_noexec; exec "$@"'
    restartable = Restartable(lab, tmp_path, command=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec",
                                                      script, "sh", onefile])
    outside = restartable.daemon.pid
    inside, = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
    restartable.hang_up = lambda: os.kill(int(inside), signal.SIGHUP)
    goes_on(restartable)
    os.kill(int(inside), signal.SIGTERM)  # not the one that has started it, which would take it along
    assert restartable.daemon.process.wait(20) == 0


def test_with_a_network_namespace_for_each_endpoint(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, "--netns", "--udpthreads", 2)
    restartable.exchange()
    for number in range(3):
        restartable.restart(f"--tunthreads {1 + number}")
        restartable.exchange()
        restartable.exchange(lab.endpoint(ENI + 1 + number))
    assert restartable.daemon.stop() == 0


def test_a_network_namespace_where_a_hook_has_renamed_gwi(lab, tmp_path):
    """It is not taken for what a gwlbtun that was killed has left: the rules that hooks made there stay."""
    renaming = COUNTING + '[ "$1" = DESTROY ] || { ip link set gwi down; ip link set gwi name inside up; }\n'
    restartable = Restartable(lab, tmp_path, "--netns", hook=renaming)
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")
    restartable.endpoint.send(packet)
    assert lab.wait(lambda: restartable.daemon.health()["hooks"]["create"]["ok"] == 1)
    name = f"vpce-{ENI:017x}"

    def inode():
        return lab.appliance.run("stat", "-Lc", "%i", f"/run/netns/{name}").stdout
    before = inode()
    restartable.restart()
    assert inode() == before and restartable.ran() == ["CREATE"]


def test_the_program_has_moved_to_read_only(lab, public):
    """A clone that nobody may write to leaves no compiled modules behind, and is rehearsed once."""
    script = f'mount --make-rprivate /; mount --bind {public} {public}; mount -o remount,bind,ro {public}; exec "$@"'
    (public / "options").write_text("")
    restartable = Restartable(lab, public, command=["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable,
                                                    public / "gwlbtun.py"])
    goes_on(restartable)
