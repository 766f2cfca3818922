# SPDX-License-Identifier: MIT-0
"""The one file that `make dist` builds, and places where it must run."""
import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterable, Iterator, List, Optional

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = b"# ---- The archive\n"


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """One test at a time builds that in the project, whatever the process that the test runs in."""
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / f"{what}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def built() -> Path:
    with building("dist"):
        subprocess.run(["make", "-s", "-C", ROOT, "dist"], check=True, timeout=300)
    return ROOT / "dist" / "gwlbtun"


@pytest.fixture
def onefile(built, tmp_path) -> Path:
    """A copy, alone in a directory."""
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(built, tmp_path / "alone"))


def libraries(files: Iterable[Path]) -> List[Path]:
    """The shared objects that these files are linked with, and the dynamic linker."""
    text = subprocess.run(["ldd", *files], stdout=subprocess.PIPE, universal_newlines=True, check=False, timeout=60).stdout
    return sorted({Path(word) for word in text.replace("=>", " ").split() if word.startswith("/") and word[-1] != ":"})


def _libgcc() -> Optional[Path]:
    """What the C library opens when a thread ends early; every system has it."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        ctypes.CDLL("libgcc_s.so.1")
        return next((Path(line.split()[-1]) for line in maps if "/libgcc_s.so" in line), None)


class Jail:
    """A directory with Python in it and nothing else, to be / of a process."""

    def __init__(self, directory: Path):
        self.directory = directory
        interpreter = Path(os.path.realpath(sys.executable))
        self.library = Path(os.path.realpath(os.__file__)).parent
        env = Path(os.path.realpath(shutil.which("env")))
        loaded = [interpreter, env]
        loaded += filter(None, [_libgcc()])
        for path in [*loaded, *libraries([*loaded, *(self.library / "lib-dynload").glob("*.so")])]:
            self.add(path, path)
        (directory / "usr/bin").mkdir(parents=True, exist_ok=True)
        for link, target in ("usr/bin/python3", interpreter), ("usr/bin/env", env):
            if not (directory / link).exists():
                (directory / link).symlink_to(target)
        (self.directory / str(self.library)[1:]).mkdir(parents=True)
        (self.directory / "proc").mkdir()
        (self.directory / "dev/net").mkdir(parents=True)
        (self.directory / "dev/net/tun").touch()

    def add(self, source: Path, name: object) -> Path:
        target = self.directory / str(name).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source, target))

    def command(self, *words: object, proc: bool = True) -> List[str]:
        """The words that start a command in it, in a mount namespace of its own."""
        mounts = f"mount --bind -o ro {self.library} {self.directory}{self.library}; " \
                 f"mount --bind /dev/net/tun {self.directory}/dev/net/tun; "
        if proc:
            mounts += f"mount -t proc proc {self.directory}/proc; "
        mounts += "unset PYTHONPYCACHEPREFIX; "  # Python would make the directory
        return ["unshare", "--mount", "sh", "-ec", mounts + f'exec chroot {self.directory} "$@"', "sh", *map(str, words)]
