# SPDX-License-Identifier: MIT-0
"""Network namespaces with names, as `ip netns` knows them (ip-netns(8)): made, entered and deleted.

A thread enters one for as long as it makes something there: a device or a socket belongs to the namespace that its maker is
in, and can then be used from anywhere. A process inherits the namespace of the thread that starts it, and so does a thread,
so nothing that is to stay in our own namespace may be started inside.

An alias of the loopback interface marks a namespace that gwlbtun has made. The mark goes with the namespace, and tells what a
gwlbtun that was killed has left from what the operator has made.
"""
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
import threading
import time
from typing import Callable, ContextManager, Iterator, Optional, Tuple

from . import StartError, privilege, rtnetlink

DIRECTORY = "/run/netns"
MARK = "made by gwlbtun"
RETRY_S = 0.1

# <linux/sched.h>, <sys/mount.h>, <linux/nsfs.h>, <linux/sockios.h>
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2
_NS_GET_NSTYPE = 0xB703
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1

_SYSCTLS = (("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
            ("ipv6/conf/default/addr_gen_mode", "1"))  # no link-local addresses
_LOOPBACK = 1  # its index, in every network namespace

_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p
_libc.umount2.argtypes = ctypes.c_char_p, ctypes.c_int


def prepare(sweep: bool) -> None:
    """Makes the place for names, and sees whether namespaces can be made. sweep: nobody has any of those that a gwlbtun has
    made. Raises StartError."""
    with _told():
        os.makedirs(DIRECTORY, 0o755, exist_ok=True)
        _share_directory()
        with _excursion(_unshare):
            pass
        if sweep:
            _sweep()


def try_out() -> None:
    """Sees whether prepare() would succeed, and changes nothing. Raises StartError."""
    with _told():
        if not os.access(DIRECTORY if os.path.isdir(DIRECTORY) else os.path.dirname(DIRECTORY), os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        try:
            _check(_libc.umount2(b"/proc/self/status", _MNT_DETACH))
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is no mount point; but mounts may be changed here
                raise
        with _excursion(_unshare):
            pass


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EPERM:
            advice = f"{DIRECTORY} must be writable, and the kernel must have CONFIG_NET_NS"
        elif privilege.permitted(privilege.CAP_SYS_ADMIN):
            advice = "something forbids it, such as RestrictNamespaces= or SystemCallFilter= of the unit (docs/OPERATIONS.md)"
        else:
            advice = "run as root, or with the capability CAP_SYS_ADMIN"
        raise StartError(f"--netns cannot make network namespaces ({error.strerror}): {advice}") from None


def _share_directory() -> None:
    """Lets mounts in the directory appear in all mount namespaces that follow this one, as ip-netns(8) does."""
    directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # so does `ip netns`
        try:
            _mount("none", DIRECTORY, _MS_SHARED | _MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is no mount point yet
                raise
            _mount(DIRECTORY, DIRECTORY, _MS_BIND | _MS_REC)
            _mount("none", DIRECTORY, _MS_SHARED | _MS_REC)
    finally:
        os.close(directory)


def _sweep() -> None:
    """Removes what a gwlbtun that was killed has left."""
    for name in os.listdir(DIRECTORY):
        if re.fullmatch(r"vpce-[0-9a-f]{17}", name):
            with contextlib.suppress(OSError):
                fd = _open(os.path.join(DIRECTORY, name))
                if fd is not None:
                    os.close(fd)


def _open(path: str, adopted: bool = False) -> Optional[int]:
    """Opens the namespace that has the name, if there is one. Raises OSError.

    What a gwlbtun that was killed has left goes, unless it is adopted from the program before: hooks may have renamed gwi.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _is_namespace(fd):
            with _excursion(lambda: _set(fd)):
                left_over = not adopted and rtnetlink.alias(_LOOPBACK) == MARK and not _has_interface("gwi")
            if not left_over:
                return fd
            _unmount(path)
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


class Namespace:
    """A named network namespace: the one that exists already, or a new one. Any thread may call all methods."""

    def __init__(self, name: str, adopted: bool = False):
        """adopted: the program before had it. Raises OSError."""
        self.name = name
        self.made = False  # by us, so it goes with close()
        self._path = os.path.join(DIRECTORY, name)
        self._lock = threading.Lock()  # held while the descriptor is used and while it is closed
        self._fd = _open(self._path, adopted)
        if self._fd is None:
            self._fd = self._make()
        self._inode = _inode(os.fstat(self._fd))

    def _make(self) -> int:
        os.close(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0))
        try:
            with _excursion(_unshare):
                _furnish()
                fd = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _mount(_OWN, self._path, _MS_BIND)
                except OSError:
                    os.close(fd)
                    raise
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            raise
        self.made = True
        return fd

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside. Raises OSError."""
        with _excursion(self._enter):
            yield

    def _enter(self) -> None:
        with self._lock:
            if self._fd is None:
                raise OSError(errno.ENOENT, f"the network namespace {self.name} is gone")
            _set(self._fd)

    def is_here(self) -> bool:
        """Whether the name still leads to it."""
        try:
            return _inode(os.stat(self._path)) == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Deletes it if we have made it. Processes inside keep it, without its name."""
        if self.made and self.is_here():
            with contextlib.suppress(OSError):
                _unmount(self._path)
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


def inside(namespace: Optional[Namespace]) -> ContextManager[None]:
    """The calling thread is in that namespace; without one it stays where it is. Raises OSError."""
    return namespace.entered() if namespace else contextlib.nullcontext()


def _furnish() -> None:
    """Sets up the new namespace that the calling thread is in.

    Only gwi and gwo will be here. Their packets never come by the way that the reverse path filter looks for, and Linux need
    not look for IPv6 routers and neighbours on them. Where /proc/sys is read-only, rpfilter.py tells what matters.
    """
    rtnetlink.set_alias(_LOOPBACK, MARK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    for name, value in _SYSCTLS:
        with contextlib.suppress(OSError), open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write(value)


# ---- The calling thread ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _excursion(go: Callable[[], None]) -> Iterator[None]:
    """The calling thread is in the namespace that go() takes it to."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        go()
        try:
            yield
        finally:
            _return(home)
    finally:
        os.close(home)


def _unshare() -> None:
    _check(_libc.unshare(_CLONE_NEWNET))


def _set(fd: int) -> None:
    _check(_libc.setns(fd, _CLONE_NEWNET))


def _return(home: int) -> None:
    """Does not come back before the thread is home, where all else that it does belongs."""
    while True:
        try:
            _set(home)
            return
        except OSError:  # no memory
            time.sleep(RETRY_S)


# ---- Names -----------------------------------------------------------------------------------------------------------


def _is_namespace(fd: int) -> bool:
    """Or it is only the file that one had been mounted on."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _inode(status: os.stat_result) -> Tuple[int, int]:
    return status.st_dev, status.st_ino


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), b"none", flags, None))


def _unmount(path: str) -> None:
    _check(_libc.umount2(path.encode(), _MNT_DETACH))
    os.unlink(path)


def _check(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _has_interface(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False
