# SPDX-License-Identifier: MIT-0
"""Where a daemon and those who ask it meet: the path of the control socket.

Daemons in several network namespaces share one file system. So a daemon never takes a path where another one answers: it
takes a name with its process ID beside it. What a killed daemon has left behind is replaced. Daemons that look for a path at
the same time take turns by a lock on the directory.
"""
import contextlib
import errno
import fcntl
import grp
import os
import re
import socket
import stat
import struct
import time
from typing import Iterator, List, Optional, Tuple

from . import StartError
from .logs import CORE, Log

DEFAULT_PATH = "/run/gwlbtun/control.sock"
GROUP = "gwlbtun"  # whose members may ask, too, if there is such a group
PROTOCOL = 1       # version of what is spoken there: control.py describes it, and layout.py the records of flows
PATH_BYTES = 107   # sun_path of <linux/un.h>, less its last byte
BACKLOG = 64
LOCK_S = 2.0

_SUFFIX_BYTES = len("-4194304")  # the largest process ID of Linux


def control_path(text: str) -> str:
    """A check for the path of a control socket."""
    longest = PATH_BYTES - _SUFFIX_BYTES
    if not text.startswith("/"):
        raise ValueError(f"'{text}' is not an absolute path: give one such as {DEFAULT_PATH}, or '' for no control socket")
    if text.endswith("/"):
        raise ValueError(f"'{text}' is a directory: give the path of a socket in it, such as {text}control.sock")
    if len(os.fsencode(text)) > longest:
        raise ValueError(f"the path is too long for a socket: give one of at most {longest} bytes")
    return text


def with_pid(path: str, pid: int) -> str:
    """The path that the process takes when another one answers at `path`."""
    stem, extension = os.path.splitext(path)
    return f"{stem}-{pid}{extension}"


def siblings(path: str) -> List[str]:
    """The path, and those with a process ID that are there beside it. Raises OSError when the directory cannot be read."""
    stem, extension = os.path.splitext(os.path.basename(path))
    pattern = re.compile(re.escape(stem) + r"(-[0-9]+)?" + re.escape(extension))
    directory = os.path.dirname(path)
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if pattern.fullmatch(name)]


def peer(connected: socket.socket) -> Tuple[int, int, int]:
    """Whoever is at the other end: process ID (0 in another PID namespace), user and group."""
    process, user, group = struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user, group


class Claim:
    """A listening socket, and its path, which is ours."""

    def __init__(self, listener: socket.socket, path: str):
        """Raises OSError when there is nothing at the path."""
        self.listener = listener
        self.path = path
        self._status = os.lstat(path)

    @property
    def group(self) -> Optional[int]:
        """The group whose members may ask."""
        return self._status.st_gid if self._status.st_mode & stat.S_IWGRP else None

    def release(self) -> None:
        """Removes the socket, unless somebody has put another in its place, and stops listening."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), self._status):
                os.unlink(self.path)
        self.listener.close()


def inherit(listener: socket.socket, path: str, asked: str) -> Optional[Claim]:
    """What another program of this process has claimed, if it is still there and is what an option asks for."""
    try:
        found = Claim(listener, path)
        if path in (asked, with_pid(asked, os.getpid())):
            return found
        found.release()
    except OSError:
        listener.close()
    return None


def claim(path: str, log: Log) -> Optional[Claim]:
    """Listens at the path, or at one with our process ID.

    Without a default path gwlbtun goes on, and only an info line tells of it. Raises StartError when somebody has asked for
    the path.
    """
    try:
        if path == DEFAULT_PATH:
            _make_directory(os.path.dirname(path))
        found = _claim(path)
    except OSError as error:
        why = f"cannot make the control socket {path}: {error.strerror}"
        if path != DEFAULT_PATH:
            raise StartError(f"{why}; choose another path with --control, or --control '' for none") from None
        log.info(CORE, f"gwlbtun {why}. `show` cannot ask this gwlbtun; --control gives it another path.")
        return None
    if found.path != path:
        log.important(CORE, f"Another process answers at {path}: `show --pid {os.getpid()}` asks this one, at {found.path}.")
    return found


def _make_directory(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        os.chmod(path, 0o755)  # whatever the umask


def _claim(path: str) -> Claim:
    directory = os.path.dirname(path)
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
        raise OSError(errno.EPERM, f"others may rename files in {directory}")
    with _locked(directory):
        for candidate in (path, with_pid(path, os.getpid())):
            if _is_free(candidate):
                return Claim(_listen(candidate), candidate)
    raise OSError(errno.EADDRINUSE, "other processes answer there")


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(errno.EBUSY, f"another process holds a lock on {directory}") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _is_free(path: str) -> bool:
    """Removes a socket at which nobody answers. Raises OSError when there is something else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return True
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name which is not a socket")
    if _answers(path):
        return False
    os.unlink(path)
    return True


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it has too much to do, or it is somebody else's
            return True
        return True


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)  # before bind(), so that the file never has another mode
        listener.bind(path)
        _admit_group(path)
        listener.listen(BACKLOG)
        return listener
    except OSError:
        listener.close()
        raise


def _admit_group(path: str) -> None:
    try:
        group = grp.getgrnam(GROUP).gr_gid
        if os.lstat(path).st_gid != group:
            os.chown(path, -1, group, follow_symlinks=False)
    except (KeyError, OSError):  # there is no such group, or we may not give anything to it: so it stays ours alone
        return
    os.chmod(path, 0o660)
