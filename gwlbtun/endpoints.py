# SPDX-License-Identifier: MIT-0
"""The table of endpoints, one for each ENI ID.

Its lock guards the table, and every call that changes the fast path's table (native/gwlbtun.h). admission.py decides which
ENI IDs get an endpoint.
"""
import collections
import math
import threading
import time
from typing import Counter, Dict, List, Optional, Set, Tuple

from . import fastpath
from .endpoint import URGENT, Endpoint
from .hooktally import HookTally
from .identity import Identity
from .jobs import Jobs
from .kernel.path import Path
from .listener import wait_for_readers
from .logs import CORE, Log
from .lookout import Lookout
from .settings import Settings
from .sources import Sources
from .starter import Starter
from .state import State
from .takeover.endpoint import PassingEndpoint, counted
from .takeover.state import Json
from .worker import WAKE_S, breathing


class Endpoints:
    """All endpoints, by ENI ID."""

    def __init__(self, handler: fastpath.Handler, settings: Settings, offloads: int, sources: Sources,
                 kernel: Path, stopping: threading.Event, log: Log):
        """stopping: once it is set, no endpoint is made and no create hook begins."""
        self.settings = settings
        self.hooks = HookTally()
        self.lookout = Lookout(log)
        self._identities = settings.identities
        self._unmade: Dict[int, str] = {}  # the named endpoints for which there was no room, and why
        self._offloads = offloads
        self._log = log
        self._handler = handler
        self._jobs = Jobs(log, settings.hook_jobs)
        self._sources = sources
        self._kernel = kernel
        self._starter = Starter(log)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held = False  # none may be made
        self._kept = False  # none has to make room
        self._newest: Dict[int, PassingEndpoint] = {}  # of each ENI ID; published unless it is leaving
        self._unburied: Set[PassingEndpoint] = set()
        self._buried: Counter[str] = collections.Counter()
        self._stopping = stopping

    def start(self) -> None:
        """Begins to make the endpoints that are named. Raises RuntimeError when the system has no room for threads."""
        self._jobs.start()
        self._starter.start()
        self._make_named()

    def _make_named(self) -> None:
        for eni in self._identities.named:
            if self.has(eni):
                continue
            try:
                self.admit(eni)
                self._unmade.pop(eni, None)
            except OSError as error:
                if eni not in self._unmade:
                    self._log.critical(CORE, f"Cannot make the endpoint of {self._identities.of(eni)}: {error.strerror}. "
                                             "gwlbtun keeps trying.")
                self._unmade[eni] = error.strerror or str(error)

    def admit(self, eni: int) -> bool:
        """Makes the endpoint of an ENI ID unless it has one. False: none is made now. Raises OSError."""
        with self._lock:
            current = self._newest.get(eni)
            if current and not current.leaving.is_set():
                return True
            if self._stopping.is_set() or self._held:
                return False
            native = self._handler.endpoint(eni)
            endpoint = self._enter(eni, native, current)
        endpoint.advance()
        return True

    def _enter(self, eni: int, native: fastpath.NativeEndpoint, predecessor: Optional[Endpoint]) -> PassingEndpoint:
        endpoint = PassingEndpoint(self._identities.of(eni), native, predecessor, self.settings, self._offloads, self._sources,
                                   self._jobs, self._starter, self.lookout, self._stopping, self.hooks, self._kernel, self._log,
                                   self._bury)
        self._newest[eni] = endpoint
        self._unburied.add(endpoint)
        return endpoint

    def all(self) -> List[Endpoint]:
        """The newest endpoint of each ENI ID."""
        with self._lock:
            return self.glance()

    def glance(self) -> List[Endpoint]:
        """As all(), for a caller that must not wait. To Python it is one step, so no lock is needed."""
        return list(self._newest.values())

    def has(self, eni: int) -> bool:
        """Whether an ENI ID has an endpoint that stays."""
        with self._lock:
            endpoint = self._newest.get(eni)
            return endpoint is not None and not endpoint.leaving.is_set()

    def unmade(self) -> List[Tuple[Identity, str]]:
        """The named endpoints for which there was no room yet, and why."""
        return [(self._identities.of(eni), why) for eni, why in list(self._unmade.items())]

    def leaving(self) -> int:
        """How many are about to go."""
        with self._lock:
            return sum(endpoint.leaving.is_set() for endpoint in self._unburied)

    def left(self) -> int:
        """How many there are in all, those that are about to go included."""
        return len(self._unburied)

    def staying(self) -> int:
        """The number of endpoints that are not going."""
        with self._lock:
            return sum(not endpoint.leaving.is_set() for endpoint in self._newest.values())

    def tick(self, idleness_shows: bool = True) -> None:
        """Once a second: lets endpoints watch themselves, and retires those that have been idle for too long, if that shows."""
        self._jobs.tick()
        self._make_named()
        now_ns = time.monotonic_ns()
        idle_s = self.settings.endpoint_idle_s if idleness_shows else 0
        for endpoint in self.all():
            endpoint.tick(now_ns, idleness_shows)
            if idle_s and not endpoint.identity.named and endpoint.idle_since(now_ns - idle_s * 10**9):
                self._retire(endpoint, now_ns - idle_s * 10**9)

    def up(self) -> List[Identity]:
        """Each endpoint that carries traffic and is to stay."""
        return [endpoint.identity for endpoint in self.all()
                if endpoint.state is State.UP and not endpoint.leaving.is_set()]

    def check_filters(self) -> None:
        """To be called when a setting of some interface may have changed."""
        for endpoint in self.all():
            endpoint.check_filter()

    def make_room(self) -> Optional[Endpoint]:
        """Destroys the endpoint that is most likely forged, if any may go."""
        candidates = [endpoint for endpoint in self.all() if not endpoint.leaving.is_set() and endpoint.may_go()]
        if not candidates:
            return None
        victim = min(candidates, key=lambda endpoint: (endpoint.packets(), endpoint.last_ns()))
        with self._lock:
            if victim.leaving.is_set() or self._kept:
                return None
            self._let_go(victim)
        victim.advance()
        return victim

    @staticmethod
    def _let_go(endpoint: Endpoint) -> None:
        """Under the lock; advance() comes after it."""
        endpoint.native.unpublish()
        endpoint.leaving.set()

    def _retire(self, endpoint: Endpoint, then_ns: int) -> None:
        with self._lock:
            if endpoint.leaving.is_set():
                return
            endpoint.native.unpublish()
            if not endpoint.idle_since(then_ns):  # a packet came just now
                endpoint.native.publish()
                return
            endpoint.leaving.set()
        self._log.info(CORE, f"No packet for {self.settings.endpoint_idle_s} s: gwlbtun destroys "
                             f"{endpoint.identity.interfaces}.")
        endpoint.advance()

    # ---- A restart in place ------------------------------------------------------------------------------------------

    def hold(self) -> bool:
        """Lets no further endpoint come up, nor go. True: nothing is under way, and from now on none is made."""
        with self._lock:
            self._kept = True
        if not self._jobs.admit(URGENT) or self.unsettled():
            return False
        with self._lock:
            self._held = True
        if self._jobs.admit(math.inf) and not self.unsettled():
            return True
        with self._lock:
            self._held = False
        return False

    def release(self) -> None:
        """After hold()."""
        with self._lock:
            self._held = self._kept = False
        self._jobs.admit(0)

    def unsettled(self) -> List[PassingEndpoint]:
        """Those that are coming up or going. One of which nothing is there yet, but for packets that wait, does not count."""
        with self._lock:
            return [endpoint for endpoint in self._unburied if not endpoint.settled]

    def passing(self) -> List[PassingEndpoint]:
        with self._lock:
            return sorted(self._unburied, key=lambda endpoint: endpoint.made_ns)

    def deleted_interfaces(self) -> List[int]:
        return list(self._sources.gone)

    def record(self) -> Json:
        """All that the next program has to know of them."""
        return {"each": [endpoint.record() for endpoint in self.passing()], "buried": dict(self._buried),
                "hooks": self.hooks.record()}

    def resume(self, record: Json, queues: Set[int]) -> None:
        """Adopts the endpoints of the program before. One that cannot be adopted is made again when its next packet comes.

        queues: the descriptors that are there. Raises whatever a record may cause that is none, when all else is done.
        """
        for each in record["each"]:
            try:
                self._adopt(each, queues)
            except Exception as error:  # it may hold anything
                why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                self._log.critical(CORE, f"Cannot take over an endpoint ({str(each)[:40]}): {why}. gwlbtun makes it again.")
        self._buried.update({name: int(count) for name, count in record["buried"].items()})
        self.hooks.resume(record["hooks"])

    def _adopt(self, record: Json, queues: Set[int]) -> None:
        eni, slot, made_ns = (int(record[name]) for name in ("eni", "slot", "made_ns"))
        if not (0 <= eni < 1 << 64 and 0 <= slot < fastpath.SLOTS_MAX and 0 <= made_ns < 1 << 63):
            raise ValueError("its numbers are none")
        with self._lock:
            try:
                native = self._handler.adopt(eni, slot, made_ns)
            except Exception:
                self._buried.update(counted(record))
                raise
            endpoint = self._enter(eni, native, None)
        try:
            endpoint.adopt(record, queues)
        finally:
            if self.settings.allow_endpoints and eni not in self.settings.allow_endpoints:
                self._expel(endpoint)
            endpoint.advance()

    def _expel(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._let_go(endpoint)
        self._log.important(CORE, f"--allow-endpoint does not name {endpoint.identity} any more: gwlbtun destroys "
                                  f"{endpoint.identity.interfaces}.")

    def stop(self) -> None:
        """Destroys all endpoints. Returns when they are gone, and their hooks are heard. The receivers must have ended."""
        with self._lock:
            leaving = list(self._unburied)
            for endpoint in leaving:
                self._let_go(endpoint)
        for endpoint in leaving:
            endpoint.advance()
        with self._changed:
            while not self._changed.wait_for(lambda: not self._unburied, WAKE_S):
                self._jobs.tick()
        wait_for_readers()

    def _bury(self, endpoint: Endpoint) -> None:
        """The last act of an endpoint. Only its counts remain."""
        with self._changed:
            endpoint.free()
            self._buried.update(endpoint.counters())
            self._unburied = {other for other in self._unburied if other is not endpoint}
            newest = self._newest.get(endpoint.eni)
            if newest is endpoint:
                del self._newest[endpoint.eni]
            successors = [other for other in self._unburied if other.predecessor is endpoint]
            self._changed.notify_all()
        for successor in successors:
            successor.succeed()

    def totals(self) -> Counter[str]:
        """Adds up the counters of all T threads, past ones included. The times among them mean nothing."""
        with self._lock:
            total, unburied = self._buried.copy(), list(self._unburied)
        for endpoint in breathing(unburied):  # without the lock: there may be many threads
            total.update(endpoint.counters())
        return total
