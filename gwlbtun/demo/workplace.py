# SPDX-License-Identifier: MIT-0
"""The place of one demo on the host: a directory in /run, and the namespaces named after it.

A lock on the directory says that its demo is alive; the kernel takes it away with the process. So what a demo has left that
was killed is told from what another one uses, and the next demo removes it.
"""
import contextlib
import errno
import fcntl
import os
import re
import shutil
from typing import Iterator

from .. import StartError
from . import netns

RUN = "/run"
NAME = "gwlbtun-demo"
MOST = 64  # demos at a time


class Workplace:
    """One demo's own, cleared of what another may have left there."""

    def __init__(self, number: int):
        """Raises BlockingIOError when another demo is at work there."""
        self.name = NAME + (str(number) if number > 1 else "")
        self.directory = os.path.join(RUN, self.name)
        self._lock = self._take()
        self._clear()

    def _take(self) -> int:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
            try:
                lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another demo has just removed it
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a file or a link, which is somebody else's
                    raise BlockingIOError(error.errno, error.strerror) from None
                raise
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self.directory)):
                    return lock
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _clear(self) -> None:
        for line in netns.ip("netns list").splitlines():
            name = line.split()[0]
            if re.fullmatch(f"{self.name}-[a-z]+", name):
                netns.remove(name)
        for entry in os.scandir(self.directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def close(self) -> None:
        try:
            self._clear()
            os.rmdir(self.directory)
        finally:
            os.close(self._lock)

    def namespace(self, role: str) -> netns.Namespace:
        """role: one word in small letters."""
        return netns.Namespace(f"{self.name}-{role}")

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def _numbers() -> Iterator[int]:
    """Those of demos that are there, alive or not."""
    for name in os.listdir(RUN):
        found = re.fullmatch(f"{NAME}([1-9][0-9]*)?", name)
        if found:
            yield int(found[1] or 1)


def sweep() -> None:
    """Removes what demos that were killed have left behind."""
    for number in _numbers():
        with contextlib.suppress(BlockingIOError):
            Workplace(number).close()


def claim() -> Workplace:
    """The first place that is free."""
    for number in range(1, MOST + 1):
        with contextlib.suppress(BlockingIOError):
            return Workplace(number)
    raise StartError(f"{MOST} demos are running already: end some")
