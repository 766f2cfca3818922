# SPDX-License-Identifier: MIT-0
"""`make install` and `make uninstall`, into a directory that stands for /."""
import configparser
import os
import re
import subprocess

import pytest

from gwlbtun import __version__
from onefile import ROOT, building

STANDARD = ("bin", "share/man/man8", "share/bash-completion/completions", "lib/systemd/system", "lib/sysctl.d",
            "lib/sysusers.d")


@pytest.fixture
def stage(built, tmp_path):
    return tmp_path / "a stage"


def make(target, stage, prefix="/usr/local", **options):
    with building("dist"):
        return subprocess.run(["make", "-s", "-C", ROOT, target, f"DESTDIR={stage}", f"PREFIX={prefix}"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False, timeout=300,
                              **options)


def files(stage):
    return {str(path.relative_to(stage)) for path in stage.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("prefix", ["/usr/local", "/usr", "/opt/gw.1"])
def test_all_is_put_in_place_and_taken_away_again(stage, prefix):
    old_mask = os.umask(0o077)
    try:
        done = make("install", stage, prefix)
    finally:
        os.umask(old_mask)
    assert (done.returncode, done.stderr) == (0, "")
    base = stage / prefix[1:]
    hooks = {path.name for pattern in ("*.sh", "*.nft") for path in (ROOT / "example-scripts").glob(pattern)}
    assert {path.name for path in (base / "share/gwlbtun/example-scripts").iterdir()} == hooks
    assert files(stage) == {"etc/gwlbtun.conf", *(str((base / name).relative_to(stage)) for name in (
        "bin/gwlbtun", "share/man/man8/gwlbtun.8", "share/bash-completion/completions/gwlbtun",
        "lib/systemd/system/gwlbtun.service", "lib/sysctl.d/60-gwlbtun.conf", "lib/sysusers.d/gwlbtun.conf",
        "share/gwlbtun/gwlbtun.conf", *(f"share/gwlbtun/example-scripts/{hook}" for hook in hooks)))}
    for path in stage.rglob("*"):
        runs = path.is_dir() or path == base / "bin/gwlbtun" or path.name.startswith("create-")
        assert path.stat().st_mode & 0o777 == (0o755 if runs else 0o644), path
    version = subprocess.run([base / "bin/gwlbtun", "--version"], stdout=subprocess.PIPE, check=True, timeout=60).stdout
    assert version.decode() == f"gwlbtun {__version__}\n"

    assert make("uninstall", stage, prefix).returncode == 0
    assert files(stage) == set()
    left = {str(path.relative_to(base)) for path in base.rglob("*") if not list(path.iterdir())}
    assert left == set(STANDARD)
    assert make("uninstall", stage, prefix).returncode == 0


def test_what_is_installed_names_where_it_is(stage):
    make("install", stage, "/opt/gw")
    unit = (stage / "opt/gw/lib/systemd/system/gwlbtun.service").read_text()
    assert re.search(r"^ExecStart=/opt/gw/bin/gwlbtun\b", unit, re.MULTILINE)
    assert "/opt/gw/share/gwlbtun/example-scripts" in (stage / "opt/gw/share/man/man8/gwlbtun.8").read_text()
    for name in files(stage):
        if not name.endswith("bin/gwlbtun"):
            assert "/usr/local" not in (stage / name).read_text(), name
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(unit)
    assert {"Unit", "Service", "Install"} <= set(parser.sections())


def test_options_that_were_changed_stay(stage):
    make("install", stage)
    options, shipped = stage / "etc/gwlbtun.conf", stage / "usr/local/share/gwlbtun/gwlbtun.conf"
    options.write_text("OPTIONS=-p 80\n")
    done = make("install", stage)
    assert "keeps /etc/gwlbtun.conf" in done.stdout and "/usr/local/share/gwlbtun/gwlbtun.conf is the new one" in done.stdout
    done = make("uninstall", stage)
    assert "leaves /etc/gwlbtun.conf" in done.stdout
    assert files(stage) == {"etc/gwlbtun.conf"} and options.read_text() == "OPTIONS=-p 80\n"
    make("install", stage)  # another program's file, for all that is known
    assert options.read_text() == "OPTIONS=-p 80\n" and shipped.exists()


def test_options_that_nobody_changed_are_renewed(stage):
    make("install", stage)
    options, shipped = stage / "etc/gwlbtun.conf", stage / "usr/local/share/gwlbtun/gwlbtun.conf"
    newest = options.read_text()
    for file in options, shipped:
        file.write_text("OPTIONS=\n")  # as an older version came
    assert "gwlbtun.conf" not in make("install", stage).stdout
    assert options.read_text() == shipped.read_text() == newest


def test_what_others_have_put_beside_stays(stage):
    make("install", stage)
    own = stage / "usr/local/share/gwlbtun/example-scripts/own.sh"
    own.write_text("#!/bin/sh\n")
    make("uninstall", stage)
    assert files(stage) == {str(own.relative_to(stage))}


def test_a_program_in_use_is_replaced_whole(stage):
    make("install", stage)
    program = stage / "usr/local/bin/gwlbtun"
    with open(program, "rb") as running:
        make("install", stage)
        assert os.fstat(running.fileno()).st_ino != program.stat().st_ino
        assert running.read() == program.read_bytes()


@pytest.mark.parametrize("prefix", ["relative", "/a b", "/a|b", "/a&b", "/a'b", "/a\nb"])
def test_a_prefix_that_cannot_be_is_refused(stage, prefix):
    done = make("install", stage, prefix)
    assert done.returncode == 2 and "cannot be installed to: give an absolute path" in done.stderr
    assert not stage.exists()


# ---- Units of the C++ tool


@pytest.fixture
def unit(tmp_path):
    def write(name, *lines):
        path = tmp_path / "root/etc/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\n" + "".join(line + "\n" for line in lines))
        return path
    return write


def told(tmp_path):
    return subprocess.run([ROOT / "tools" / "old_units.sh", ROOT, tmp_path / "root"], stdout=subprocess.PIPE, timeout=60,
                          universal_newlines=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("line", ["ExecStart={}/gwlbtun -p 80", "ExecStart=-{}/gwlbtun", '  ExecStart = "{}/gwlbtun" -p 80',
                                  "ExecStart=!!{}/gwlbtun -c x", "ExecStart={}/../{name}/gwlbtun"])
def test_a_unit_that_starts_the_directory_is_named(unit, tmp_path, line):
    path = unit("gw.service", line.format(ROOT, name=ROOT.name), line.format(ROOT, name=ROOT.name))
    said, = told(tmp_path)
    assert said.startswith(f"{path} starts {ROOT}") and said.endswith(f"gwlbtun.py there, or python3 {said.split()[-1]}")


def test_so_are_drop_ins_and_links(unit, tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    unit("gw.service.d/override.conf", f"ExecStart={tmp_path}/link/gwlbtun")
    said, = told(tmp_path)
    assert "override.conf starts" in said and f"write {tmp_path}/link/gwlbtun.py there" in said


def test_other_units_are_not(unit, tmp_path):
    unit("gw.service", f"ExecStart={ROOT}/gwlbtun.py", f"ExecStart=/usr/bin/python3 {ROOT}/gwlbtun", "ExecStart=",
         "ExecStart=/usr/local/bin/gwlbtun $(touch x) `touch y`", f"#ExecStart={ROOT}/gwlbtun")
    unit("other.service", "ExecStart=/opt/gwlbtun/gwlbtun-not-here")
    assert told(tmp_path) == []
    assert subprocess.run([ROOT / "tools" / "old_units.sh", ROOT, tmp_path / "empty"], timeout=60, check=True).returncode == 0


def test_what_it_says_works(tmp_path):
    for command in ["python3", ROOT / "gwlbtun"], [ROOT / "gwlbtun.py"], ["python3", "-m", "gwlbtun"]:
        done = subprocess.run([*command, "--version"], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
        assert done.stdout.decode() == f"gwlbtun {__version__}\n"
