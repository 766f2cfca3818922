# SPDX-License-Identifier: MIT-0
"""One endpoint: a pair of interfaces with their threads, hooks and flows, from its first packet to its end.

Each step of its life that takes time is a job (jobs.py); an endpoint has one at a time. It comes up, is made again when
somebody deletes an interface, and goes. Meanwhile its packets wait in the rings of the fast path.
"""
import contextlib
import threading
import time
from typing import Callable, Counter, Optional

from . import fastpath, removal
from .commands import Commands
from .hooktally import HookTally
from .identity import Identity
from .interfaces import Interfaces
from .jobs import Jobs
from .kernel.path import Path
from .logs import CORE, Log
from .lookout import Lookout
from .settings import Settings
from .silence import Silence
from .sources import Sources
from .starter import Starter
from .state import State
from .surroundings import Surroundings
from .tunnel import added_up, start_to_drain
from .turns import Turn
from .worker import pause

RETRY_S = 10.0
URGENT = 1 << 62        # more than any rings hold
LIVELY_PACKETS = 64     # once it has carried these, it gets all its threads, and long queues
LIVELY_BYTES = 4 << 10  # or once these wait for it to come up
FEW_PACKETS = 16        # an endpoint with fewer may be forged


class Endpoint:
    """One endpoint. The table of endpoints makes it, and learns when it is gone."""

    def __init__(self, identity: Identity, native: fastpath.NativeEndpoint, predecessor: Optional["Endpoint"],
                 settings: Settings, offloads: int, sources: Sources, jobs: Jobs, starter: Starter, lookout: Lookout,
                 stopping: threading.Event, tally: HookTally, kernel: Path, log: Log, gone: Callable[["Endpoint"], None]):
        """predecessor: the endpoint of the same ENI ID that has yet to go. stopping: once it is set, no create hook begins.
        gone(self): called as its last act."""
        self.identity = identity
        self.eni = identity.eni
        self.native = native
        self.state = State.SUCCEEDING if predecessor else State.WAITING
        self.failure: Optional[str] = None  # why it is not up, or why the last try failed
        self.made_ns = time.monotonic_ns()
        self._interfaces = Interfaces(identity, native, settings, offloads, sources, starter, lookout,
                                      self._interface_deleted, log)
        self.check_filter = self._interfaces.check_filter
        self.inward, self.outward = self.tunnels = self._interfaces.both
        self.kernel = kernel.share(native.slot())
        self.leaving = threading.Event()  # it is to be destroyed, and has been unpublished
        self.predecessor = predecessor
        self._settings = settings
        self._kernel = kernel
        self._jobs = jobs
        self._stopping = stopping
        self._log = log
        self._gone = gone
        self._lock = threading.Lock()
        self._serving = threading.Lock()  # held while its T threads are made, and while it is seen to that no more are
        self._busy = False     # a job is queued or under way
        self._deleted = False  # somebody else has deleted an interface
        self._undo = False     # it has to be taken down and made again
        self._ended = False    # nothing is left of it
        self._retry_ns = 0     # when to try again after a failure
        self._created = False  # its interfaces exist
        self._open = False     # its packets pass
        self._lively = False
        self._seen_ns = 0      # its newest packet at the last tick
        self._up_ns = 0
        self._final_counters: Optional[Counter[str]] = None
        self._carried = False
        self._commands = Commands(settings, identity, tally, log)
        self._silence = Silence(identity, log)
        self._silence.over = settings.no_return

    # ---- What others ask and tell of it ------------------------------------------------------------------------------

    def advance(self) -> None:
        """Queues its next step, if it has one."""
        with self._lock:
            if self._busy or self.predecessor or not self._next_step():
                return
            self._busy = True
        self._jobs.submit(self._do, self._urgency)

    def _urgency(self) -> int:
        """Which of those that wait is next: one that is there already, then the one for which most waits."""
        return URGENT if self._created or self.leaving.is_set() else self.native.ring_bytes()

    def succeed(self) -> None:
        """Its predecessor is gone."""
        with self._lock:
            self.predecessor, self.state = None, State.WAITING
        self.advance()

    def idle_since(self, then_ns: int) -> bool:
        return self.state in (State.UP, State.FAILED) and self.last_ns() <= then_ns

    def last_ns(self) -> int:
        """When the newest packet came from the load balancer or went back to it, or when it was made."""
        return max(self.native.last_ns(), self.kernel.last_ns())

    def tick(self, now_ns: int, idleness_shows: bool) -> None:
        """Once a second. idleness_shows: nothing has yet to be seen that waited while gwlbtun stood still."""
        self.native.age()
        last_ns = self.last_ns()
        if self.state is State.UP:
            self._interfaces.tick()
            self._restart_threads()
        if self.state is State.UP and (last_ns != self._seen_ns or not self._silence.over):
            self._seen_ns = last_ns
            self._watch(now_ns - self._up_ns if idleness_shows else 0)
        self.advance()

    def _restart_threads(self) -> None:
        with self._serving, contextlib.suppress(RuntimeError):  # no room: health names the thread, and there is another second
            for tunnel in self.tunnels if self._open else ():
                tunnel.restart_failed()

    def _watch(self, up_ns: int) -> None:
        if self._lively and self._silence.over:
            return
        counters = self.counters()
        if not self._lively and counters["packets_out"] + counters["packets_sent"] >= LIVELY_PACKETS:
            self._widen()
        self._silence.look(counters, up_ns)

    @property
    def hook_failures(self) -> int:
        return self._commands.failures

    @property
    def surroundings(self) -> Optional[Surroundings]:
        """Of its interfaces, if they are in a network namespace of their own."""
        return self._interfaces.surroundings

    def packets(self) -> int:
        """Packets in both directions."""
        counters = self.counters()
        return counters["packets_out"] + counters["packets_sent"]

    def may_go(self) -> bool:
        """Whether it may make room for another: it looks forged, or it has no flow left."""
        return self.state in (State.UP, State.FAILED) and not self.identity.named and (
            self.packets() < FEW_PACKETS
            or not self._settings.no_return and not any(flows.size for flows in self.native.flows()))

    def counters(self) -> Counter[str]:
        """Adds up the counters of all its T threads, and what the kernel has carried alone."""
        total = added_up(self.inward, self.outward)
        total.update(self.kernel.read().counters())
        # These are set before the counters go away, so a caller that missed some of them finds these.
        return total if self._final_counters is None else self._final_counters

    @property
    def carried(self) -> bool:
        """Whether it has ever sent a packet back to the load balancer; with --no-return, whether Linux has got one."""
        sign = "packets_out" if self._settings.no_return else "packets_sent"
        self._carried = self._carried or self.counters()[sign] > 0
        return self._carried

    def free(self) -> None:
        """Frees the native endpoint once nothing runs any more. Its counters keep their values."""
        self.kernel.end()
        self._final_counters = self.counters()
        self.native.free()

    # ---- Its life ----------------------------------------------------------------------------------------------------

    def _next_step(self) -> Optional[Callable[[Turn], None]]:
        if self._ended:
            return None
        if self.leaving.is_set():
            return self._go
        if self._stopping.is_set() or time.monotonic_ns() < self._retry_ns:
            return None
        if self._undo:
            return self._start_over
        return self._come_up if self.state is not State.UP else None

    def _do(self, turn: Turn) -> None:
        step = self._next_step()
        try:
            if step:
                step(turn)
        except Exception as error:  # whatever it was, the operator learns of it and it is tried again
            self._fail(f"{type(error).__name__}: {error}")
            if self.leaving.is_set():
                pause(RETRY_S)
        with self._lock:
            self._busy = False
        self.advance()

    def _come_up(self, turn: Turn) -> None:
        """Returns early when the endpoint is to go."""
        try:
            if not self._created:
                self.state = State.CREATING
                self._interfaces.create()
                self._created = True
            if self._commands.due and not self._run_create_hook(turn):
                return
        except (OSError, RuntimeError) as error:
            self._fail(getattr(error, "strerror", None) or str(error))
            return
        self._commands.owe_destroy()
        self._interfaces.settle()
        self._kernel.up(self)  # before packets pass: attaching filters of tc loses some
        with self._serving:
            self.native.open()
            self._open = True
            try:
                for tunnel in self.tunnels:
                    tunnel.serve()
            except OSError:
                self._undo = True
                raise
        self._lively = False
        if self.native.ring_bytes() >= LIVELY_BYTES:
            self._widen()
        self._up_ns = time.monotonic_ns()
        self.failure, self.state = None, State.UP
        self._log.important(CORE, f"New interface {self.identity.interfaces} created.")

    def _run_create_hook(self, turn: Turn) -> bool:
        """False: nothing may pass, for the hook's rules may be missing. Raises OSError or RuntimeError when it cannot start."""
        if self._stopping.is_set() or self.leaving.is_set():
            return False
        hook = self._commands.create(turn, self.leaving, self._interfaces.namespace)
        if hook.failure and self._settings.require_hook and not hook.terminated:
            self._fail(f"its create hook {hook.failure}, and --require-hook is set")
            self._undo = True
            return False
        return not hook.terminated

    def _interface_deleted(self, what: str) -> None:
        with self._lock:
            if self._undo or self.leaving.is_set():
                return
            self._undo = self._deleted = True
            self.failure, self.state = what, State.CREATING
        self._log.important(CORE, f"{what[0].upper()}{what[1:]}: gwlbtun makes it again.")
        self.advance()

    def _start_over(self, turn: Turn) -> None:
        self.state = State.CREATING
        self._take_down(turn)

    def _go(self, turn: Turn) -> None:
        self.state = State.DESTROYING
        self._take_down(turn)
        self._ended = True
        self.native.forget()  # now, as _gone() takes the table's lock
        self._gone(self)

    def _take_down(self, turn: Turn) -> None:
        """Ends its threads, runs the destroy hook while the interfaces still exist, and then deletes those.

        The threads end first: frames in the rings must not reach Linux once the hook has removed its rules. When somebody has
        deleted an interface, they stay in the rings.
        """
        self._kernel.down(self)
        with self._serving:
            for tunnel in self.tunnels:
                tunnel.stop_starting()
            if self._open and not self._deleted:
                start_to_drain(self.inward, self.outward)
            self._open = False
        self.native.stop()
        for tunnel in self.tunnels:
            tunnel.join()
        self._commands.destroy(turn, self._interfaces.namespace)
        if self._created:
            self._log.important(CORE, f"Destroying interface {self.identity.interfaces}.")
        removal.give_up(turn)
        self._interfaces.close()
        self.native.close()
        self._created = self._deleted = self._undo = False

    def _fail(self, why: str) -> None:
        if why != self.failure:
            self._log.critical(CORE, f"Cannot create {self.identity.interfaces}: {why}. "
                                     f"gwlbtun tries again every {RETRY_S:.0f} s.")
        self._retry_ns = time.monotonic_ns() + int(RETRY_S * 1e9)
        self.failure, self.state = why, State.FAILED

    def _widen(self) -> None:
        with self._serving, contextlib.suppress(RuntimeError):  # the starter goes on with those that are needed
            if not self._open:
                return
            for tunnel in self.tunnels:
                tunnel.widen()
            self._lively = True
