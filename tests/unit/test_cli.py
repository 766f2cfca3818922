# SPDX-License-Identifier: MIT-0
"""The command as a person or a unit file calls it: options, their errors, and what keeps it from starting."""
import dataclasses
import re
import subprocess
import sys

import pytest

from command import PROGRAM, run  # noqa: F401
from gwlbtun import cli
from gwlbtun.checks import Address
from gwlbtun.settings import Settings


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
    (["--udp-idle", "0"], ["--udp-idle", "out of range", "from 1 to 86400"]),
    (["--udp-idle", "86401"], ["--udp-idle", "out of range"]),
    (["--udp-idle", "2m"], ["--udp-idle", "2m"]),
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
    (["--control", "control.sock"], ["--control", "not an absolute path"]),
    (["--control", "/" + "x" * 200], ["--control", "at most 99 bytes"]),
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
    assert (Settings().flow_idle_s, Settings().udp_idle_s, Settings().endpoint_idle_s, Settings().health_port) \
        == (350, 120, 0, None)


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
    without = Settings(control="") if flag == "--control" else Settings()  # whose default is to have one
    assert cli.parse([flag, ""]) == without
    assert cli.parse([flag, " "]) == without
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and re.fullmatch(rf"gwlbtun: (-\w/)?{flag}(/--[\w-]+)? is empty: [a-z ]+", first)


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


def test_an_empty_value_after_others_changes_nothing_and_is_not_remarked(capsys):
    assert cli.parse(["--allow-from", "10.0.0.0/8", "--allow-from", ""]).allow_from
    assert capsys.readouterr().err == ""
    assert not cli.parse(["--allow-from", ""]).allow_from
    assert "--allow-from is empty" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_an_error_with_nowhere_to_tell_it_has_its_status(closed):
    command = f'"{sys.executable}" "{PROGRAM}" -t x {closed}'
    assert subprocess.run(command, shell=True, timeout=60, check=False).returncode == 2


def test_an_empty_variable_is_no_matter_where_a_later_option_has_a_value(capsys, hook):
    """As in the unit, where $OPTIONS follows the variables."""
    settings = cli.parse(["-c", "", "-r", "", "-p", "", "-c", hook, "-p", "8080"])
    assert (settings.create_hook, settings.destroy_hook, settings.health_port) == (hook, None, Address("", 8080))
    assert capsys.readouterr().err == "gwlbtun: -r/--cmddel is empty: there is no destroy hook\n"
    assert cli.parse(["-p", "8080", "-p", ""]).health_port is None
    assert capsys.readouterr().err == "gwlbtun: -p/--port is empty: there is no health port\n"
