# SPDX-License-Identifier: MIT-0
"""The program as files: where it is, what comes with it, and how it is started once more.

It is a clone of the project with gwlbtun.py, or the one file that `make dist` builds. A module has no path to open in the
latter, so what comes with the package is read by read().
"""
import contextlib
import os
import pkgutil
import sys
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

from . import memfile

ARCHIVE: Optional[str] = getattr(__spec__.loader, "archive", None)  # the one file, if this runs from it
NAME = "gwlbtun" if ARCHIVE else "gwlbtun.py"
MARK = b"\n# ---- The archive\n"  # tools/onefile_head.py
ORIGIN = "GWLBTUN_FILE"  # in the environment of a program that starts from a memory file: the path of what that is a copy of


def _clone() -> str:
    """The gwlbtun.py of this clone, by the path that it was started by: where a symbolic link leads may change."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), NAME)
    started = getattr(sys.modules["__main__"], "__file__", None) or path
    return os.path.abspath(started) if os.path.realpath(started) == path else path


PATH = ARCHIVE or _clone()


def read(name: str) -> bytes:
    """A file that comes with the package, by its path from the package's directory. Raises OSError when there is none."""
    data = pkgutil.get_data(__package__, name)
    assert data is not None  # both loaders can read
    return data


def command() -> List[str]:
    """The words that start this program once more; arguments follow."""
    return [sys.executable or "python3", PATH]


@contextlib.contextmanager
def copied() -> Iterator[int]:
    """The one file as it is now, in a memory file, so that what starts from that is the same however often and whatever becomes
    of the file. -1 for a clone, for what needs files beside it, or where there is no /proc. Raises OSError."""
    if not ARCHIVE or not os.path.isdir("/proc/self/fd"):
        yield -1
        return
    with open(ARCHIVE, "rb") as file:
        data = file.read()
    if MARK not in data:
        yield -1
        return
    with open(memfile.create("gwlbtun"), "wb") as copy:
        copy.write(data)
        copy.flush()
        yield copy.fileno()


def copied_command(fd: int) -> Tuple[List[str], Dict[str, str]]:
    """As command(), for the copy that will have this number; and what has to be in the environment. -1: for the files."""
    if fd < 0:
        return command(), {}
    return [command()[0], f"/proc/self/fd/{fd}"], {ORIGIN: PATH}


def fingerprint(others: Iterable[str]) -> List[Tuple[str, Tuple[int, ...]]]:
    """Changes when a file of the program does, or one of the others: it is replaced, written to or removed."""
    paths = [sys.executable, PATH, *others]
    if not ARCHIVE:
        here = os.path.dirname(os.path.realpath(PATH))
        paths += [os.path.join(here, "native", "gwlbtun.so")]
        paths += [os.path.join(directory, name) for directory, _, names in os.walk(os.path.join(here, "gwlbtun"))
                  for name in names if os.path.basename(directory) != "__pycache__"]
    return sorted((path, _traits(path)) for path in paths)


def _traits(path: str) -> Tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
