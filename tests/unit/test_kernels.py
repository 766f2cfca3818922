# SPDX-License-Identifier: MIT-0
"""tools/kernels.py: which packages it takes, and the archive that it has the kernel start with."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import kernels  # noqa: E402


def test_the_newest_package_of_each_series():
    names = ["linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.118+deb13-cloud-amd64", "linux-image-6.12.20-amd64",
             "linux-image-6.1.0-0.deb11.52-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64",
             "linux-image-6.12.120-cloud-amd64-unsigned", "linux-image-6.12.120-cloud-amd64-dbg", "linux-image-cloud-amd64",
             "linux-image-6.12-cloud-amd64", "linux-image-5.10.0-46-cloud-amd64", "linux-image-6.12.120-rt-amd64"]
    assert list(kernels.newest_of(names).items()) == [
        ("5.10", "linux-image-5.10.0-46-cloud-amd64"), ("6.1", "linux-image-6.1.0-56-cloud-amd64"),
        ("6.12", "linux-image-6.12.118+deb13-cloud-amd64")]


def test_the_packages_that_one_kernel_is_in():
    package = "linux-image-7.3.4+deb13-cloud-amd64"
    depends = f"""{package}
  PreDepends: linux-base
 |Depends: dracut
  Depends: <linux-initramfs-tool>
  Depends: linux-base-7.3.4+deb13-cloud-amd64
  Depends: linux-binary-7.3.4+deb13-cloud-amd64
  Depends: linux-modules-7.3.4+deb13-cloud-amd64
"""
    assert kernels.parts_of(package, depends) == [package, *(
        f"linux-{part}-7.3.4+deb13-cloud-amd64" for part in ("base", "binary", "modules"))]
    assert kernels.parts_of("linux-image-6.1.0-56-cloud-amd64", "  Depends: kmod\n  Depends: linux-base\n") == [
        "linux-image-6.1.0-56-cloud-amd64"]


def test_an_entry_of_the_archive():
    """cpio(5), "New ASCII Format": a head of 110 characters, the name, the content, each up to a multiple of four bytes."""
    found = kernels.entry("bin/x", b"hello", 0o100755)
    assert found[:6] == b"070701" and [int(found[at:at + 8], 16) for at in range(6, 110, 8)] == [
        0, 0o100755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 6, 0]
    assert found[110:] == b"bin/x\0" + b"hello\0\0\0"


def test_what_tells_how_it_went():
    assert kernels.STATUS.match("test-kernels: status 1\n")[1] == "1"
    for line in "[    3.1] BUG: kernel NULL pointer dereference", "[   9.2] WARNING: CPU: 0 PID: 1 at net/core/dev.c:1", (
            "[  242.7] INFO: task gwlbtun:17 blocked for more than 120 seconds."):
        assert kernels.FAULT.search(line)
    assert not kernels.FAULT.search("[    3.1] Unstable clock detected")
