# SPDX-License-Identifier: MIT-0
"""The command as a person or a unit file calls it: options, their errors, and what keeps it from starting."""
import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import netns
from command import PROGRAM, copy, refused, run  # noqa: F401: a fixture
from gwlbtun import cli
from gwlbtun.checks import Address
from gwlbtun.settings import Settings


@pytest.fixture
def namespace():
    with netns.Namespace("cli") as made:
        yield made


@pytest.fixture
def hook(tmp_path):
    path = tmp_path / "hook.sh"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


# ---- Usage


@pytest.mark.parametrize("arguments, parts", [
    (["-t", "x"], ["-t/--timeout", "'x'", "whole number", "from 0 to"]),
    (["--timeout=-1"], ["-t/--timeout", "-1", "out of range"]),
    (["-i", "0"], ["-i/--idle", "out of range", "from 1 to 86400"]),
    (["--idle", "86401"], ["-i/--idle", "out of range"]),
    (["--port=65536"], ["-p/--port", "from 1 to 65535"]),
    (["-p"], ["-p/--port", "expected one argument"]),
    (["--udpthreads", "0"], ["--udpthreads", "from 1 to 1024"]),
    (["--udpthreads", "1025"], ["--udpthreads", "from 1 to 1024"]),
    (["--tunthreads", "257"], ["--tunthreads", "from 1 to 256"]),
    (["--udpaffinity", "0-9999"], ["--udpaffinity", "this host has no core 9999", "from 0 to"]),
    (["--tunaffinity", "1-0"], ["--tunaffinity", "backwards"]),
    (["--tunaffinity", "zero"], ["--tunaffinity", "'zero'", "such as"]),
    (["--rcvbuf", "0"], ["--rcvbuf", "from 1 to 1023"]),
    (["--offload", "lro"], ["--offload", "'lro'", "none, all"]),
    (["--max-endpoints", "0"], ["--max-endpoints", "from 1 to"]),
    (["--max-flows", "15"], ["--max-flows", "from 16 to"]),
    (["-c", "/nowhere/hook.sh"], ["-c/--cmdnew", "there is no '/nowhere/hook.sh'", "give the path"]),
    (["--cmddel", "/etc/passwd"], ["-r/--cmddel", "cannot be executed", "chmod +x"]),
    (["-c", "A=1"], ["-c/--cmdnew", "empty"]),
    (["--hook-jobs", "65"], ["--hook-jobs", "from 1 to 64"]),
    (["-c", "'"], ["-c/--cmdnew", "command line"]),
    (["--unknown"], ["unrecognized arguments: --unknown"]),
    (["stray"], ["unrecognized arguments: stray"]),
    (["-z"], ["unrecognized arguments: -z"]),
])
def test_usage_errors_are_one_clear_line(arguments, parts):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("option", ["-h", "-?", "--help"])
def test_help_names_every_option(option):
    done = run(option)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("-h, -?, --help", "-c FILE, --cmdnew FILE", "-r FILE, --cmddel FILE", "-t TIME, --timeout TIME",
                 "-i TIME, --idle TIME", "-p PORT, --port PORT", "-j, --json", "-s ", "-d, --debug", "-x ",
                 "--logging CONFIG", "--udpthreads NUM", "--udpaffinity AFFIN", "--tunthreads NUM",
                 "--tunaffinity AFFIN", "--rcvbuf MB", "--offload LIST", "--max-endpoints NUM", "--max-flows NUM",
                 "--hook-jobs NUM", "--require-hook "):
        assert name in done.stdout


def test_both_spellings_say_the_same(hook):
    short = cli.parse(["-c", hook, "-r", hook, "-t", "60", "-i", "100", "-p", "8080", "-j", "-s", "-d", "-x"])
    long = cli.parse(["--cmdnew", hook, f"--cmddel={hook}", "--timeout=60", "--idle", "100", "--port=8080", "--json",
                      "-s", "--debug", "-x"])
    assert short == long == Settings(create_hook=hook, destroy_hook=hook, endpoint_idle_s=60, flow_idle_s=100,
                                     health_port=Address("", 8080), health_json=True, health_status_only=True, debug=True,
                                     hex_dumps=True)


@pytest.mark.parametrize("line", [
    "FROM=here {hook}", "A=1 B='2 3' {hook} --rule 'two words'", "$HOME/h.sh", "~/h.sh", "cd /x && ./h.sh", "exec h.sh",
    "true; {hook}", "`which h.sh` x", ">/dev/null {hook}",
])
def test_a_hook_may_be_whatever_a_shell_runs(hook, line):
    line = line.format(hook=hook)
    chosen = cli.parse(["-c", line, "-r", line])
    assert chosen.create_hook == chosen.destroy_hook == line


@pytest.mark.parametrize("line, complaint", [
    ("FROM=here /nowhere/h.sh", "there is no '/nowhere/h.sh'"), ("no-such-program --x", "there is no 'no-such-program'"),
    ("A=1 /etc/passwd", "'/etc/passwd' cannot be executed"), ("A=1", "the command is empty"), ("B=2 /etc", "is a directory"),
])
def test_the_program_of_a_hook_is_found_behind_its_variables(capsys, line, complaint):
    with pytest.raises(SystemExit):
        cli.parse(["-c", line])
    assert complaint in capsys.readouterr().err


def test_defaults():
    assert cli.parse([]) == Settings()
    assert (Settings().flow_idle_s, Settings().endpoint_idle_s, Settings().health_port) == (350, 0, None)


def test_the_remaining_options():
    chosen = cli.parse(["--udpthreads", "1024", "--tunthreads", "256", "--udpaffinity", "0", "--tunaffinity", "0-0",
                        "--rcvbuf", "64", "--offload", "tun", "--max-endpoints", "5", "--max-flows", "1000",
                        "--logging", "core=debug", "--hook-jobs", "64", "--require-hook"])
    assert chosen == Settings(udp_threads=1024, tunnel_threads=256, udp_affinity=(0,), tunnel_affinity=(0,),
                              rcvbuf_mb=64, offload=frozenset({"tun"}), max_endpoints=5, max_flows=1000,
                              logging="core=debug", hook_jobs=64, require_hook=True)


@pytest.mark.parametrize("flag", [option for field in dataclasses.fields(Settings) for option in field.metadata["flags"]
                                  if field.metadata["metavar"]])
def test_an_empty_variable_of_a_unit_file_means_the_default(capsys, flag):
    assert cli.parse([flag, ""]) == Settings()
    assert cli.parse([flag, " "]) == Settings()
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and re.fullmatch(rf"gwlbtun: (-\w/)?{flag}(/--\w+)? is empty: [a-z ]+", first)


def test_port_0_is_no_health_port(capsys):
    assert cli.parse(["-p", "0"]) == Settings()
    assert capsys.readouterr().err == "gwlbtun: -p/--port is 0: there is no health port\n"


def test_unknown_log_words_are_named_and_ignored(capsys):
    settings = cli.parse(["--logging", "core=info,nose=debug,udp=loud"])
    first, second = capsys.readouterr().err.splitlines()
    assert "'nose'" in first and "ignored" in first
    assert "'loud'" in second
    assert settings.log_levels["core"].name == "INFO"


# ---- Where it is run


def test_from_another_directory_and_through_links(tmp_path):
    (tmp_path / "first").symlink_to(PROGRAM)
    (tmp_path / "second").symlink_to("first")
    done = run("--version", program="second", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("gwlbtun ")
    assert subprocess.run([str(PROGRAM), "--version"], cwd="/", stdout=subprocess.DEVNULL, timeout=60,
                          check=False).returncode == 0


def test_a_python_too_old_is_told_so(monkeypatch):
    """Runs the command's code under a version that says it is old."""
    code = compile(PROGRAM.read_text(), str(PROGRAM), "exec")
    monkeypatch.setattr(sys, "version_info", (3, 8, 0))
    with pytest.raises(SystemExit, match=r"needs Python 3.9 or newer, this is 3.8") as raised:
        exec(code, {"__name__": "__main__", "__file__": str(PROGRAM)})
    assert "\n" not in str(raised.value)


# ---- What keeps it from starting


def test_a_missing_shim(copy):
    (copy.parent / "native" / "gwlbtun.so").unlink()
    refused(run(program=copy), "has not been built", "run `make")


def test_a_stale_shim(copy):
    with open(copy.parent / "native" / "gwlbtun.h", "a", encoding="ascii") as header:
        header.write("/* changed */\n")
    refused(run(program=copy), "built from other sources", "run `make")


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


def test_a_shim_that_is_none(copy):
    (copy.parent / "native" / "gwlbtun.so").write_bytes(b"no object\n")
    refused(run(program=copy), "cannot be used", "run `make")


def test_a_shim_without_its_sources_is_taken_at_its_word(copy, namespace):
    for source in (copy.parent / "native").glob("*.[ch]"):
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
