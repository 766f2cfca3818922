# SPDX-License-Identifier: MIT-0
"""The table of endpoints, one for each ENI ID.

Its lock guards the table, and every call that changes the fast path's table (native/gwlbtun.h). admission.py decides which
ENI IDs get an endpoint.
"""
import collections
import threading
import time
from typing import Counter, Dict, List, Optional, Set, Tuple

from . import fastpath
from .endpoint import Endpoint
from .jobs import Jobs
from .logs import CORE, Log
from .settings import Settings
from .sources import Sources
from .starter import Starter
from .state import State
from .worker import breathing


class Endpoints:
    """All endpoints, by ENI ID."""

    def __init__(self, handler: fastpath.Handler, settings: Settings, offloads: int, sources: Sources,
                 stopping: threading.Event, log: Log):
        """stopping: once it is set, no endpoint is made and no create hook begins."""
        self.settings = settings
        self._offloads = offloads
        self._log = log
        self._handler = handler
        self._jobs = Jobs(log, settings.hook_jobs)
        self._sources = sources
        self._starter = Starter(log)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._newest: Dict[int, Endpoint] = {}  # of each ENI ID; published unless it is leaving
        self._unburied: Set[Endpoint] = set()
        self._buried: Counter[str] = collections.Counter()
        self._buried_hook_failures = 0
        self._stopping = stopping

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for threads."""
        self._jobs.start()
        self._starter.start()

    def admit(self, eni: int) -> bool:
        """Makes the endpoint of an ENI ID unless it has one. False: all endpoints are going. Raises OSError."""
        with self._lock:
            current = self._newest.get(eni)
            if current and not current.leaving.is_set():
                return True
            if self._stopping.is_set():
                return False
            native = self._handler.endpoint(eni)
            endpoint = Endpoint(eni, native, current, self.settings, self._offloads, self._sources, self._jobs, self._starter,
                                self._stopping, self._log, self._bury)
            self._newest[eni] = endpoint
            self._unburied.add(endpoint)
        endpoint.advance()
        return True

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

    def leaving(self) -> int:
        """How many are about to go."""
        with self._lock:
            return sum(endpoint.leaving.is_set() for endpoint in self._unburied)

    def staying(self) -> int:
        """The number of endpoints that are not going."""
        with self._lock:
            return sum(not endpoint.leaving.is_set() for endpoint in self._newest.values())

    def tick(self) -> None:
        """Once a second: lets endpoints watch themselves, and retires those that have been idle for too long."""
        self._jobs.tick()
        now_ns = time.monotonic_ns()
        idle_s = self.settings.endpoint_idle_s
        for endpoint in self.all():
            endpoint.tick(now_ns)
            if idle_s and endpoint.idle_since(now_ns - idle_s * 10**9):
                self._retire(endpoint, now_ns - idle_s * 10**9)

    def up(self) -> List[Tuple[str, str, int]]:
        """The gwi, gwo and ENI ID of each endpoint that carries traffic and is to stay."""
        return [(endpoint.inward.name, endpoint.outward.name, endpoint.eni) for endpoint in self.all()
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
        victim = min(candidates, key=lambda endpoint: (endpoint.packets(), endpoint.native.last_ns()))
        with self._lock:
            if victim.leaving.is_set():
                return None
            victim.native.unpublish()
            victim.leaving.set()
        victim.advance()
        return victim

    def _retire(self, endpoint: Endpoint, then_ns: int) -> None:
        with self._lock:
            if endpoint.leaving.is_set():
                return
            endpoint.native.unpublish()
            if not endpoint.idle_since(then_ns):  # a packet came just now
                endpoint.native.publish()
                return
            endpoint.leaving.set()
        self._log.info(CORE, f"No packet for {self.settings.endpoint_idle_s} s: gwlbtun destroys {endpoint.names}.")
        endpoint.advance()

    def stop(self) -> None:
        """Destroys all endpoints, and returns when they are gone. The receivers must have ended."""
        with self._lock:
            leaving = list(self._unburied)
            for endpoint in leaving:
                endpoint.native.unpublish()
                endpoint.leaving.set()
        for endpoint in leaving:
            endpoint.advance()
        with self._changed:
            self._changed.wait_for(lambda: not self._unburied)

    def _bury(self, endpoint: Endpoint) -> None:
        """The last act of an endpoint. Only its counts remain."""
        with self._changed:
            endpoint.free()
            self._buried.update(endpoint.counters())
            self._buried_hook_failures += endpoint.hook_failures
            self._unburied.discard(endpoint)
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

    def hook_failures(self) -> int:
        with self._lock:
            return self._buried_hook_failures + sum(endpoint.hook_failures for endpoint in self._unburied)
