# SPDX-License-Identifier: MIT-0
"""Endpoints: one for each ENI ID that traffic comes for, and the table of them.

A receiver that meets an unknown ENI ID makes the native endpoint at once, so that packets gather in its rings; all that
takes time happens in the endpoint's own control thread, whose body, Endpoint._live, is an endpoint's life from top to
bottom. The table's lock guards the table and every call that changes the fast path's (native/gwlbtun.h).
"""
import collections
import enum
import threading
import time
from typing import Callable, Counter, Dict, List, Optional, Set, Tuple

from . import fastpath
from .hooks import Hook
from .logs import CORE, Log
from .rpfilter import ReversePathFilter
from .settings import Settings
from .tunnel import Tunnel
from .worker import Worker

RETRY_S = 10.0
SILENCE_S = 10.0       # without one packet back, after which a hint is due
SILENCE_PACKETS = 10
REFUSAL_S = 10.0       # between two lines about endpoints that cannot be made


class State(enum.Enum):
    WAITING = "waiting for its predecessor to go"
    CREATING = "being created"
    UP = "up"
    FAILED = "failed to come up"
    DESTROYING = "being destroyed"


class Endpoint:
    """A pair of interfaces, with their threads, hooks and flows."""

    def __init__(self, table: "Endpoints", serial: int, eni: int, native: fastpath.NativeEndpoint,
                 predecessor: Optional["Endpoint"]):
        self.eni = eni
        self.native = native
        self.state = State.WAITING
        self.failure: Optional[str] = None
        self.hook_failures = 0
        self.made_ns = time.monotonic_ns()
        self.inward = Tunnel(fastpath.GWI, eni, native, table.settings.tunnel_places, table.log)
        self.outward = Tunnel(fastpath.GWO, eni, native, table.settings.tunnel_places, table.log)
        self.tunnels = (self.inward, self.outward)
        self._table = table
        self._log = table.log
        self._predecessor = predecessor
        self._leaving = threading.Event()
        self._hooked = False  # its interfaces have stood, and the create hook may have run
        self._up_ns = 0
        self._final_counters: Optional[Counter[str]] = None
        self._silence_told = False
        self._filter = ReversePathFilter(self.inward.name, self._log)
        self._control = Worker(self._log, f"gwlbtun C{serial % 10_000_000:03d}", self._live)

    @property
    def names(self) -> str:
        return f"{self.inward.name} and {self.outward.name} for ENI ID {self.eni:017x}"

    def begin(self) -> None:
        """Raises RuntimeError when the system has no room for another thread."""
        self._control.start()

    def leave(self) -> None:
        """It is to be destroyed, and has been unpublished."""
        self._leaving.set()

    @property
    def leaving(self) -> bool:
        return self._leaving.is_set()

    def wait_gone(self) -> None:
        self._control.join()

    def idle_since(self, then_ns: int) -> bool:
        return self.state in (State.UP, State.FAILED) and self.native.last_ns() <= then_ns

    def tick(self, now_ns: int) -> None:
        """Once a second."""
        self.native.age()
        if self.state is State.UP and not self._silence_told and now_ns - self._up_ns >= SILENCE_S * 1e9:
            self._check_silence()

    def check_filter(self) -> None:
        self._filter.check()

    def _live(self) -> None:
        try:
            if self._predecessor:
                self._predecessor.wait_gone()
                self._predecessor = None
            if not self._leaving.is_set():
                self._come_up()
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}", "Restart gwlbtun")
        self._leaving.wait()
        self._go()

    def _come_up(self) -> None:
        """Returns early when the endpoint is to go."""
        self.state = State.CREATING
        if not self._insist(self._create):
            return
        self._hooked = True
        hook = self._run_hook(self._table.settings.create_hook, "CREATE")
        if hook and hook.terminated:  # nothing may pass: the rules it was to set may be missing
            return
        self._filter.tell_if_overruled()
        if self._insist(self._start):
            self._up_ns = time.monotonic_ns()
            self.state = State.UP
            self._log.important(CORE, f"New interface {self.names} created.")

    def _insist(self, step: Callable[[], None]) -> bool:
        """Does a step, sooner or later: false when the endpoint is to go before it is done."""
        while True:
            try:
                step()
            except (OSError, RuntimeError) as error:
                self._fail(getattr(error, "strerror", None) or str(error), f"Trying again every {RETRY_S:.0f} s")
                if self._leaving.wait(RETRY_S):
                    return False
            else:
                self.failure, self.state = None, State.CREATING
                return True

    def _create(self) -> None:
        try:
            for tunnel in self.tunnels:
                tunnel.create(self._table.offloads)
            self._filter.turn_off()
            for tunnel in self.tunnels:
                tunnel.up()
        except OSError:
            self._close()
            raise

    def _start(self) -> None:
        for tunnel in self.tunnels:
            tunnel.start()

    def _fail(self, why: str, remedy: str) -> None:
        if why != self.failure:
            self._log.critical(CORE, f"Cannot create {self.names}: {why}. {remedy}.")
        self.failure, self.state = why, State.FAILED

    def _run_hook(self, command: Optional[str], action: str) -> Optional[Hook]:
        if not command:
            return None
        hook = Hook(self._log, command, action, self.inward.name, self.outward.name, self.eni)
        # A destroy hook has all the time it takes: what it leaves behind would stay.
        if not hook.run(self._leaving if action == "CREATE" else None):
            self.hook_failures += 1
        return hook

    def _go(self) -> None:
        self.state = State.DESTROYING
        try:
            if self._hooked:  # however far it came after that: what the create hook set up must not stay
                self._run_hook(self._table.settings.destroy_hook, "DESTROY")
                self._log.important(CORE, f"Destroying interface {self.names}.")
        finally:
            self.native.stop()
            for tunnel in self.tunnels:
                tunnel.join()
            self._close()
            self.native.forget()  # before the table's lock is taken, which receivers wait for
            self._table.bury(self)

    def _close(self) -> None:
        for tunnel in self.tunnels:
            tunnel.close()

    def _check_silence(self) -> None:
        counters = self.counters()
        if counters["packets_sent"]:
            self._silence_told = True  # it has spoken: there is nothing to tell any more
        elif counters["packets_out"] >= SILENCE_PACKETS:
            self._silence_told = True
            self._log.important(
                CORE, f"{counters['packets_out']} packets went in to Linux on {self.inward.name}, and none has come "
                      "back. If that is not meant: is there a create hook (-c) that routes or redirects them; is "
                      "net.ipv4.ip_forward 1 (net.ipv6.conf.all.forwarding); is net.ipv4.conf.all.rp_filter 0; is the "
                      "EC2 source/destination check of this instance off, when they leave by another interface?")

    def counters(self) -> Counter[str]:
        """Those of all its T threads, added up."""
        total: Counter[str] = collections.Counter()
        for tunnel in self.tunnels:
            for counters in tunnel.counters():
                total.update(counters)
        # Set before the counters went away, so it is there for whoever missed some of them.
        return total if self._final_counters is None else self._final_counters

    def free(self) -> None:
        """When nothing runs any more. Its counters stay what they are."""
        self._final_counters = self.counters()
        self.native.free()


class Endpoints:
    """All endpoints, by ENI ID."""

    def __init__(self, handler: fastpath.Handler, settings: Settings, offloads: int, log: Log):
        self.settings = settings
        self.offloads = offloads
        self.log = log
        self._handler = handler
        self._lock = threading.Lock()
        self._newest: Dict[int, Endpoint] = {}  # of each ENI ID; published unless it is leaving
        self._unburied: Set[Endpoint] = set()
        self._buried: Counter[str] = collections.Counter()
        self._buried_hook_failures = 0
        self._serial = 0
        self._stopping = False
        self._refusal_told = -REFUSAL_S

    def admit(self, eni: int) -> bool:
        """Makes the endpoint of an ENI ID that a receiver does not know; false: it is refused."""
        with self._lock:
            current = self._newest.get(eni)
            if current and not current.leaving:  # another receiver met it first
                return True
            if self._stopping:
                return False
            try:
                native = self._handler.endpoint(eni)
            except OSError as error:
                self._tell_refusal(eni, error.strerror)
                return False
            endpoint = Endpoint(self, self._serial, eni, native, current)
            try:
                endpoint.begin()
            except RuntimeError as error:
                native.unpublish()
                native.forget()
                native.free()
                self._tell_refusal(eni, str(error))
                return False
            self._serial += 1
            self._newest[eni] = endpoint
            self._unburied.add(endpoint)
            return True

    def _tell_refusal(self, eni: int, why: str) -> None:
        now = time.monotonic()
        if now - self._refusal_told >= REFUSAL_S:
            self._refusal_told = now
            self.log.important(CORE, f"No endpoint for ENI ID {eni:017x}: {why}.")

    def all(self) -> List[Endpoint]:
        """The newest of each ENI ID."""
        with self._lock:
            return list(self._newest.values())

    def tick(self) -> None:
        """Once a second: what endpoints have to watch, and which of them have been idle for too long."""
        now_ns = time.monotonic_ns()
        idle_s = self.settings.endpoint_idle_s
        for endpoint in self.all():
            endpoint.tick(now_ns)
            if idle_s and endpoint.idle_since(now_ns - idle_s * 10**9):
                self._retire(endpoint, now_ns - idle_s * 10**9)

    def up(self) -> List[Tuple[str, str, int]]:
        """Those that carry traffic and are to stay: gwi, gwo, ENI ID."""
        return [(endpoint.inward.name, endpoint.outward.name, endpoint.eni) for endpoint in self.all()
                if endpoint.state is State.UP and not endpoint.leaving]

    def check_filters(self) -> None:
        """When a setting of some interface may have changed."""
        for endpoint in self.all():
            endpoint.check_filter()

    def _retire(self, endpoint: Endpoint, then_ns: int) -> None:
        with self._lock:
            if endpoint.leaving:
                return
            endpoint.native.unpublish()
            if not endpoint.idle_since(then_ns):  # a packet came just now
                endpoint.native.publish()
                return
            endpoint.leave()
        self.log.info(CORE, f"No packet for {self.settings.endpoint_idle_s} s: {endpoint.names} go.")

    def stop(self) -> None:
        """Destroys all, side by side, and returns when they are gone. The receivers must have ended."""
        with self._lock:
            self._stopping = True
            leaving = list(self._unburied)
            for endpoint in leaving:
                endpoint.native.unpublish()
                endpoint.leave()
        for endpoint in leaving:
            endpoint.wait_gone()

    def bury(self, endpoint: Endpoint) -> None:
        """The last act of an endpoint: only its counts remain."""
        with self._lock:
            endpoint.free()
            self._buried.update(endpoint.counters())
            self._buried_hook_failures += endpoint.hook_failures
            self._unburied.discard(endpoint)
            if self._newest.get(endpoint.eni) is endpoint:
                del self._newest[endpoint.eni]

    def totals(self) -> Counter[str]:
        """The counters of all T threads there are and have been, added up; the times among them mean nothing."""
        with self._lock:
            total, unburied = self._buried.copy(), list(self._unburied)
        for endpoint in unburied:  # without the lock: receivers need it for new endpoints, and there may be many threads
            total.update(endpoint.counters())
        return total

    def hook_failures(self) -> int:
        with self._lock:
            return self._buried_hook_failures + sum(endpoint.hook_failures for endpoint in self._unburied)
