# SPDX-License-Identifier: MIT-0
"""The U threads: each receives from the load balancer on its own socket, and stays in the fast path while it can."""
import errno
import socket
import struct
import threading
from typing import Dict, List

from . import StartError, fastpath
from .geneve import PORT
from .logs import CORE, UDP, Log
from .settings import Place, Settings
from .worker import Worker

# <linux/udp.h>, <asm-generic/socket.h>, <linux/in.h>: not all of them are in Python's socket module.
_SOL_UDP, _UDP_GRO = 17, 104
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_IP_PKTINFO = 8
_MEMINFO = struct.Struct("9I")  # <linux/sock_diag.h>: SK_MEMINFO_RMEM_ALLOC to SK_MEMINFO_DROPS


def open_sockets(settings: Settings, log: Log) -> List[socket.socket]:
    """Opens a socket for each U thread; the kernel spreads flows among them. Raises StartError when the port is taken."""
    try:
        with _udp_socket() as alone:  # SO_REUSEPORT would let us join another handler of the same user unnoticed
            alone.bind(("", PORT))
        sockets = []
        for _ in settings.udp_places:
            sockets.append(_udp_socket())
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets[-1].bind(("", PORT))
            sockets[-1].setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"UDP port {PORT} is taken: stop the other program that uses it (`ss -lunp sport = :{PORT}` "
                             "names it) or, when that names none, delete the kernel's geneve or vxlan interface "
                             f"(`ip -d link | grep -B2 {PORT}` shows it)") from None
        raise StartError(f"cannot receive on UDP port {PORT}: {error.strerror}") from None
    if "udp-gro" in settings.offload:
        try:
            for receiver in sockets:
                receiver.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError as error:
            log.info(UDP, f"This kernel has no UDP_GRO ({error.strerror}): gwlbtun receives without it.")
    _size_buffers(sockets, settings.rcvbuf_mb, log)
    return sockets


def _udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def buffer_size(receiver: socket.socket) -> int:
    """Its receive buffer in the units of rmem_max. The kernel reports twice that, to cover its own overhead."""
    return receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def _size_buffers(sockets: List[socket.socket], megabytes: int, log: Log) -> None:
    asked = megabytes << 20
    for receiver in sockets:
        try:
            receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, asked)
        except OSError:  # it needs CAP_NET_ADMIN in the first user namespace
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked)
    granted = min(map(buffer_size, sockets))
    log.important(CORE, f"Receiving on UDP port {PORT} with {len(sockets)} threads, each with a receive buffer of "
                        f"{granted / (1 << 20):.4g} MB.")
    if granted < asked:
        log.important(CORE, f"The kernel caps receive buffers below the {megabytes} MB asked for: "
                            f"run sysctl -w net.core.rmem_max={asked}, or ask for less with --rcvbuf.")


def raw_socket(log: Log) -> int:
    """Returns a raw IPv4 socket, for source ports that no UDP socket can bind; -1 without the capability for it."""
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).detach()
    except OSError as error:
        log.info(UDP, f"No raw socket to fall back on ({error.strerror}): gwlbtun cannot send from ports that others hold.")
        return -1


class Receiver:
    """One U thread."""

    def __init__(self, index: int, place: Place, handler: fastpath.Handler, udp_socket: socket.socket, log: Log):
        self._index = index
        self._handler = handler
        self._socket = udp_socket
        self._drops = 0
        self._drops_lock = threading.Lock()
        self.worker = Worker(log, place.name, self._receive, place.number, place.core, vital=True)

    def counters(self) -> Dict[str, int]:
        """The counters of the thread, and socket_drops: what the kernel dropped, mostly for want of buffer."""
        return {**self._handler.receiver_counters(self._index), "socket_drops": self._socket_drops()}

    def _socket_drops(self) -> int:
        # SO_RXQ_OVFL would tell it, too, but with each datagram once there has been a loss.
        with self._drops_lock:
            try:
                *_, drops = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
            except OSError:  # closed, as the thread has failed
                return self._drops
            self._drops += (drops - self._drops) % (1 << 32)
            return self._drops

    def wake(self) -> None:
        """After Handler.stop(): wakes the thread, so that it notices."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:  # ENOTCONN, and yet it has woken: Linux does both
            pass

    def _receive(self) -> None:
        try:
            self._handler.receive(self._index, self._socket.fileno())
        except Exception:
            self._socket.close()  # so the kernel gives its flows to the other sockets until the daemon stops
            raise
