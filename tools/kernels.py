#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Runs tests on other kernels: boots those of Debian's archive in qemu, one after the other, with the project inside.

The guest sees the files of this host, with its Python and its tools, and writes to a layer of its own in memory. Nothing that
it does reaches the host. Packages and what is made of them lie in build/kernels, and so does each kernel's log.

Usage: tools/kernels.py [--accel kvm|tcg] [--seconds N] KERNEL[,KERNEL...] PYTEST-ARGUMENT...
       tools/kernels.py --list
       KERNEL: a series such as 6.1, or newest
"""
import argparse
import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "kernels"
GUEST = ROOT / "tools" / "kernel_guest.sh"

# The kernels for the cloud: theirs are the modules that an appliance has. By the label of a mirror, the suites to look at.
NAME = re.compile(r"linux-image-(\d+\.\d+)\.[\w.+-]*cloud-amd64$")
SUITES = {"Debian": ["bookworm-backports", "trixie-backports"],
          "Debian-Security": ["bullseye-security", "bookworm-security", "trixie-security"]}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BUSYBOX = Path("/bin/busybox")
VIRTIOFSD = [Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd")]
MEMORY = "3G"
SPEAKS_S = 40  # a guest that has said nothing by then does not work under KVM

STATUS = re.compile(r"^test-kernels: status (\d+)\s*$")
FAULT = re.compile(r"\b(BUG|Oops|WARNING: CPU|Kernel panic|INFO: task .* blocked)\b")

# It loads what it takes to see the host's files, and hands over to the script that runs on them.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /lower /layer /root
for module in {modules}; do $b insmod "/modules/$module"; done
$b mount -t virtiofs -o ro host /lower
$b mount -t tmpfs -o size=75% layer /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root
exec $b switch_root /root /bin/bash {command}
"""


class Kernel(NamedTuple):
    """One that lies in BUILD."""

    series: str
    release: str
    image: Path
    modules: Path  # a directory such as /lib/modules


def say(text: str) -> None:
    print(f"test-kernels: {text}", flush=True)


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


# ---- The archive -----------------------------------------------------------------------------------------------------


def apt_options() -> List[str]:
    """For lists of packages that the host need not have: of more suites of the mirrors that it uses."""
    place = BUILD / "apt"
    for name in "lists/partial", "cache/archives/partial":
        (place / name).mkdir(parents=True, exist_ok=True)
    mirrors = set(output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages").splitlines())
    lines = [f"deb [signed-by={KEYRING}] {uri} {suite} main"
             for label, uri in sorted(mirror.split() for mirror in mirrors) for suite in SUITES.get(label, [])]
    (place / "sources.list").write_text("\n".join(lines) + "\n")
    return [option for name, value in (("Dir::Etc::SourceList", place / "sources.list"), ("Dir::Etc::SourceParts", "/dev/null"),
                                       ("Dir::State::Lists", place / "lists"), ("Dir::Cache", place / "cache"),
                                       ("APT::Sandbox::User", "root")) for option in ("-o", f"{name}={value}")]


def archive(options: List[str]) -> Dict[str, str]:
    """By series, from the oldest on, the newest package."""
    # A suite that the archive no longer has leaves out its kernels, and no others.
    subprocess.run(["apt-get", *options, "update", "-qq"], check=False)
    return newest_of(output("apt-cache", *options, "pkgnames", "linux-image-").split())


def newest_of(names: Iterable[str]) -> Dict[str, str]:
    newest: Dict[str, str] = {}
    for name in sorted(names, key=numbers):
        found = NAME.match(name)
        if found:
            newest[found.group(1)] = name
    return newest


def numbers(name: str) -> List[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def fetch(series: str, package: str, options: List[str]) -> Kernel:
    tree = BUILD / package
    if not (tree / "complete").exists():
        say(f"fetches {package}")
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        parts = parts_of(package, output("apt-cache", *options, "depends", package))
        subprocess.run(["apt-get", *options, "download", "-qq", *parts], check=True, cwd=tree)
        for file in tree.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(file), str(tree)], check=True)
            file.unlink()
        subprocess.run(["depmod", "-b", str(tree), release_of(tree)], check=True)
        (tree / "complete").touch()
    release = release_of(tree)
    modules = tree / "lib" / "modules"
    images = tree / "boot" / f"vmlinuz-{release}", modules / release / "vmlinuz"  # the latter since 7.3
    return Kernel(series, release, next(filter(Path.exists, images), images[0]), modules)


def parts_of(package: str, depends: str) -> List[str]:
    """The packages that a kernel is in: since 7.3 the modules and the image itself have their own, of the same release."""
    release = package[len("linux-image"):]
    others = re.findall(r"^ *Depends: (linux-\S+)", depends, re.MULTILINE)
    return [package, *(name for name in others if name.endswith(release))]


def release_of(tree: Path) -> str:
    # Since Debian 13 packages hold usr/lib; depmod and modprobe look in lib.
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    return next((tree / "lib" / "modules").iterdir()).name


# ---- The guest -------------------------------------------------------------------------------------------------------


def entry(name: str, content: bytes, mode: int) -> bytes:
    """A file in an archive of cpio (newc)."""
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def initramfs(kernel: Kernel, command: List[str]) -> Path:
    """What the kernel starts with: BusyBox, and the modules for the host's files."""
    lines = output("modprobe", "-a", "-D", "-d", str(kernel.modules.parent.parent), "-S", kernel.release,
                   "virtio_pci", "virtiofs", "overlay").splitlines()
    files = list(dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod")))
    modules = {}
    for file in map(Path, files):
        raw = file.read_bytes()
        modules[file.name.split(".ko")[0] + ".ko"] = lzma.decompress(raw) if file.suffix == ".xz" else raw
    init = INIT.format(modules=" ".join(modules), command=" ".join(map(shlex.quote, command)))
    content = [entry(name, b"", 0o040755) for name in ("bin", "modules", "dev")]
    content += [entry("bin/busybox", BUSYBOX.read_bytes(), 0o100755), entry("init", init.encode(), 0o100755)]
    content += [entry(f"modules/{name}", data, 0o100644) for name, data in modules.items()]
    path = BUILD / f"initramfs-{kernel.release}"
    path.write_bytes(b"".join(content) + entry("TRAILER!!!", b"", 0))
    return path


def boot(kernel: Kernel, ramdisk: Path, accel: str, seconds: int, log: Path) -> Optional[int]:
    """Shows and keeps what the guest prints. Its exit status; None: it gave none."""
    socket = BUILD / f"virtiofs-{os.getpid()}.sock"
    server = next(path for path in VIRTIOFSD if path.exists())
    settings = "console=ttyS0 quiet loglevel=5 panic=-1 panic_on_oops=1 mitigations=off"
    if accel == "tcg":
        settings += " tsc=reliable"  # each look at another clock is a device's work, and takes the emulator's one lock
    qemu = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi" if accel == "tcg" else accel,
            "-cpu", "max" if accel == "tcg" else "host", "-smp", "2", "-m", MEMORY, "-nographic", "-no-reboot", "-nic", "none",
            "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on", "-numa", "node,memdev=memory",
            "-chardev", f"socket,id=host,path={socket}", "-device", "vhost-user-fs-pci,chardev=host,tag=host",
            "-kernel", str(kernel.image), "-initrd", str(ramdisk), "-append", settings]
    status, spoke, faults = None, False, 0
    with open(log, "w", encoding="utf-8") as copy, open(BUILD / "virtiofsd.log", "w", encoding="utf-8") as errors:
        files = subprocess.Popen([str(server), f"--socket-path={socket}", "-o", "source=/,sandbox=chroot,cache=always"],
                                 stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        end = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < end:
            time.sleep(0.05)
        guest = subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 errors="replace")
        assert guest.stdout is not None
        limit = threading.Timer(seconds, guest.kill)
        silence = threading.Timer(SPEAKS_S if accel == "kvm" else seconds, guest.kill)
        limit.start()
        silence.start()
        try:
            for line in guest.stdout:
                copy.write(line)
                copy.flush()
                if line.startswith("test-kernels: "):
                    silence.cancel()
                    spoke = True
                faults += bool(FAULT.search(line))
                found = STATUS.match(line)
                if found:
                    status = int(found.group(1))
                elif spoke:
                    print(line, end="", flush=True)
            guest.wait()
        finally:
            for timer in limit, silence:
                timer.cancel()
            for process in guest, files:
                process.kill()
                process.wait()
            socket.unlink(missing_ok=True)
    if faults:
        say(f"the kernel complained {faults} times: see {log}")
    return status


def run(kernel: Kernel, accel: str, seconds: int, arguments: List[str]) -> Optional[int]:
    """The status of pytest; None: the guest did not come to that."""
    command = [str(GUEST), str(kernel.modules), str(ROOT), sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
               "--color=no", "-vv", *arguments]  # a line for each test: a run is long
    ramdisk = initramfs(kernel, command)
    log = BUILD / f"{kernel.series}.log"
    say(f"{kernel.release}, by {accel}: {' '.join(arguments)}")
    began = time.monotonic()
    status = boot(kernel, ramdisk, accel, seconds, log)
    ended = "it ended without a status" if status is None else f"status {status}"
    say(f"{kernel.release}: {ended}, after {time.monotonic() - began:.0f} s; {log}")
    return status


def acceleration(kernel: Kernel) -> str:
    """KVM, if a guest runs by it: some hosts have the device, and run no ordinary kernel by it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    ramdisk = initramfs(kernel, [str(GUEST), str(kernel.modules), str(ROOT), "true"])
    return "kvm" if boot(kernel, ramdisk, "kvm", SPEAKS_S, BUILD / "kvm.log") == 0 else "tcg"


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--accel", choices=["kvm", "tcg"])
    parser.add_argument("--seconds", type=int, default=4 * 3600)  # emulation takes its time
    parser.add_argument("--list", action="store_true")
    parser.add_argument("kernels", nargs="?", default="")
    options, arguments = parser.parse_known_args()
    apt = apt_options()
    packages = archive(apt)
    if options.list:
        for series, package in packages.items():
            print(f"{series:6} {package}")
        return 0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the guest ends as well
    wanted = [list(packages)[-1] if name == "newest" else name for name in options.kernels.replace(",", " ").split()]
    unknown = [name for name in wanted if name not in packages]
    if unknown or not wanted:
        print(f"test-kernels: there is no kernel {' '.join(unknown)}; there are {' '.join(packages)}, newest", file=sys.stderr)
        return 2
    accel, failed = options.accel, []
    for series in wanted:
        kernel = fetch(series, packages[series], apt)
        accel = accel or acceleration(kernel)
        if run(kernel, accel, options.seconds, arguments) != 0:
            failed.append(series)
    say(f"failed on {' '.join(failed)}" if failed else f"passed on {' '.join(wanted)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
