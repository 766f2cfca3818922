# SPDX-License-Identifier: MIT-0
"""The path in the kernel as a whole: known flows never leave it, where that works and nobody notices.

The threads stay the authority (docs/KERNEL_PATH.md). This has the programs loaded and attached to the interfaces of endpoints,
runs thread K, and follows what changes around them. Without it the threads do all.
"""
import contextlib
import errno
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional

from .. import StartError, fastpath, privilege
from ..logs import CORE, Log
from ..privilege import Rights
from ..settings import Settings
from ..takeover.state import slots
from ..tun import TX_QUEUE_RESTART
from ..worker import WAKE_S, Worker
from . import account, attach, traffic, wanted
from .aside import Aside, Place
from .links import Links
from .loaded import Loaded, Uplinks
from .thread import Thread

if TYPE_CHECKING:
    from ..endpoint import Endpoint

TELL_S = 10.0  # between two lines of the same kind
FORGET_S = 5.0
LEASE_NS = 5 * 10**9  # several times as long as a turn of the thread that follows changes


class _Held(NamedTuple):
    """An endpoint that the programs work for."""

    slot: int
    indices: List[int]                 # of its interfaces, by side
    attached: List[attach.Attachment]  # the programs there
    down: Dict[int, Optional[bool]]    # by side. False: the interface is down; None: it is gone


class Path:
    """Made once. Any thread may call up(), down(), share(), sweep() and report(); the rest is for the main thread."""

    def __init__(self, settings: Settings, inherited: bool, stopping: threading.Event, log: Log):
        """Takes a while, so it comes before any socket is open, and before capabilities are dropped.

        Raises StartError when --kernel-path asks for what there is not, but not after a restart in place.
        """
        self._settings = settings
        self._inherited = inherited
        self._stopping = stopping
        self._log = log
        self._lock = threading.RLock()  # held while what the programs work with is changed
        self._held: "Dict[Endpoint, _Held]" = {}
        self._failure_due = 0.0
        self._worker: Optional[Worker] = None
        self._thread: Optional[Thread] = None
        self._finding = wanted.look(settings)
        self.reason = self._finding.reason
        try:
            if not self.reason:
                self._make()
        except OSError as error:
            self.reason = f"the kernel refuses the programs or their maps ({error.strerror or error})"
        if self.reason and settings.kernel_path == "require":
            if not inherited:
                raise StartError(f"--kernel-path require: {self.reason}")
            log.critical(CORE, f"The path in the kernel (--kernel-path require) does not work: {self.reason}.")

    def _make(self) -> None:
        """Raises OSError."""
        self._loaded = Loaded(self._settings.max_flows, slots(self._settings))
        self._maps = self._loaded.maps
        self._bell, self._ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._aside = Aside(self._loaded.has_company, self._log)
        self._uplinks = Uplinks(self._loaded, self._settings, self._log)
        self._links = Links(self._maps.links, self._uplinks.attach, self._log)
        self._watch = Worker(self._log, "gwlbtun Links", self._follow, wakes=True, rights=Rights.MAPS)

    def serve(self, handler: fastpath.Handler) -> None:
        """When the port is ours, and before any endpoint is made. Raises OSError when there is no memory."""
        if not self._inherited:
            attach.sweep_uplinks()
        if not self.reason:
            self._thread = Thread(handler, self._maps, self._ringer)

    @property
    def capabilities(self) -> "frozenset[int]":
        """What its threads need."""
        return privilege.for_maps() if self._thread else frozenset()

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for threads."""
        if not self._thread:
            if self._settings.kernel_path != "off":
                self._log.info(CORE, f"gwlbtun's threads carry all packets, and none takes the kernel alone: {self.reason}.")
            return
        self._log.info(CORE, "Packets of known flows take the kernel alone where they can.")
        self._uplinks.prepare(self._finding.tcx)
        self._renew_lease()
        self._watch.start()
        self.go_on()

    def go_on(self) -> None:
        """After rest(), or for the first time: flows may take the kernel."""
        if self._thread and not self._worker:
            self._worker = Worker(self._log, "gwlbtun-kernel", self._thread.work, wakes=True, rights=Rights.MAPS)
            self._worker.start()

    def rest(self) -> None:
        """On return all packets go the threads' way."""
        if self._thread and self._worker:
            self._thread.stop()
            self._worker.join()
            self._worker = None

    def stop(self) -> None:
        """After rest(), when no endpoint is left: detaches all."""
        if not self._thread:
            return
        os.write(self._ringer, b"\0")
        self._watch.join()
        self._uplinks.close()

    def share(self, slot: int) -> account.Share:
        return account.Share(self._thread, slot)

    def sweep(self) -> None:
        if self._thread and self._worker:
            self._thread.sweep()

    # ---- Endpoints ---------------------------------------------------------------------------------------------------

    def up(self, endpoint: "Endpoint") -> None:
        """Its packets are about to pass: those of known flows may take the kernel from now on."""
        if not self._thread:
            return
        with self._lock:
            if endpoint in self._held:
                return
            try:
                self._hold(endpoint)
            except OSError as error:
                self._release(endpoint)
                if error.errno != errno.ENODEV and time.monotonic() >= self._failure_due:  # ENODEV: it has been deleted
                    self._failure_due = time.monotonic() + TELL_S
                    self._log.important(CORE, f"The packets of {endpoint.identity.interfaces} do not take the kernel, as it "
                                              f"refuses that ({error.strerror or error}): gwlbtun's threads carry them.")

    def _hold(self, endpoint: "Endpoint") -> None:
        slot = endpoint.native.slot()
        held = self._held[endpoint] = _Held(slot, [], [], {})
        for side, tunnel in enumerate(endpoint.tunnels):
            held.indices.append(tunnel.index)
            held.attached.append(self._loaded.at_egress(tunnel.index))
            self._maps.set_interface(tunnel.index, slot, side)
        self._maps.set_eni(endpoint.eni, slot)
        for side, tunnel in enumerate(endpoint.tunnels):
            self._aside.add((slot, side), Place(tunnel.index, tunnel.title, self._putter(endpoint, side),
                                                self._stander(endpoint, side)))
        self._switch(endpoint, held)

    def _switch(self, endpoint: "Endpoint", held: _Held) -> None:
        """Has it as it should be: on while both interfaces are up."""
        assert self._thread
        if held.down:
            self._thread.endpoint_off(endpoint.native)
        else:
            queues = [fd for tunnel in endpoint.tunnels for fd in tunnel.fds]
            longest = max(TX_QUEUE_RESTART, *(traffic.state(index).queue_length for index in held.indices))
            self._thread.endpoint_on(endpoint.native, held.indices[fastpath.GWI], queues, longest)

    def _putter(self, endpoint: "Endpoint", side: int) -> Callable[[bool], None]:
        thread = self._thread
        assert thread
        return lambda aside: thread.endpoint_aside(endpoint.native, side, aside)

    def _stander(self, endpoint: "Endpoint", side: int) -> Callable[[Optional[bool]], None]:
        def stand(up: Optional[bool]) -> None:
            held = self._held.get(endpoint)
            if not held or held.down.get(side, True) is None:
                return
            if up:
                held.down.pop(side, None)
            else:
                held.down[side] = up
            with contextlib.suppress(OSError):
                self._switch(endpoint, held)
            if up is None:
                self._detach(held)
        return stand

    def down(self, endpoint: "Endpoint") -> None:
        """Before its threads stop: all its packets go their way again."""
        if self._thread:
            with self._lock:
                self._release(endpoint)

    def _release(self, endpoint: "Endpoint") -> None:
        held = self._held.pop(endpoint, None)
        if not held:
            return
        assert self._thread
        for side in fastpath.SIDES:
            self._aside.remove((held.slot, side))
        self._thread.endpoint_off(endpoint.native)
        with contextlib.suppress(OSError):
            self._maps.forget_eni(endpoint.eni)
        self._detach(held)

    def _detach(self, held: _Held) -> None:
        for index in held.indices:
            with contextlib.suppress(OSError):
                self._maps.forget_interface(index)
        while held.attached:
            held.attached.pop().detach()

    # ---- The thread that follows changes -----------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            self._follow_changes()
        except Exception:
            assert self._thread
            self._thread.stop()  # nobody would see what changes
            raise

    def _follow_changes(self) -> None:
        poll, forget_due = select.poll(), 0.0
        heard = {self._links.fileno(): self._links.hear, self._aside.fileno(): self._aside.hear}
        for fd in (*heard, self._bell):
            poll.register(fd, select.POLLIN)
        while not self._stopping.is_set() or self._held:
            left_s = min(self._links.due(), self._aside.due()) - time.monotonic()
            ready = [fd for fd, _ in poll.poll(min(max(left_s, 0), WAKE_S) * 1000)]
            with self._lock:
                for fd in ready:
                    heard.get(fd, self._drain_bell)()
                if self._thread:
                    self._links.grow(self._thread.links)
                self._renew_lease()
                self._links.look()
                self._aside.look()
                if time.monotonic() >= forget_due:
                    forget_due = time.monotonic() + FORGET_S
                    self._uplinks.forget_gone()

    def _renew_lease(self) -> None:
        """Filters of tc outlive a process that is killed. They carry nothing then."""
        if not self._finding.tcx:
            self._maps.globals.lease_ns = time.monotonic_ns() + LEASE_NS

    def _drain_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 65_536)

    # ---- For health --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Why not all known flows take the kernel; empty: they do."""
        if self.reason:
            return self.reason
        for worker in self._watch, self._worker:
            if worker and worker.failure:
                return f"thread {worker.name} has failed: {worker.failure}"
        return "" if self._worker else "gwlbtun is restarting or stopping"

    def report(self) -> Dict[str, Any]:
        """`ebpf` of the health report."""
        thread = self._thread
        if not thread:
            return account.report(False, self.reason, account.NO_COUNTS, account.reasons([]), [], 0, [], [], "", False)
        reason = self.state
        return account.report(not reason, reason, thread.counts(), account.reasons(self._maps.reasons), self._aside.lines,
                              len(self._aside.reasons), self._links.reasons, self._uplinks.names, self._loaded.kind,
                              self._finding.ipv6)
