# SPDX-License-Identifier: MIT-0
"""A shared object that is in memory: how the shim is loaded when it comes in one file with the rest.

The dynamic linker wants a path. That of a memory file needs neither a file system that can be written nor one that lets its
files be executed, but it needs /proc. Without that, the object is for a moment a file that only this user can open.
"""
import ctypes
import os
import tempfile
from typing import Iterator, Optional

from . import StartError, installation, memfile

DIRECTORIES = "/run", "/dev/shm", "/tmp", "/var/tmp"

MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}  # e_machine, as uname -m says it


def load(image: bytes) -> ctypes.CDLL:
    """Raises StartError when it is for other hosts than this one, or when this one has no place to load it from."""
    failure = None
    for path in _places(image):
        try:
            return ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            failure = error
    raise StartError(f"the shim in {installation.PATH} cannot be loaded{_reason(image, failure)}")


def _reason(image: bytes, failure: Optional[OSError]) -> str:
    built_for = MACHINES.get(int.from_bytes(image[18:20], "little"), "another machine")
    if built_for != os.uname().machine:
        return f", as it was built for {built_for}: copy the file that was built for {os.uname().machine}"
    if failure is None:
        return f", as no file can be written to memory nor to {', '.join(DIRECTORIES)}: see that one can"
    if not os.path.exists("/proc/self/fd"):
        return f", as /proc is not mounted and no file can be executed in {', '.join(DIRECTORIES)}: mount /proc"
    return f" ({failure}): run `make dist` on this host, or on one whose C library is not newer, and copy its file"


def _places(image: bytes) -> Iterator[str]:
    """Paths of the object, each good until the next is asked for."""
    try:
        with open(memfile.create("gwlbtun.so"), "wb") as file:
            file.write(image)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    except OSError:
        pass
    for directory in DIRECTORIES:
        try:
            with tempfile.NamedTemporaryFile(dir=directory, prefix="gwlbtun-", suffix=".so") as file:
                file.write(image)
                file.flush()
                yield file.name
        except OSError:
            pass
