# SPDX-License-Identifier: MIT-0
"""TUN devices (Documentation/networking/tuntap.rst): probes for them, makes them and sets them up."""
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from typing import FrozenSet, List, Optional, Tuple

from . import StartError, fastpath, rtnetlink
from .netns import Namespace, inside

MTU = 8500  # the inner packets of Gateway Load Balancer
TX_QUEUE_GIVEN = 500         # packets that the kernel lets each queue of a TUN device hold (TUN_READQ_SIZE)
TX_QUEUE = 10_000            # for one that carries traffic; each takes 8 bytes of kernel memory
TX_QUEUE_RESTART = 50_000    # while gwlbtun restarts in place: a second of 50,000 packets a second
TX_QUEUES_FIRST = 32_000     # of all queues together, for a device that has not carried much yet

# <linux/if_tun.h>
_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_IFF_TUN, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x0100, 0x4000, 0x8000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN, _TUN_F_USO4, _TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_MERGE_TCP = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
_MERGE_UDP = _TUN_F_USO4 | _TUN_F_USO6  # Linux 6.2

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCGIFTXQLEN, _SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8922, 0x8942, 0x8943
_IFF_UP = 0x1

# <linux/udp.h>
_SOL_UDP, _UDP_SEGMENT = 17, 103

def _offload_flags(offloads: int) -> int:
    return ((_MERGE_TCP if offloads & fastpath.OFFLOAD_MERGE_TCP else 0)
            | (_MERGE_UDP if offloads & fastpath.OFFLOAD_MERGE_UDP else 0))


def _open_queue(name: str, exclusive: bool) -> int:
    """Opens a queue of the device of that name; the first one makes the device. %d in a name means a free number."""
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:  # whose text names the file
        raise OSError(error.errno, f"cannot open {_DEVICE}: {error.strerror}") from None
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_MULTI_QUEUE | _IFF_VNET_HDR | (_IFF_TUN_EXCL if exclusive else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        if error.errno == errno.ENOTTY:
            raise OSError(error.errno, f"{_DEVICE} is another device") from None
        raise
    return fd


def probe(wanted: FrozenSet[str]) -> int:
    """The wanted offloads (checks.OFFLOADS) that the kernel grants, as enum gw_offload.

    Raises StartError when gwlbtun cannot make a TUN interface.
    """
    try:
        fd = _open_queue("gwprobe%d", exclusive=False)
    except FileNotFoundError:
        raise StartError(f"there is no {_DEVICE}: run `modprobe tun`, or give the container that device") from None
    except PermissionError:
        raise StartError("no right to make TUN interfaces: run as root, or with the capability CAP_NET_ADMIN "
                         f"and {_DEVICE} writable") from None
    except OSError as error:
        raise StartError(f"{_DEVICE} makes no TUN interface ({error.strerror}): "
                         "gwlbtun needs Linux 5.10 or newer, with the tun module") from None
    granted = 0
    try:
        if "tun" in wanted:
            for offload in (fastpath.OFFLOAD_MERGE_TCP, fastpath.OFFLOAD_MERGE_UDP):
                try:
                    fcntl.ioctl(fd, _TUNSETOFFLOAD, _offload_flags(granted | offload))
                    granted |= offload
                except OSError:
                    break
    finally:
        os.close(fd)
    if "udp-gso" in wanted:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
            try:
                probe_socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
                granted |= fastpath.OFFLOAD_UDP_GSO
            except OSError:
                pass
    return granted


class Device:
    """A TUN interface of this process. It exists as long as one of its queues is open."""

    def __init__(self, name: str, queues: int, offloads: int, namespace: Optional[Namespace] = None):
        """Makes it, down; offloads: enum gw_offload. Raises OSError, whose text says what to do."""
        self.name = name
        self.index = 0  # in its namespace
        self.fds: List[int] = []
        self._namespace = namespace
        self._tx_queue = TX_QUEUE_GIVEN
        try:
            with inside(namespace):
                self._make(queues, offloads)
        except OSError as error:
            self.close()
            if error.errno == errno.EBUSY:
                raise OSError(error.errno, f"somebody else has an interface {name}: "
                                           f"delete it with {self.ip} link delete {name}") from None
            raise

    def _make(self, queues: int, offloads: int) -> None:
        self.fds.append(_open_queue(self.name, exclusive=True))
        self.index = socket.if_nametoindex(self.name)
        fcntl.ioctl(self.fds[0], _TUNSETOFFLOAD, _offload_flags(offloads))
        self._configure(_SIOCSIFMTU, struct.pack("i", MTU))
        while len(self.fds) < queues:
            self.fds.append(_open_queue(self.name, exclusive=False))

    @classmethod
    def adopt(cls, name: str, index: int, tx_queue: int, fds: List[int], offloads: int,
              namespace: Optional[Namespace] = None) -> "Device":
        """The device that another program has made, by its queues. Raises OSError when they are no queues of a device."""
        device = cls.__new__(cls)
        device.name, device.index, device._tx_queue, device._namespace = name, index, tx_queue, namespace
        device.fds = fds
        for fd in fds:
            fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
        fcntl.ioctl(fds[0], _TUNSETOFFLOAD, _offload_flags(offloads))
        return device

    def add_queues(self, queues: int) -> None:
        """Until it has so many. Raises OSError."""
        name = self._name_now()
        with inside(self._namespace):
            while len(self.fds) < queues:
                self.fds.append(_open_queue(name, exclusive=False))

    def lengthen(self) -> None:
        """Lets its queues hold what comes while gwlbtun restarts in place."""
        self._set_tx_queue(TX_QUEUE_RESTART)

    @property
    def ip(self) -> str:
        """The command for it."""
        return f"ip -n {self._namespace.name}" if self._namespace else "ip"

    @property
    def tx_queue(self) -> int:
        """The length that gwlbtun has given its queues."""
        return self._tx_queue

    def up(self) -> None:
        with inside(self._namespace):
            flags, = struct.unpack_from("H", self._configure(_SIOCGIFFLAGS, b""), 16)
            self._configure(_SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP))

    def settle(self) -> None:
        """After the create hook: lengthens its queues, and replaces a root qdisc that is still the kernel's own by noqueue.

        The device has queues of its own, so another one in front would only cost. By default there is one for each of the 256
        queues that Linux gives a multi-queue TUN. A qdisc that a hook has put there stays.
        """
        with contextlib.suppress(OSError), inside(self._namespace):  # the device works without this, at a price
            if self.is_here() and not rtnetlink.has_own_qdisc(self.index):
                rtnetlink.use_no_queue(self.index)
        self._set_tx_queue(min(TX_QUEUES_FIRST // len(self.fds), TX_QUEUE))

    def widen(self) -> None:
        """For a device that carries traffic: gives its queues their full length."""
        self._set_tx_queue(TX_QUEUE)

    def _set_tx_queue(self, packets: int) -> None:
        """Sets the length of each queue, unless a hook has chosen it."""
        with contextlib.suppress(OSError), inside(self._namespace):
            length, = struct.unpack_from("i", self._configure(_SIOCGIFTXQLEN, b""), 16)
            if length == self._tx_queue != packets:
                self._configure(_SIOCSIFTXQLEN, struct.pack("i", packets))
                self._tx_queue = packets

    def look(self) -> Tuple[str, bool]:
        """Its name, and whether it is up, in whatever namespace it is. Raises OSError when it has been deleted."""
        poll = select.poll()
        poll.register(self.fds[0], select.POLLOUT)  # tun_chr_poll(): what is down takes nothing
        return self._name_now(), bool(poll.poll(0))

    def is_here(self) -> bool:
        """Whether it is in the namespace where it was made. A hook may have moved it, and another may have its index here.

        Raises OSError when it has been deleted.
        """
        name = self._name_now()
        with inside(self._namespace):
            try:
                return socket.if_nametoindex(name) == self.index
            except OSError:
                return False

    def close(self) -> None:
        """Deletes it, unless that is done. Closing its queues is not enough: a child process that is starting may hold copies
        of them."""
        with contextlib.suppress(OSError), inside(self._namespace):
            if self.fds and self.is_here():
                rtnetlink.delete_link(self.index)
        while self.fds:
            os.close(self.fds.pop())

    def _name_now(self) -> str:
        """Somebody may have renamed it."""
        return fcntl.ioctl(self.fds[0], _TUNGETIFF, bytes(40))[:16].partition(b"\0")[0].decode(errors="replace")

    def _configure(self, request: int, value: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return fcntl.ioctl(control, request, struct.pack("16s24s", self.name.encode(), value))
