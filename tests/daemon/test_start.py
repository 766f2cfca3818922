# SPDX-License-Identifier: MIT-0
"""What keeps the command from starting, and a start that goes well."""
import os
import shutil
import socket
import subprocess
import sys

import pytest

import netns
from command import PROGRAM, refused, run
from gwlbtun import cli


@pytest.fixture
def namespace():
    with netns.Namespace("cli") as made:
        yield made


def test_make_mends_a_stale_shim_whatever_the_times_of_its_files(copy, namespace):
    makefile = shutil.copy(PROGRAM.parent / "Makefile", copy.parent)
    header = copy.parent / "native" / "gwlbtun.h"
    with open(header, "a", encoding="ascii") as file:
        file.write("/* changed */\n")
    for path in header, makefile:
        os.utime(path, (1_600_000_000, 1_600_000_000))
    build = ["make", "-C", copy.parent, "CFLAGS=-O0"]
    subprocess.run(build, stdout=subprocess.DEVNULL, timeout=300, check=True)
    subprocess.run([*build, "--question"], timeout=60, check=True)  # and then there is nothing left to do
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", 6081))
        refused(run(program=copy), "UDP port 6081")  # so far it got


def test_a_shim_without_its_sources_is_taken_at_its_word(copy, namespace):
    for source in (copy.parent / "native").rglob("*.[ch]"):
        source.unlink()
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", 6081))
        refused(run(program=copy), "UDP port 6081")  # so far it got


@pytest.mark.parametrize("shared", [False, True])
def test_the_udp_port_is_taken(namespace, shared):
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        holder.bind(("", 6081))
        refused(run(), "UDP port 6081 is taken", "stop the other program", "delete the kernel's geneve or vxlan interface")


def test_the_health_port_is_taken(namespace):
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("", 8080))
        holder.listen()
        refused(run("-p", "8080"), "TCP port 8080", "is taken", "choose another with -p")


def test_no_capability(namespace):
    with namespace.entered():
        refused(run(prefix=["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]),
                "CAP_NET_ADMIN", "run as root")


def test_no_tun(namespace):
    with namespace.entered():
        hide = 'mount -t tmpfs none /dev/net && exec "$@"'
        refused(run(prefix=["unshare", "--mount", "sh", "-c", hide, "sh"]), "there is no /dev/net/tun", "modprobe tun")


@pytest.fixture
def noexec(tmp_path):
    path = tmp_path / "noexec"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", path], timeout=60, check=True)
    yield path
    subprocess.run(["umount", path], timeout=60, check=True)


def test_a_shim_where_nothing_may_be_executed(copy, noexec):
    shutil.copytree(copy.parent, noexec / "there")
    refused(run(program=noexec / "there" / copy.name), "mounted noexec: move the project")


def test_a_hook_where_nothing_may_be_executed(noexec, capsys):
    script = noexec / "hook.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with pytest.raises(SystemExit):
        cli.parse(["-c", str(script)])
    errors = capsys.readouterr().err
    assert f"mounted noexec: give \"sh '{script}'\"" in errors and "chmod" not in errors
    assert cli.parse(["-c", f"sh '{script}'"]).create_hook == f"sh '{script}'"


def test_the_kernel_holds_the_udp_port(namespace):
    namespace.ip("link add kernel6081 type vxlan id 1 remote 192.0.2.1 dstport 6081")
    namespace.ip("link set kernel6081 up")
    with namespace.entered():
        refused(run(), "UDP port 6081 is taken", "ip -d link")
        advice = subprocess.run("ip -d link | grep -B2 6081", shell=True, stdout=subprocess.PIPE, timeout=60, check=True)
    assert b"kernel6081" in advice.stdout


def test_no_room_for_its_threads(namespace, tmp_path):
    program = tmp_path / "gwlbtun.py"
    program.write_text(f"""
import sys, threading
sys.path.insert(0, {str(PROGRAM.parent)!r})
from gwlbtun import cli

start = threading.Thread.start

def start_no_receiver(thread):
    if thread.name == "gwlbtun U001":
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = start_no_receiver
sys.exit(cli.main(sys.argv[1:]))
""")
    with namespace.entered():
        done = run("--udpthreads", "2", program=program)
    assert done.returncode == 1
    assert done.stderr == ("gwlbtun: can't start new thread: allow more of them (TasksMax= of the unit, ulimit -u, "
                           "kernel.threads-max)\n")


def test_no_word_on_stderr_and_status_0_when_all_is_well(namespace):
    with namespace.entered():
        with subprocess.Popen([sys.executable, str(PROGRAM)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True) as process:
            try:
                line = process.stdout.readline()
                assert "(core,important) : Receiving on UDP port 6081 with " in line
                assert f"{len(os.sched_getaffinity(0))} threads" in line
                process.terminate()
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, errors) == (0, "")
