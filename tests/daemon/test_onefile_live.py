# SPDX-License-Identifier: MIT-0
"""The one file as a daemon: alone with Python, where nothing can be written or executed, and by the name of a program."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import lab as laboratory
import packets
from lab import CLIENT, PASSTHROUGH, SERVER, Daemon
from onefile import Jail

pytestmark = pytest.mark.one_path

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")


@pytest.fixture
def started(lab, tmp_path, monkeypatch):
    """Starts a daemon by a command, waits until it answers health checks, and passes its options on."""
    def start(*command, options=()):
        monkeypatch.setattr(laboratory, "command_line", lambda *arguments: [*command, *arguments])
        daemon = Daemon(lab.appliance, tmp_path, ["-j", *options])
        lab.daemons.append(daemon)
        daemon.wait_ready()
        assert daemon.get()[0] == 200
        return daemon
    return start


def process(daemon):
    """The daemon itself where others stand before it: unshare, say."""
    pid = daemon.pid
    while Path(f"/proc/{pid}/comm").read_text() != "gwlbtun\n":
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


def found_by(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True, check=False, timeout=60).stdout.split()


def carry(lab, endpoint):
    seen = len(endpoint.received)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received[seen:] == [PACKET])


# ---- Places


@pytest.mark.unsanitized(reason="there, Python has no sanitizer's library")
@pytest.mark.parametrize("words", [["/usr/local/bin/gwlbtun"], ["python3", "/usr/local/bin/gwlbtun"]])
def test_alone_with_python_in_an_empty_system(built, started, tmp_path, words):
    jail = Jail(tmp_path / "jail")
    jail.add(built, "/usr/local/bin/gwlbtun")
    started(*jail.command(*words), options=["--control", ""])  # the test's directory is not there
    assert not (jail.directory / "tmp").exists()


@pytest.mark.parametrize("options, words", [("ro", []), ("ro,noexec", [sys.executable]), ("noexec", [sys.executable])])
def test_from_a_file_system_that_forbids_much(onefile, started, options, words):
    place = onefile.parent
    mounts = f"cp {onefile} /run/; mount -t tmpfs none {place}; mv /run/gwlbtun {place}; mount -o remount,{options} {place}; "
    script = "mount --make-rprivate /; mount -t tmpfs none /run; " + mounts + 'exec "$@"'
    daemon = started("unshare", "--mount", "sh", "-ec", script, "sh", *words, onefile)
    flags = [line for line in Path(f"/proc/{process(daemon)}/mounts").read_text().splitlines() if str(place) in line]
    assert all(option in flags[-1] for option in options.split(","))


@pytest.mark.unsanitized(reason="a sanitizer reads /proc")
def test_without_proc_it_is_loaded_from_a_file_for_a_moment(built, lab, tmp_path):
    jail = Jail(tmp_path / "jail")
    jail.add(built, "/usr/local/bin/gwlbtun")
    (jail.directory / "tmp").mkdir()
    version = ["python3", "-c", "import runpy; runpy.run_path('/usr/local/bin/gwlbtun', run_name='one'); "
               "from gwlbtun.shim import Shim; print(len(Shim().counters))"]
    done = lab.appliance.run(*jail.command(*version, proc=False))
    assert int(done.stdout) > 10 and os.listdir(jail.directory / "tmp") == []
    (jail.directory / "tmp").rmdir()
    done = lab.appliance.run(*jail.command("/usr/local/bin/gwlbtun", proc=False), check=False)
    assert done.returncode == 1 and done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    assert "/proc" in done.stderr or "can be written" in done.stderr


@pytest.mark.parametrize("level", [1, 2])
def test_where_memory_files_must_not_be_executed(onefile, started, level):
    """vm.memfd_noexec holds for a PID namespace; kernels before 6.3 have none."""
    script = f'! test -e /proc/sys/vm/memfd_noexec || echo {level} >/proc/sys/vm/memfd_noexec; exec "$@"'
    daemon = started("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", script, "sh", onefile)
    assert "memfd:gwlbtun.so" in Path(f"/proc/{process(daemon)}/maps").read_text()
    os.kill(process(daemon), signal.SIGTERM)
    assert daemon.process.wait(60) == 0


@pytest.mark.unsanitized(reason="the user may not open the sanitized Python")
def test_as_a_user_with_the_capability(onefile, started):
    place = Path(tempfile.mkdtemp(prefix="gwlbtun-test-"))  # of pytest's directories, others may open none
    try:
        place.chmod(0o755)
        shutil.copy(onefile, place / "gwlbtun")
        daemon = started("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_admin",
                         "--ambient-caps=+net_admin", "/usr/bin/env", "python3", place / "gwlbtun",
                         options=["--control", ""])  # the test's directory is root's
        assert str(daemon.pid) in found_by("pidof", "gwlbtun")
    finally:
        shutil.rmtree(place)


# ---- Names


def test_it_is_found_by_its_name(onefile, started):
    daemon = started(onefile, options=["--logging", ""])
    for command in ["pidof", "gwlbtun"], ["pgrep", "-x", "gwlbtun"], ["pgrep", "-f", f"^{onefile} "]:
        assert str(daemon.pid) in found_by(*map(str, command))
    words = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words == [str(onefile).encode(), b"-p", b"8080", b"--control", str(daemon.control).encode(), b"-j",
                     b"--logging"]  # the last is empty


@pytest.mark.parametrize("words", [[laboratory.PROGRAM], [sys.executable, laboratory.PROGRAM.parent / "gwlbtun"],
                                   [sys.executable, "-u", laboratory.PROGRAM]])
def test_so_is_a_clone_s(started, words):
    daemon = started(*words)
    assert str(daemon.pid) in found_by("pidof", "gwlbtun")
    assert str(daemon.pid) in found_by("pgrep", "-x", "gwlbtun")
    assert str(words[-1]).encode() in Path(f"/proc/{daemon.pid}/cmdline").read_bytes()


def test_other_commands_do_not_pass_for_the_daemon(onefile):
    code = f"import runpy, time; runpy.run_path({str(onefile)!r}, run_name='one'); print('ready', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"ready\n"
        assert str(other.pid) not in found_by("pidof", "gwlbtun") + found_by("pgrep", "-x", "gwlbtun")
    finally:
        other.kill()
        other.communicate()


# ---- Upgrades


def test_a_daemon_whose_file_is_overwritten_goes_on_to_its_clean_end(onefile, started, lab):
    hook = lab.hook(PASSTHROUGH.replace("exit 0", "{ echo destroyed; exit 0; }"))
    daemon = started(onefile, options=["-c", hook, "-r", hook, "-t", "3600"])
    first, second = lab.endpoint(), lab.endpoint(laboratory.ENI + 1)
    carry(lab, first)
    onefile.write_bytes(b"#!/bin/false\n" * 1000)
    carry(lab, first)
    carry(lab, second)
    assert daemon.health()["healthy"] and len(daemon.health()["enis"]) == 2
    assert daemon.stop() == 0
    assert daemon.log().count(": destroyed") == 2 and daemon.errors() == ""
