# SPDX-License-Identifier: MIT-0
"""The U threads: each receives from the load balancer on its own socket, and stays in the fast path while it can."""
import contextlib
import ctypes
import errno
import socket
import struct
import threading
from typing import Dict, List, Sequence, Tuple

from . import StartError, fastpath
from .geneve import PORT
from .logs import CORE, UDP, Log
from .privilege import Rights
from .settings import Place, Settings
from .worker import Worker

# <linux/udp.h>, <asm-generic/socket.h>, <linux/in.h>: not all of them are in Python's socket module.
_SOL_UDP, _UDP_GRO = 17, 104
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_SO_BUSY_POLL, _SO_PREFER_BUSY_POLL, _SO_BUSY_POLL_BUDGET = 46, 69, 70
_IP_PKTINFO = 8
NOWHERE = "127.0.0.1", 9  # discard: nothing comes from there
INTERRUPT_S = 0.002       # between two signals to a thread that has yet to wake
BUSY_POLL_BUDGET = 64  # packets that one poll takes from a queue: as many as an interrupt does
_MEMINFO = struct.Struct("9I")  # <linux/sock_diag.h>: SK_MEMINFO_RMEM_ALLOC to SK_MEMINFO_DROPS
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_SOCK_FPROG = struct.Struct("@HP")  # <linux/filter.h>


def open_sockets(settings: Settings, log: Log, inherited: Sequence[socket.socket] = ()) -> List[socket.socket]:
    """Opens a socket for each U thread; the kernel spreads flows among them. Raises StartError when the port is taken.

    inherited: from another program. Those come first.
    """
    try:
        if not inherited:
            with _udp_socket() as alone:  # SO_REUSEPORT would let us join another handler of the same user unnoticed
                alone.bind(("", PORT))
        for adopted in inherited:
            with contextlib.suppress(OSError):  # there is none, unless the program before was overloaded
                adopted.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        sockets, many = list(inherited[:len(settings.udp_places)]), inherited[len(settings.udp_places):]
        if many:
            log.critical(UDP, f"There are to be {len(many)} receivers fewer than in the rehearsal: what their sockets hold is "
                              "lost.")
        for superfluous in many:
            superfluous.close()
        while len(sockets) < len(settings.udp_places):
            sockets.append(_bound_socket())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"UDP port {PORT} is taken: stop the other program that uses it (`ss -lunp sport = :{PORT}` "
                             "names it) or, when that names none, delete the kernel's geneve or vxlan interface "
                             f"(`ip -d link | grep -B2 {PORT}` shows it)") from None
        raise StartError(f"cannot receive on UDP port {PORT}: {error.strerror}") from None
    set_up(sockets, settings, log, anew=bool(inherited))
    return sockets


def set_up(sockets: List[socket.socket], settings: Settings, log: Log, anew: bool = False) -> None:
    """anew: they may have been set up by other settings."""
    if anew or "udp-gro" in settings.offload:
        try:
            for receiver in sockets:
                receiver.setsockopt(_SOL_UDP, _UDP_GRO, "udp-gro" in settings.offload)
        except OSError as error:
            log.info(UDP, f"This kernel has no UDP_GRO ({error.strerror}): gwlbtun receives without it.")
    if anew or settings.busypoll_us:
        _poll_busily(sockets, settings.busypoll_us, log)
    _size_buffers(sockets, settings.rcvbuf_mb, log)


def _bound_socket() -> socket.socket:
    bound = _udp_socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("", PORT))
    bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    return bound


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


def _poll_busily(sockets: List[socket.socket], microseconds: int, log: Log) -> None:
    """Lets a receiver that waits take packets from the card's queue itself (Documentation/networking/napi.rst)."""
    try:
        for receiver in sockets:
            receiver.setsockopt(socket.SOL_SOCKET, _SO_BUSY_POLL, microseconds)
    except OSError as error:
        reason = "the capability CAP_NET_ADMIN is missing" if error.errno == errno.EPERM else error.strerror
        log.important(CORE, f"The kernel refuses --busypoll ({reason}): receivers sleep until a packet comes.")
        return
    try:
        for receiver in sockets:
            receiver.setsockopt(socket.SOL_SOCKET, _SO_PREFER_BUSY_POLL, bool(microseconds))
            receiver.setsockopt(socket.SOL_SOCKET, _SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
    except OSError as error:  # Linux 5.11
        log.info(UDP, f"This kernel does not prefer busy polling ({error.strerror}): interrupts go on beside it.")


def raw_socket(log: Log) -> int:
    """Returns a raw IPv4 socket, for source ports that no UDP socket can bind; -1 without the capability for it."""
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).detach()
    except OSError as error:
        log.info(UDP, f"No raw socket to fall back on ({error.strerror}): gwlbtun cannot send from ports that others hold.")
        return -1


# Why the kernel drops packets before a receiver has them: the buffer is full, or the sieve of overload.py refuses them.
SOCKET_DROPS = "the receivers do not keep up with what comes: see --rcvbuf, and what the log says of overload"


class Receiver:
    """One U thread."""

    def __init__(self, index: int, place: Place, handler: fastpath.Handler, udp_socket: socket.socket, log: Log):
        self.index = index
        self._place = place
        self._log = log
        self._handler = handler
        self._socket = udp_socket
        self._drops = 0
        self._drops_before = 0  # of sockets that are no more
        self._drops_lock = threading.Lock()
        self.worker = self._make_worker()

    def _make_worker(self) -> Worker:
        place = self._place
        return Worker(self._log, place.name, self._receive, place.number, place.core, vital=True, rights=Rights.PACKETS)

    def counters(self) -> Dict[str, int]:
        """The counters of the thread, and socket_drops: what the kernel dropped, mostly for want of buffer."""
        return {**self._handler.receiver_counters(self.index), "socket_drops": self._socket_drops()}

    def _socket_drops(self) -> int:
        # SO_RXQ_OVFL would tell it, too, but with each datagram once there has been a loss.
        with self._drops_lock:
            try:
                _, _, drops = self.queue()
                self._drops += (drops - self._drops) % (1 << 32)
            except OSError:  # closed, as the thread has failed
                pass
            return self._drops_before + self._drops

    def add_socket_drops(self, count: int) -> None:
        """Those of a receiver that is no more."""
        with self._drops_lock:
            self._drops_before += count

    def packets(self) -> Tuple[int, float]:
        """How many it has received so far, and the bytes of one on average."""
        counters = self._handler.receiver_counters(self.index)
        return counters["packets_in"], counters["bytes_in"] / max(1, counters["packets_in"])

    def queue(self) -> Tuple[int, int, int]:
        """The memory that its queue takes, and may take; datagrams refused so far. Raises OSError if the socket is closed."""
        taken, room, *_, dropped = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
        return taken, room, dropped

    def sift(self, program: bytes) -> None:
        """Has the kernel drop what this classic BPF program refuses, before it is queued. Raises OSError."""
        code = ctypes.create_string_buffer(program, len(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                                _SOCK_FPROG.pack(len(program) // 8, ctypes.addressof(code)))

    def sift_no_more(self) -> None:
        """Raises OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def stalled(self) -> int:
        """At how many looks in a row it has left its work undone (native/progress.h)."""
        return self._handler.receiver_stalled(self.index, self._socket.fileno())

    def wake(self) -> None:
        """After Handler.stop(): wakes the thread, so that it notices."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:  # ENOTCONN, and yet it has woken: Linux does both
            pass

    # ---- A restart in place ------------------------------------------------------------------------------------------

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def retire(self) -> None:
        """It is to get no more: a connected socket leaves those among which the kernel spreads flows."""
        self._socket.connect(NOWHERE)

    @property
    def is_empty(self) -> bool:
        """Whether its socket holds no packet."""
        taken, _, _ = self.queue()
        return not taken

    def reopen(self, settings: Settings) -> None:
        """After retire(), while the thread does not run. Raises OSError."""
        fresh = _bound_socket()
        set_up([fresh], settings, self._log)
        self._socket.close()
        self._socket = fresh

    def pause(self) -> None:
        """After Handler.pause(): returns when the thread has ended, at a batch boundary."""
        while self.worker.alive:
            self.worker.interrupt()
            self.worker.join(INTERRUPT_S)

    def go_on(self) -> None:
        """After pause() and Handler.pause(False). Raises RuntimeError when the system has no room for a thread."""
        worker = self._make_worker()
        worker.start()
        self.worker = worker

    def _receive(self) -> None:
        try:
            self._handler.receive(self.index, self._socket.fileno())
        except Exception:
            self._socket.close()  # so the kernel gives its flows to the other sockets until the daemon stops
            raise
