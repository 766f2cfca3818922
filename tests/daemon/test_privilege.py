# SPDX-License-Identifier: MIT-0
"""What the threads of the daemon may do, as the kernel tells it, and what its hooks may."""
import contextlib
import errno
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import gwlb
import lab as laboratory
import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER
from restarts import COUNTING, Restartable
from gwlbtun import fastpath, privilege

pytestmark = pytest.mark.one_path

ALL_CAPABILITIES = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1
NEEDED = 1 << 10 | 1 << 12  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN
CAP_BPF = 1 << 39

TELL = """#!/bin/sh -e
echo "told: $(grep -E '^(CapPrm|CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t\\n' '  ')"
"""


def limits(pid, thread):
    status = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{pid}/task/{thread}/status").read_text(), re.MULTILINE))
    return (int(status["CapPrm"], 16), int(status["CapEff"], 16), int(status["NoNewPrivs"]), int(status["Seccomp"]))


def ours():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^CapPrm:\s+(\S+)", status, re.MULTILINE)[1], 16)


def by_name(daemon):
    """What its threads may do, by their names without numbers, when none is just beginning or about to end."""
    found, before = snapshot(daemon), None
    while found != before:
        time.sleep(0.1)
        found, before = snapshot(daemon), found
    return found


def snapshot(daemon):
    found = {}
    for thread, name in daemon.threads().items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found.setdefault(re.sub(r"[0-9]+$", "", name), set()).add(limits(daemon.pid, thread))
    return found


def confined(daemon, started_with, kernel_path=False):
    """Whether each thread has what it needs and no more. started_with: the capabilities of whoever started the daemon."""
    found = by_name(daemon)
    own_port = started_with & 1 << 10
    assert found.pop("gwlbtun U") == found.pop("gwlbtun T") == {(own_port, own_port, 1, 2)}
    starters = found.pop("gwlbtun") | found.pop("gwlbtun C")
    with_maps = (NEEDED | (CAP_BPF if kernel_path else 0)) & started_with
    assert starters == {(started_with, with_maps, 0, 0)}
    if kernel_path:
        assert found.pop("gwlbtun Links") | found.pop("gwlbtun-kernel") == {(with_maps, with_maps, 1, 0)}
    assert set.union(*found.values()) == {(NEEDED & started_with, NEEDED & started_with, 1, 0)}
    assert {"gwlbtun Health", "gwlbtun Logger", "gwlbtun Stop", "gwlbtun Report", "gwlbtun Patrol"} <= found.keys()


def exchange(lab, endpoint):
    before = len(endpoint.received)
    for number in range(200):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"%d" % number))
    assert lab.wait(lambda: len(endpoint.received) == before + 200)


def tunnel_threads(daemon):
    return sum(name.startswith("gwlbtun T") for name in daemon.threads().values())


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
@pytest.mark.parametrize("kernel_path", [False, True])
def test_each_thread_has_what_it_needs_and_no_more(lab, kernel_path):
    """Those that start later as well."""
    daemon = lab.start("--kernel-path", "auto" if kernel_path else "off", hook=PASSTHROUGH)
    for number in range(40):
        exchange(lab, lab.endpoint(ENI + number))
    assert lab.wait(lambda: tunnel_threads(daemon) >= 80)
    confined(daemon, ours(), kernel_path)


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
def test_so_it_is_after_a_restart_in_place_and_again(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, "--kernel-path", "auto", hook=COUNTING + TELL.partition("\n")[2])
    for number in range(3):
        exchange(lab, restartable.endpoint)
        assert lab.wait(lambda: tunnel_threads(restartable.daemon) >= 2)
        confined(restartable.daemon, ours(), kernel_path=True)
        exchange(lab, lab.endpoint(ENI + 1 + number))
        restartable.restart()
    everything = f"CapPrm: {ours():016x} CapEff: {ours():016x} NoNewPrivs: 0 Seccomp: 0"
    assert restartable.daemon.log().count(f"told: {everything}") == 4


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
@pytest.mark.parametrize("user", [[], ["--reuid=65534", "--regid=65534", "--clear-groups"]])
def test_with_less_than_root_has(lab, user):
    """As in a container, or as a user with ambient capabilities. What is missing is nobody's, and nothing fails for it."""
    less, rights = 1 << 1 | 1 << 12 | 1 << 13, "-all,+dac_override,+net_admin,+net_raw"
    with tempfile.TemporaryDirectory() as place:  # where every user may look
        os.chmod(place, 0o755)
        hook = Path(place, "hook")
        hook.write_text(PASSTHROUGH.replace("[ ", TELL.partition("\n")[2] + "[ ", 1))
        hook.chmod(0o755)
        daemon = lab.start("-c", hook, hook=None, command=["setpriv", *user, f"--bounding-set={rights}", f"--inh-caps={rights}",
                                                           f"--ambient-caps={rights}", *laboratory.command_line()])
        exchange(lab, lab.endpoint())
    assert lab.wait(lambda: tunnel_threads(daemon) >= 2)
    confined(daemon, less)
    assert f"told: CapPrm: {less:016x} CapEff: {less:016x} NoNewPrivs: 0 Seccomp: 0" in daemon.log()
    assert daemon.get()[0] == 200


def test_a_hook_has_what_gwlbtun_was_started_with(lab):
    daemon = lab.start(hook=TELL)
    lab.endpoint(7, gwlb.Identical()).send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: "told: " in daemon.log())
    everything = f"{ours():016x}"
    assert f"told: CapPrm: {everything} CapEff: {everything} NoNewPrivs: 0 Seccomp: 0" in daemon.log()


def test_a_hook_that_only_root_can_reach(lab, tmp_path):
    """Of another user, in a directory closed to all others: root must override, as before."""
    home = tmp_path / "home"
    home.mkdir()
    hook = home / "hook.sh"
    hook.write_text("#!/bin/sh\necho reached\n")
    hook.chmod(0o700)
    subprocess.run(["chown", "-R", "1000:1000", home], check=True)
    home.chmod(0o700)
    daemon = lab.start("-c", hook, "-r", hook, hook=None)
    lab.endpoint(7, gwlb.Identical()).send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: "reached" in daemon.log())
    assert daemon.stop() == 0
    assert daemon.log().count("reached") == 2


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
def test_a_confined_thread_cannot_open_files_or_start_processes():
    """And one can see what was refused."""
    done = inside("""
print(privilege.take(privilege.Rights.PACKETS), attempt(lambda: open("/etc/passwd")), attempt(os.fork),
      attempt(lambda: os.kill(os.getpid(), 0)), attempt(lambda: os.execv("/bin/true", ["true"])),
      attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 81))))
""", """
lines = privilege.news()
assert len(lines) == 1 and "were refused: " in lines[0], lines
for number in open_number, kill_number, exec_number:
    assert f" {number} (1 times)" in lines[0], lines
assert privilege.news() == []
print(attempt(lambda: open("/etc/passwd")))
""")
    everything = privilege.CAPABILITIES | privilege.PRIVILEGES | privilege.CALLS
    assert done == f"{everything} EPERM EPERM EPERM EPERM done\ndone\n"


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
def test_a_newer_call_than_any_that_it_needs_seems_to_be_missing():
    """As a C library then makes an older one."""
    done = inside("""
privilege.take(privilege.Rights.PACKETS)
def call(number):
    if libc.syscall(number, 0, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
print(attempt(lambda: call(449)), attempt(lambda: call(435)), attempt(lambda: call(5000)), attempt(lambda: call(1 << 30)))
""", """
print(all(f" {number} (" in privilege.news()[0] for number in [449]))
""")
    assert done == "ENOSYS ENOSYS ENOSYS ENOSYS\nTrue\n"


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
def test_abort_and_faults_end_the_process_still():
    """Nothing that a filter refuses may leave a thread hanging that wants to end everything."""
    for last_words, number in ("libc.abort()", 6), ("ctypes.string_at(0)", 11):
        assert inside(f"privilege.take(privilege.Rights.PACKETS); {last_words}", "", status=-number) == ""


INSIDE = """
import ctypes, errno, os, platform, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from gwlbtun import fastpath, privilege
libc = ctypes.CDLL(None, use_errno=True)
open_number, kill_number, exec_number = (257, 62, 59) if platform.machine() == "x86_64" else (56, 129, 221)
privilege.prepare(fastpath.Shim(), {privilege.CAP_NET_ADMIN})
def attempt(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def confined():
"""


def inside(confined, afterwards, status=0):
    """What a program prints, of which the first part runs in a confined thread."""
    script = INSIDE + "".join(f"    {line}\n" for line in confined.strip().splitlines()) + f"""
thread = threading.Thread(target=confined)
thread.start()
thread.join()
{afterwards}"""
    done = subprocess.run([sys.executable, "-c", script, str(fastpath.NATIVE.parent)], stdout=subprocess.PIPE, text=True,
                          timeout=60, check=False)
    assert done.returncode == status
    return done.stdout


# A filter of whoever starts gwlbtun: no seccomp(2), as where a kernel lacks it.
WITHOUT_SECCOMP = """
import ctypes, os, platform, struct, sys
number = 317 if platform.machine() == "x86_64" else 277
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_without_seccomp_it_runs_and_says_what_is_missing(lab, number):
    daemon = lab.start(command=[sys.executable, "-c", WITHOUT_SECCOMP, number, *laboratory.command_line()])
    exchange(lab, lab.endpoint())
    assert lab.wait(lambda: "The kernel lets threads keep all system calls" in daemon.log())
    found = by_name(daemon)
    assert {limit[:3] for limit in found["gwlbtun U"] | found["gwlbtun T"]} == {(1 << 10, 1 << 10, 1)}
    exchange(lab, lab.endpoint(ENI + 1))
    assert daemon.log().count("The kernel lets threads keep") == 1 and daemon.get()[0] == 200


# A thread of the packet path that wants files: a C library that is not known yet, or worse.
TELL_S = 1.0
CURIOUS = """
import contextlib, os, sys
sys.path.insert(0, {root!r})
from gwlbtun import cli, privilege, tunnel

privilege.TELL_S = {tell_s}
_interrupt_nobody = tunnel._interrupt_nobody

def curious():
    _interrupt_nobody()
    for _ in range(3):
        with contextlib.suppress(PermissionError):
            open("/etc/passwd")

tunnel._interrupt_nobody = curious
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.unsanitized(reason="a sanitizer makes system calls of its own, so it has no filter")
def test_what_is_refused_is_in_the_log_and_traffic_goes_on(lab, tmp_path, monkeypatch):
    program = tmp_path / "gwlbtun.py"
    program.write_text(CURIOUS.format(root=str(laboratory.PROGRAM.parent), tell_s=TELL_S))
    monkeypatch.setattr(laboratory, "PROGRAM", program)
    begin = time.monotonic()
    daemon = lab.start("--tunthreads", 1)
    exchange(lab, lab.endpoint())
    told = r"\(core,critical\) : Threads of the packet path wanted system calls that they do not need, and were refused: \d+ \("
    assert lab.wait(lambda: re.search(told, daemon.log())), daemon.log()
    for number in range(1, 20):
        exchange(lab, lab.endpoint(ENI + number))
    assert daemon.get()[0] == 200
    assert len(re.findall(told, daemon.log())) <= (time.monotonic() - begin) / TELL_S + 1
