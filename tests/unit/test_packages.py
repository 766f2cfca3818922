# SPDX-License-Identifier: MIT-0
"""tools/packages.sh: the documents say what it lists, and it installs what is missing and nothing else."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "packages.sh"
INSTALLER = {"debian": "apt-get", "amazon": "dnf"}


def run(*arguments, path=None):
    return subprocess.run(["/bin/bash", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False, env={**os.environ, "PATH": path or os.environ["PATH"]})


def command(system, purpose):
    done = run("command", system, purpose)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


@pytest.mark.parametrize("document, system, purposes", [
    ("README.md", "debian", ["run", "test"]), ("README.md", "amazon", ["run", "test"]),
    ("CONTRIBUTING.md", "debian", ["lint", "arm64", "kernels"]), ("CONTRIBUTING.md", "amazon", ["lint"])])
def test_the_documents_say_what_is_listed(document, system, purposes):
    # Packages named after the kernel are quoted, and are no part of the list.
    lines = re.findall(rf"^ +(sudo {INSTALLER[system]} install -y [^\"\n]+)$", (ROOT / document).read_text(), re.MULTILINE)
    assert lines == [command(system, purpose) for purpose in purposes]


@pytest.mark.parametrize("file", ["Makefile", ".ci/run"])
def test_nobody_else_lists_packages(file):
    assert not re.search(r"(apt-get|dnf) install", (ROOT / file).read_text())


@pytest.fixture
def host(tmp_path):
    """A host that has these commands and no others; what each is called with is in calls."""
    class Host:
        calls = tmp_path / "calls"
        calls.write_text("")

        def has(self, name, text):
            program = tmp_path / name
            program.write_text(f'#!/bin/bash\necho {name} "$@" >>{self.calls}\n{text}\n')
            program.chmod(0o755)

        def run(self, *arguments):
            return run(*arguments, path=str(tmp_path))

    host = Host()
    (tmp_path / "grep").symlink_to(shutil.which("grep"))
    host.has("id", "echo 0")
    return host


def test_what_is_missing_is_named_and_installed_by_apt_get(host):
    host.has("apt-get", "")
    host.has("dpkg-query", "case ${@: -1} in make|nftables) exit 1 ;; esac\necho install ok installed")
    done = host.run("install", "run")
    assert (done.returncode, done.stdout) == (
        0, "packages.sh: installs what is missing: apt-get install -y make nftables\n")
    calls = host.calls.read_text().splitlines()
    assert [call for call in calls if call.startswith("apt-get")] == [
        "apt-get update -qq", "apt-get install -y make nftables"]


def test_what_is_missing_is_named_and_installed_by_dnf(host):
    host.has("dnf", "")
    host.has("rpm", "[ ${@: -1} != libasan ]")
    done = host.run("install", "run", "test")
    assert (done.returncode, done.stdout) == (0, "packages.sh: installs what is missing: dnf install -y libasan\n")
    assert "dnf install -y libasan" in host.calls.read_text().splitlines()


def test_nothing_happens_where_nothing_is_missing(host):
    host.has("dnf", "")
    host.has("rpm", "")
    done = host.run("install", "run", "test", "lint")
    assert (done.returncode, done.stdout) == (0, "")
    assert "dnf" not in host.calls.read_text()


def test_an_ordinary_user_is_told_the_command(host):
    host.has("id", "echo 1000")
    host.has("dnf", "")
    host.has("rpm", "false")
    done = host.run("install", "lint")
    assert (done.returncode, done.stdout) == (
        2, "packages.sh: packages are missing: sudo dnf install -y clang clang-tools-extra\n")
    assert "dnf" not in host.calls.read_text()


def test_a_failed_installation_is_a_failure(host):
    host.has("dnf", "exit 3")
    host.has("rpm", "false")
    assert host.run("install", "lint").returncode == 3


@pytest.mark.parametrize("arguments, text", [
    ([], "say what for"), (["command"], "say what for"), (["install", "debug"], "no purpose is named debug"),
    (["remove", "run"], "remove is none of its actions"),
])
def test_a_wrong_call_is_told_what_is_wrong(host, arguments, text):
    host.has("dnf", "")
    done = host.run(*arguments)
    assert done.returncode == 2 and text in done.stdout


def test_a_system_without_packages_for_a_purpose_is_told_so(host):
    host.has("dnf", "")
    done = host.run("install", "arm64")
    assert done.returncode == 2 and "there are no packages for arm64 here: use Debian" in done.stdout


def test_a_host_without_either_is_told_so(host):
    done = host.run("install", "run")
    assert done.returncode == 2 and "neither apt-get nor dnf" in done.stdout


def test_make_without_a_compiler_says_what_to_install(tmp_path):
    done = subprocess.run(["make", "-C", ROOT, f"SHIM={tmp_path / 'shim.so'}", "CC=no-such-compiler -m64"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode == 2
    assert told == ["There is no C compiler no-such-compiler: " + run("command", "run").stdout.strip()]
