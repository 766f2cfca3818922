# SPDX-License-Identifier: MIT-0
"""Out of descriptors, threads, memory, disk, and without the TUN device: what is up goes on, what is new comes up later."""
import contextlib
import os
import resource
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from spinning import busiest

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")


pytestmark = pytest.mark.usefixtures("impatient")


@contextlib.contextmanager
def limited(daemon, kind, soft):
    before = resource.prlimit(daemon.pid, kind)
    resource.prlimit(daemon.pid, kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, kind, before)


def survives(lab, daemon, old, new, told):
    """During a fault: the old endpoint carries traffic, the new one is told to fail, nothing spins."""
    new.send(PACKET)
    assert lab.wait(lambda: told in daemon.log()), daemon.log()
    assert lab.carries(old, PACKET)
    assert busiest(daemon.pid) < 0.5
    assert daemon.process.poll() is None


def recovers(lab, daemon, *endpoints):
    for endpoint in endpoints:
        assert lab.wait(lambda: endpoint.send(PACKET) or time.sleep(0.1) or endpoint.received), daemon.log() + daemon.errors()
        assert f"New interface {endpoint.gwi} " in daemon.log()
    assert lab.wait(lambda: daemon.get()[0] == 200)
    assert daemon.log().count("gwlbtun tries again") < 5


def started(lab, *arguments, **options):
    daemon = lab.start("--udpthreads", 2, "--tunthreads", 2, *arguments, **options)
    old, new = lab.endpoint(), lab.endpoint(ENI + 1)
    assert lab.carries(old, PACKET)
    daemon.wait_hooks_read()
    return daemon, old, new


def test_without_descriptors(lab):
    daemon, old, new = started(lab)
    first_free = min(set(range(10_000)) - set(map(int, os.listdir(f"/proc/{daemon.pid}/fd"))))
    with limited(daemon, resource.RLIMIT_NOFILE, first_free):
        survives(lab, daemon, old, new, "Too many open files")
        lab.appliance.ip("address add 203.0.113.5/32 dev lo")  # which gwlbtun looks at
        assert lab.wait(lambda: "Cannot read this host's own addresses (Too many open files)" in daemon.log())
        assert lab.carries(old, PACKET)
    recovers(lab, daemon, new)
    assert lab.wait(lambda: "This host's own addresses can be read again." in daemon.log())


@pytest.mark.unsanitized(reason="a sanitizer itself needs memory then, and ends the daemon")
def test_without_memory(lab):
    daemon, old, new = started(lab)
    size = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(daemon, resource.RLIMIT_AS, size):
        survives(lab, daemon, old, new, "Cannot allocate memory")
        assert daemon.get()[0] == 200
    recovers(lab, daemon, new)


@pytest.mark.parametrize("instead", ["--bind /dev/null /dev/net/tun", "-t tmpfs none /dev/net"])
def test_without_the_tun_device(lab, started_by, instead):
    started_by("unshare", "--mount")
    daemon, old, new = started(lab)
    inside = ["nsenter", "-m", "-t", str(daemon.pid)]
    subprocess.run([*inside, "mount", *instead.split()], check=True)
    survives(lab, daemon, old, new, "/dev/net/tun")
    subprocess.run([*inside, "umount", instead.split()[-1]], check=True)
    recovers(lab, daemon, new)


def test_without_threads(lab, started_by):
    """As another user, for whom the kernel bounds them; endpoints come up when there is room again."""
    user = 60_000 + os.getpid() % 5000
    rights = "-all,+net_admin,+net_raw,+net_bind_service,+dac_override"
    started_by("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--bounding-set={rights}",
               f"--inh-caps={rights}", f"--ambient-caps={rights}", "--no-new-privs")
    with tempfile.TemporaryDirectory() as place:  # where every user may look
        os.chmod(place, 0o755)
        hook = Path(place, "hook")
        hook.write_text(PASSTHROUGH)
        hook.chmod(0o755)
        daemon, old, new = started(lab, "-c", hook, hook=None)
        limit = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "prlimit", f"--pid={daemon.pid}"]
        subprocess.run([*limit, f"--nproc={len(daemon.threads())}:"], check=True)
        survives(lab, daemon, old, new, "can't start new thread")
        assert daemon.get()[0] == 200
        subprocess.run([*limit, "--nproc=1000:"], check=True)
        recovers(lab, daemon, new)


def log_to(where):
    """A shell's words that start a daemon whose log goes there."""
    return "sh", "-c", f'exec "$@" {where}', "sh"


@pytest.mark.parametrize("where", [">/dev/full", ">{fifo}"])
def test_without_a_place_for_its_log(lab, tmp_path, started_by, where):
    fifo = tmp_path / "fifo"  # whose reader goes at once
    os.mkfifo(fifo)
    threading.Thread(target=lambda: open(fifo, "rb").close(), daemon=True).start()
    started_by(*log_to(where.format(fifo=fifo)))
    daemon, old, _ = started(lab)
    lab.endpoint(ENI + 2).send(PACKET)
    assert busiest(daemon.pid, 1) < 0.3
    assert lab.carries(old, PACKET)
    assert daemon.get()[0] == 200 and daemon.stop(timeout=60) == 0


def test_a_disk_that_was_full_has_a_log_again(lab, tmp_path, started_by):
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", place], check=True)
    try:
        started_by(*log_to(f">{place}/log"))
        daemon, old, new = started(lab)
        with contextlib.suppress(OSError):
            with open(place / "other", "wb", buffering=0) as other:
                while other.write(bytes(256)):
                    pass
        log = place / "log"
        room = 4096 - log.stat().st_size  # its last page
        number = 2
        while log.stat().st_size < 4096:
            one = lab.endpoint(ENI + number)
            assert lab.carries(one, PACKET)
            number += 1
            assert number < 100, room
        assert lab.carries(old, PACKET)
        (place / "other").unlink()
        told = "log lines were dropped: they could not be written (No space left on device)"
        assert lab.wait(lambda: told in log.read_text())
        assert lab.carries(new, PACKET)
        assert daemon.stop() == 0
        assert log.read_text().endswith("Stopped.\n")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
