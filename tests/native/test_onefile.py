# SPDX-License-Identifier: MIT-0
"""The one file that `make dist` builds: what is in it, and what it says when it cannot run."""
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from base64 import b64decode

import pytest

from command import refused, run
from gwlbtun import __version__
from onefile import MARK, ROOT


def unpacked(path):
    return zipfile.ZipFile(io.BytesIO(b64decode(path.read_bytes().rpartition(MARK)[2])))


def run_in(onefile, code, **options):
    """Runs code with the modules of the file, whose path is in the variable `path`."""
    text = f"import runpy, sys; path = {str(onefile)!r}; runpy.run_path(path, run_name='one'); " + code
    return subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                          universal_newlines=True, check=False, cwd=str(onefile.parent), **options)


def test_it_holds_the_package_and_the_shim(onefile):
    kept = subprocess.run(["git", "-C", ROOT, "ls-files", "gwlbtun"], stdout=subprocess.PIPE, universal_newlines=True,
                          check=False).stdout.split() or ["gwlbtun/__init__.py", "gwlbtun/daemon.py"]
    names = unpacked(onefile).namelist()
    assert {*kept, "gwlbtun/gwlbtun.so"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert b".debug_info" not in unpacked(onefile).read("gwlbtun/gwlbtun.so")


def test_it_can_be_unpacked_as_it_says(onefile):
    command = re.search(r"^ +(sed .*)$", onefile.read_text(), re.MULTILINE).group(1)
    subprocess.run(command, shell=True, cwd=onefile.parent, check=True, timeout=60)
    assert zipfile.ZipFile(onefile.parent / "gwlbtun.zip").testzip() is None


def test_two_folders_give_the_same_bytes(tmp_path):
    made = []
    for name in "one", "other-with-a-longer-name":
        for part in "gwlbtun", "native", "tools":
            shutil.copytree(ROOT / part, tmp_path / name / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        shutil.copy(ROOT / "Makefile", tmp_path / name)
        for file in (tmp_path / name).rglob("*.py"):
            os.utime(file, (len(name), len(name)))
        subprocess.run(["make", "-s", "-C", tmp_path / name, "dist", "CFLAGS=-O1 -g"], check=True, timeout=300)
        made.append((tmp_path / name / "dist" / "gwlbtun").read_bytes())
        assert str(tmp_path).encode() not in (tmp_path / name / "native" / "gwlbtun.so").read_bytes()
    assert made[0] == made[1]


def test_it_runs_alone(onefile):
    for command in [onefile], [sys.executable, onefile.name], [sys.executable, "-I", onefile]:
        done = subprocess.run([*command, "--version"], cwd=onefile.parent, stdout=subprocess.PIPE, timeout=60, check=True)
        assert done.stdout.decode() == f"gwlbtun {__version__}\n"
    assert run("--help", program=onefile).stdout.startswith("usage: gwlbtun [")
    assert run("-t", "x", program=onefile).returncode == 2
    assert os.listdir(onefile.parent) == [onefile.name]


def test_what_lies_beside_it_is_not_imported(onefile):
    for name in "zipfile", "binascii", "gwlbtun", "argparse", "typing":
        (onefile.parent / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    assert run("--version", program=onefile, cwd=onefile.parent).stdout == f"gwlbtun {__version__}\n"


def test_its_modules_read_and_start_themselves(onefile):
    done = run_in(onefile, "from gwlbtun import installation as i; print(i.command()[1] == path, len(i.read('__init__.py')))")
    assert done.stdout.split() == ["True", str((ROOT / "gwlbtun" / "__init__.py").stat().st_size)], done.stderr
    done = run_in(onefile, "from gwlbtun import installation as i; i.read('nothing')")
    assert "FileNotFoundError" in done.stderr


@pytest.mark.parametrize("change", ["open(path, 'w').write('x')", "os.unlink(path)", "os.rename(path, path + '.old')"])
def test_it_may_be_replaced_or_removed_while_it_runs(onefile, change):
    done = run_in(onefile, f"import os; {change}; from gwlbtun import daemon, shim, installation; "
                           "print(len(shim.Shim().counters), len(installation.read('daemon.py')))")
    assert done.returncode == 0 and int(done.stdout.split()[0]) > 10, done.stderr


# ---- What keeps it from running


@pytest.mark.unsanitized(reason="most of the changes would be in the shim, which --version does not load")
def test_a_damaged_file_says_so(onefile):
    whole = onefile.read_bytes()
    begin = whole.rindex(MARK)
    for size in begin - 1, begin, begin + len(MARK) + 1, begin + 5000, len(whole) - 5000, len(whole) - 100, len(whole) - 5:
        onefile.write_bytes(whole[:size])
        refused(run("--version", program=onefile), str(onefile), "is damaged", "copy it once more")
    for place in range(begin + 100, len(whole) - 40_000, 10_000):
        onefile.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        refused(run("--version", program=onefile), "is damaged")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 8, 18)])
def test_a_python_too_old_is_told_so(onefile, monkeypatch, version):
    code = compile(onefile.read_bytes(), str(onefile), "exec")
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=rf"needs Python 3.9 or newer, this is {version[0]}.{version[1]}: run it"):
        exec(code, {"__name__": "__main__", "__file__": str(onefile)})


def test_any_python_can_read_the_head(onefile):
    """None of what Python 2 and the first Python 3 would stumble over before they come to the line about their version."""
    head = onefile.read_text().rpartition(MARK.decode())[0]
    assert head.isascii()
    assert not re.search(r'\bf"|\bfrom None|->(?! \w)|:=|\bnonlocal\b', re.sub(r"#.*", "", head))


def test_a_shim_for_another_machine_is_named(onefile, tmp_path):
    shim = tmp_path / "foreign.so"
    data = bytearray((ROOT / "native" / "gwlbtun.so").read_bytes())
    foreign = {"x86_64": (183, "aarch64")}.get(os.uname().machine, (62, "x86_64"))
    data[18:20] = foreign[0].to_bytes(2, "little")
    shim.write_bytes(data)
    subprocess.run([sys.executable, ROOT / "tools" / "onefile.py", shim, onefile], check=True, timeout=60)
    refused(run(program=onefile), f"was built for {foreign[1]}", f"that was built for {os.uname().machine}")


def test_a_c_library_too_old_is_told_so(onefile, tmp_path):
    shim = tmp_path / "newer.so"
    shim.write_bytes(re.sub(rb"\0GLIBC_2\.", rb"\0GLIBC_9.", (ROOT / "native" / "gwlbtun.so").read_bytes()))
    subprocess.run([sys.executable, ROOT / "tools" / "onefile.py", shim, onefile], check=True, timeout=60)
    refused(run(program=onefile), "version `GLIBC_9.", "run `make dist` on this host", "whose C library is not newer")


LOAD = "import os; from gwlbtun import image, shim; {}; print(len(shim.Shim().counters))"


@pytest.mark.parametrize("obstacle", [
    "os.memfd_create = lambda *_: os.close(-1)",                  # the host has no memory files
    "os.memfd_create = lambda *_: os.open('/dev/null', os.O_RDWR)",  # or none that can be loaded
    "import gwlbtun.memfile; gwlbtun.memfile.MFD_NOEXEC_SEAL = 1 << 20",  # or the kernel does not know the seal
    "os.memfd_create = lambda *_: os.open('/dev/full', os.O_RDWR)",  # or there is no memory
])
def test_without_memory_files_it_is_loaded_all_the_same(onefile, obstacle):
    before = set(os.listdir("/run")) | set(os.listdir("/tmp"))
    done = run_in(onefile, LOAD.format(obstacle))
    assert done.returncode == 0 and int(done.stdout) > 10, done.stderr
    assert not [name for name in {*os.listdir("/run"), *os.listdir("/tmp")} - before if name.endswith(".so")]


def test_with_no_place_at_all_it_says_so(onefile):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = run_in(onefile, LOAD.format(limited))
    assert done.returncode == 1 and "no file can be written to memory nor to /run, /dev/shm, /tmp, /var/tmp: " in done.stderr
