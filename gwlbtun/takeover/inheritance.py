# SPDX-License-Identifier: MIT-0
"""What a program takes over from the one that ran before in this process. Without one, there is nothing, and all is made anew.

There is no way back to the program before. So whatever cannot be taken over is made anew as well, alone, and the log says so.
A descriptor is taken once. It stays inheritable until then, which tells it from those that this program has opened; those that
nobody has taken are closed in the end.
"""
import functools
import math
import os
import socket
import stat
import time
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple

from .. import StartError, checks, fastpath, listener, memfile, rendezvous, web
from ..endpoints import Endpoints
from ..health import Health
from ..kernel.bequest import Bequest
from ..logs import CORE, Log
from ..patrol import Patrol
from ..receiver import Receiver
from ..sources import Sources
from ..watch import DropWatch
from . import state

TUN_DEVICE = os.makedev(10, 200)  # Documentation/admin-guide/devices.txt
IP = (socket.AF_INET, socket.AF_INET6)


class Inheritance:
    """True if another program ran before, even if nothing can be taken over from it."""

    def __init__(self, log: Log):
        self._log = log
        self._state, fault = state.received()
        self._before = bool(self._state or fault)
        if fault:
            log.critical(CORE, f"Restart in place: {fault}. gwlbtun starts afresh: its flows are forgotten, and its interfaces "
                               "made again.")
        self._left: Set[int] = set()
        self._part("the list of descriptors", lambda: self._left.update(_inheritable(self._state["descriptors"])))
        if self:
            _close_strays(self._left)
        self.flows_go_on = False  # in the table of the program before
        self.sockets: List[socket.socket] = []
        for receiver in self._list("receivers"):
            self._part("the socket of a receiver", functools.partial(self._add_socket, receiver))

    def _add_socket(self, receiver: state.Json) -> None:
        self.sockets.append(self._socket(receiver["fd"], socket.SOCK_DGRAM, (socket.AF_INET,)))

    def __bool__(self) -> bool:
        return self._before

    def _list(self, key: str) -> List[Any]:
        found = self._state.get(key)
        return found if isinstance(found, list) else []

    def _part(self, what: str, take: Callable[[], object]) -> None:
        """Takes one thing over, if there is any state at all. The others do not depend on it."""
        if not self._state:
            return
        try:
            take()
        except Exception as error:  # the state may hold anything
            self._log.critical(CORE, f"Restart in place: {what} cannot be taken over ({type(error).__name__}: {error}).")

    def _take(self, number: Any) -> int:
        """Raises ValueError when it is not there."""
        if number not in self._left:
            raise ValueError(f"descriptor {number} is missing")
        self._left.discard(number)
        os.set_inheritable(number, False)  # hooks must not get it
        return int(number)

    def _socket(self, number: Any, kind: int, families: Tuple[int, ...]) -> socket.socket:
        """Raises OSError or ValueError."""
        found = socket.socket(fileno=self._take(number))
        if found.type == kind and found.family in families:
            return found
        found.close()
        raise ValueError(f"descriptor {number} is another socket")

    # ---- Before anything runs ----------------------------------------------------------------------------------------

    def path_in_kernel(self) -> Optional[Bequest]:
        """What the program before has left of it, if it did."""
        found: List[Bequest] = []
        given = self._state.get("kernel_path")
        if given:
            self._part("the path in the kernel", lambda: found.append(Bequest(given, self._take)))
        return found[0] if found else None

    def with_flows(self, make: Callable[[int], fastpath.Handler]) -> Tuple[fastpath.Handler, int]:
        """Makes the fast path by the memory file of the flow table, which it returns too; -1 where the kernel has none, and
        gwlbtun cannot restart in place. Raises OSError."""
        taken: List[int] = []
        self._part("the flow table", lambda: taken.append(self._take(self._state["flows_fd"])))
        for fd in taken:
            try:
                made = make(fd), fd
                self.flows_go_on = True
                return made
            except OSError as error:
                self._log.critical(CORE, f"Restart in place: the flow table cannot be taken over ({error.strerror}), so its "
                                         "flows are forgotten. Those that go on are learned again from their next packets.")
                os.close(fd)
        try:
            fd = memfile.create("gwlbtun-flows")
        except OSError:
            fd = -1
        return make(fd), fd

    def health_listener(self, address: checks.Address) -> Optional[socket.socket]:
        """The socket that listens there already; or, when the address is another now and cannot be had, one at the old."""
        old: List[socket.socket] = []
        server = self._state.get("server") or {}
        if server:
            self._part("the health port", lambda: old.append(self._socket(server["fd"], socket.SOCK_STREAM, IP)))
        if not old or server.get("address") == str(address):
            return old[0] if old else None
        before: List[checks.Address] = []
        self._part("the address for health checks",
                   lambda: before.append(checks.address(str(server.get("address")).lstrip(":"))))
        try:
            if before and before[0].port == address.port:  # two sockets cannot listen on all addresses and on one of them
                old.pop().close()
            found = web.listen(address)
        except StartError as error:
            self._log.critical(CORE, f"Health checks stay on {server.get('address')}: {error}.")
            return old[0] if old else web.listen(before[0])
        for left in old:
            left.close()
        self._log.important(CORE, f"Health checks move from {server.get('address')} to {address}. Hooks that know the port, "
                                  "such as create-local.sh, have to run again.")
        return found

    def claim(self, path: str) -> Optional[rendezvous.Claim]:
        """The control socket, if an option asks for one. Raises StartError, but not after a restart in place."""
        control, found = self._state.get("control") or {}, []
        if control:
            self._part("the control socket", lambda: found.append(rendezvous.inherit(
                self._socket(control["fd"], socket.SOCK_STREAM, (socket.AF_UNIX,)), str(control["path"]), path)))
        try:
            return found[0] if found and found[0] else rendezvous.claim(path, self._log) if path else None
        except StartError as error:
            if not self:
                raise
            self._log.critical(CORE, f"There is no control socket: {error}.")
            return None

    def resume(self, handler: fastpath.Handler, receivers: List[Receiver], endpoints: Endpoints, sources: Sources,
               health: Health, drops: DropWatch, patrol: Patrol) -> None:
        """Before any receiver runs: endpoints, counters, packets that wait, and what hooks have left behind."""
        if not self._state:
            return
        last = len(receivers) - 1
        counted = [receiver.get("counters") for receiver in self._list("receivers") if isinstance(receiver, dict)]
        for index, counters in enumerate([*counted, *self._list("retired")]):
            self._part("the counters of a receiver",
                       functools.partial(handler.add_receiver_counters, min(index, last), counters))
        for counters in self._list("retired"):
            self._part("the drops of a socket",
                       functools.partial(_add_drops, receivers[last], counters))
        self._part("the time of the start", lambda: health.resume(_finite(self._state["started"])))
        self._part("what the log has told of drops", lambda: drops.resume(self._state["told"]))
        for index in self._list("deleted"):
            self._part("the index of an interface", functools.partial(_note_gone, sources, index))
        self._part("what there is of endpoints", lambda: endpoints.resume(self._state["endpoints"], set(self._left)))
        handler.forget_strays()
        if "packets_fd" in self._state:
            self._part("some packets that waited", lambda: self._take_back(handler, self._take(self._state["packets_fd"])))
        self._part("what was known of surroundings", lambda: patrol.resume(self._state.get("patrol", {})))
        self._part("what hooks print", lambda: self._hear(dict(self._state["outputs"])))
        self._close_rest({fd for endpoint in endpoints.passing() for fd in endpoint.descriptors()})

    def _take_back(self, handler: fastpath.Handler, fd: int) -> None:
        try:
            handler.take_back(fd)
        finally:
            os.close(fd)

    def _hear(self, outputs: "dict[str, str]") -> None:
        for number, title in outputs.items():
            fd = self._take(int(number))
            try:
                listener.go_on_hearing(self._log, fd, str(title))
            except RuntimeError:
                os.close(fd)

    def _close_rest(self, used: Set[int]) -> None:
        """The queues of endpoints are used; what nobody has taken is closed."""
        for fd in _inheritable(self._left):
            if fd in used:
                os.set_inheritable(fd, False)
            else:
                os.close(fd)

    def tell(self, in_kernel: bool) -> None:
        """Everything runs. in_kernel: flows that take the kernel went on all the while."""
        if not self:
            return
        gap = ""
        if isinstance(self._state.get("paused_ns"), int):
            gap = f" Packets waited for {(time.monotonic_ns() - self._state['paused_ns']) / 1e6:.0f} ms"
            gap += ", but for those of flows that take the kernel." if in_kernel else "."
        number = self._state.get("outline", {}).get("endpoints", 0) if isinstance(self._state.get("outline"), dict) else 0
        self._log.important(CORE, f"Restart in place: this is another program now, with {number} endpoints and their "
                                  f"flows.{gap}")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("it is no number")
    return number


def _add_drops(receiver: Receiver, counters: state.Json) -> None:
    receiver.add_socket_drops(int(counters["socket_drops"]))


def _note_gone(sources: Sources, index: Any) -> None:
    if not 0 < int(index) < 1 << 31:
        raise ValueError("it is none")
    sources.add_own(int(index))
    sources.remove_own(int(index))


def _inheritable(numbers: Iterable[Any]) -> List[int]:
    """Those that are open, and that the program before has left open on purpose."""
    found = []
    for number in numbers:
        try:
            if isinstance(number, int) and number > 2 and os.get_inheritable(number):
                found.append(number)
        except (OSError, OverflowError):
            pass
    return found


def _close_strays(left: Set[int]) -> None:
    """What the program before has left open unsaid: a socket would get packets that nobody reads, an interface would stay, and
    a program in the kernel go on.

    Other descriptors may be those of whoever has started gwlbtun.
    """
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(3, min(os.sysconf("SC_OPEN_MAX"), 1 << 16)))
    for fd in _inheritable(numbers):
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if fd not in left and (kind == stat.S_IFSOCK or (kind == stat.S_IFCHR and status.st_rdev == TUN_DEVICE)
                               or (kind == stat.S_IFREG and not status.st_nlink)  # a memory file has no link
                               or _is_of_bpf(fd)):
            os.close(fd)


def _is_of_bpf(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("anon_inode:bpf")
    except OSError:
        return False
