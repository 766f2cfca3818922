# SPDX-License-Identifier: MIT-0
"""The path in the kernel as a whole: known flows never leave it, where that works and nobody notices.

The threads stay the authority (docs/KERNEL_PATH.md). This has the programs loaded and attached to the interfaces of endpoints,
runs thread K, and follows what changes around them. Without it the threads do all.
"""
import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from .. import StartError, fastpath, privilege
from ..logs import CORE, Log
from ..privilege import Rights
from ..settings import Settings
from ..takeover.state import Json, slots
from ..worker import WAKE_S, Worker
from . import account, attach, bequest, probe, wanted
from .aside import Aside
from .bequest import Bequest
from .links import Links
from .loaded import Loaded, Uplinks
from .served import Served
from .thread import Thread

if TYPE_CHECKING:
    from ..endpoint import Endpoint

FORGET_S = 5.0
LEASE_NS = 5 * 10**9  # several times as long as a turn of the thread that follows changes


class Path:
    """Made once. Any thread may call up(), down(), share(), sweep() and report(); the rest is for the main thread."""

    def __init__(self, settings: Settings, inherited: bool, left: Optional[Bequest], stopping: threading.Event, log: Log):
        """Takes a while, so it comes before any socket is open, and before capabilities are dropped.

        inherited: after a restart in place. left: by the program before. If the path does not go on with it, no packet takes
        the kernel on return. Raises StartError when --kernel-path asks for what there is not, but not after a restart in place.
        """
        self._settings = settings
        self._inherited = inherited
        self._stopping = stopping
        self._log = log
        self._lock = threading.RLock()  # held while what the programs work with is changed
        self._served: Optional[Served] = None
        self._worker: Optional[Worker] = None
        self._thread: Optional[Thread] = None
        self.stays = False  # K rests, and the programs go on
        self._signature = bequest.signature(settings)
        self._before: Optional[Dict[str, int]] = None  # what the K before has counted
        if not left or not self._resume(left):
            self._finding = wanted.look(settings)
            self.reason = self._finding.reason
            try:
                if not self.reason:
                    self._make(None)
            except OSError as error:
                self.reason = f"the kernel refuses the programs or their maps ({error.strerror or error})"
        if self.reason and settings.kernel_path == "require":
            if not inherited:
                raise StartError(f"--kernel-path require: {self.reason}")
            log.critical(CORE, f"The path in the kernel (--kernel-path require) does not work: {self.reason}.")

    def _resume(self, left: Bequest) -> bool:
        """Goes on with what the program before has left. False: that is all closed."""
        try:
            if left.signature != self._signature:
                return False
            self._make(left)
            self._uplinks.resume()
            self._links.grow(left.counts["links"])  # nobody has followed changes meanwhile
            self._finding, self.reason, self._before = probe.Finding(True, "", left.ipv6, True), "", left.counts
            left.taken()
            return True
        except OSError as error:
            self._log.critical(CORE, "Restart in place: the path in the kernel cannot be taken over "
                                     f"({error.strerror or error}), so flows return to it after some packets.")
            return False
        finally:
            left.close()

    @property
    def adopted(self) -> bool:
        """Whether it goes on with the maps of the program before."""
        return self._before is not None

    def _make(self, left: Optional[Bequest]) -> None:
        """Raises OSError."""
        self._loaded = Loaded(self._settings.max_flows, slots(self._settings), left)
        self._maps = self._loaded.maps
        self._bell, self._ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._aside = Aside(self._loaded.has_company, self._log)
        self._uplinks = Uplinks(self._loaded, self._settings, self._log)
        self._links = Links(self._maps.links, self._uplinks.attach, self._free_links, self._log)
        self._watch = Worker(self._log, "gwlbtun Links", self._follow, wakes=True, rights=Rights.MAPS)

    def serve(self, handler: fastpath.Handler, flows_go_on: bool) -> None:
        """When the port is ours, and before any endpoint is made. flows_go_on: the flow table and the sockets are those of the
        program before. Raises OSError when there is no memory."""
        if not self._inherited:
            attach.sweep_uplinks()
        if self.reason:
            return
        if self.adopted and not flows_go_on:
            for endpoint in self._maps.endpoints:
                endpoint.on = 0  # it gets a new life, and so nothing of the map holds
        self._thread = Thread(handler, self._maps, self._ringer, self._before)
        self._served = Served(self._loaded, self._thread, self._aside, self._lock, self._log)

    @property
    def capabilities(self) -> "frozenset[int]":
        """What its threads need."""
        return privilege.for_maps() if self._thread else frozenset()

    def start(self) -> None:
        """When all endpoints are there that pass over. Raises RuntimeError when the system has no room for threads."""
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
        """After rest(), or for the first time: flows may take the kernel. Before any receiver runs.

        Raises RuntimeError when the system has no room for the thread.
        """
        if not self._thread or self._worker:
            return
        self.stays = False
        self._forget_others()
        self._thread.offer(True)
        worker = Worker(self._log, "gwlbtun-kernel", self._thread.work, wakes=True, rights=Rights.MAPS)
        try:
            worker.start()
        except RuntimeError:
            self._thread.offer(False)
            raise
        self._worker = worker

    def _forget_others(self) -> None:
        """What the program before has left and nobody goes on with."""
        self._loaded.close_unused()
        if self.adopted and self._served is not None:
            with self._lock, contextlib.suppress(OSError):
                self._maps.keep(self._served.enis, self._served.indices)

    def rest(self, stays: bool = False) -> None:
        """On return all packets go the threads' way; or, if it stays, those of flows in the kernel take it as before, and no
        receiver may run until go_on(), here or in the next program."""
        self.stays = stays
        if self._thread and self._worker:
            if stays:
                self._thread.leave()
            else:
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

    # ---- For the next program ----------------------------------------------------------------------------------------

    def may_stay(self, signature: str) -> bool:
        """Whether the next program, of that signature, can go on with it. Filters of tc would outlive a program that fails."""
        return bool(self._thread and self._finding.tcx and signature == self._signature and not self.state)

    def record(self) -> Tuple[Optional[Json], List[int]]:
        """What the next program needs to go on with it, and the descriptors that it names. After rest()."""
        if not self._thread or self._served is None or not self.stays:
            return None, []
        with self._lock:
            links = [*self._served.links, *self._uplinks.links]
        maps, programs = self._maps.fd, self._loaded.programs
        left = bequest.record(self._signature, self._finding.ipv6, maps, programs, links, self._thread.counts())
        return left, [*maps.values(), *programs.values(), *links]

    def share(self, slot: int) -> account.Share:
        return account.Share(self._thread, slot)

    def sweep(self) -> bool:
        """Whether the flow table knows which flows are in use."""
        return not self._thread or not self._worker or self._thread.sweep()

    def up(self, endpoint: "Endpoint") -> None:
        """Its packets are about to pass: those of known flows may take the kernel from now on."""
        if self._served is not None:
            self._served.up(endpoint)

    def down(self, endpoint: "Endpoint") -> None:
        """Before its threads stop: all its packets go their way again."""
        if self._served is not None:
            self._served.down(endpoint)

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
        while not self._stopping.is_set() or self._served:
            left_s = min(self._links.due(), self._aside.due()) - time.monotonic()
            ready = [fd for fd, _ in poll.poll(min(max(left_s, 0), WAKE_S) * 1000)]
            with self._lock:
                for fd in ready:
                    heard.get(fd, self._hear_thread_k)()
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

    def _hear_thread_k(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 65_536)
        if self._thread:
            self._links.grow(self._thread.links)

    def _free_links(self, idle_s: float) -> int:
        return self._thread.free_links(idle_s) if self._thread else 0

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
