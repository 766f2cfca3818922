# SPDX-License-Identifier: MIT-0
"""An endpoint that passes from one program to the next, with its interfaces, its flows and its counters.

It rests while nobody works for it: its T threads have ended, and its rings are empty as far as Linux took what they held.
"""
import collections
import contextlib
import time
from typing import Any, Counter, Dict, List, Set

from ..endpoint import Endpoint
from ..fastpath import Row
from ..logs import CORE
from ..state import State
from ..tunnel import start_to_drain
from .state import Json


CALM_S = 3.0  # after a restart: what has waited goes through


class PassingEndpoint(Endpoint):
    """One that can be put to rest, described, and adopted."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._calm_ns = 0  # until then its TUN queues stay as long as they are

    @property
    def settled(self) -> bool:
        """While no job is under way: nothing of it is half made, nor about to go."""
        return not (self._busy and self._created or self.leaving.is_set() or self.predecessor)

    def prepare_to_rest(self) -> None:
        """While packets still flow: makes its TUN queues long enough for what will arrive meanwhile."""
        if self._open and self._lively:
            for tunnel in self.tunnels:
                tunnel.lengthen()

    def begin_rest(self) -> None:
        """Once the receivers have paused: tells its T threads to write out what the rings hold, and to end."""
        if not self._kernel.stays:
            self._kernel.down(self)
        with self._serving:
            for tunnel in self.tunnels:
                tunnel.stop_starting()
            if self._open:
                start_to_drain(self.inward, self.outward)
        self.native.stop()

    def rest(self) -> None:
        """After begin_rest(): returns when its T threads have ended."""
        for tunnel in self.tunnels:
            tunnel.join()

    def go_on(self) -> None:
        """Ends the rest, in this program. What cannot be, is made again."""
        self.native.close()
        try:
            self._serve(at_once=self._lively)
        except OSError as error:
            self._log.critical(CORE, f"{self.identity.interfaces} cannot go on ({error.strerror}): gwlbtun makes it again.")
            with self._lock:
                self._undo = True

    def record(self) -> Json:
        """All that the next program has to know of it."""
        native = self.native
        carried, counted_then = self.kernel.record()
        return {"eni": self.eni, "slot": native.slot(), "made_ns": self.made_ns, "last_ns": self.last_ns(),
                "ring_drops": native.ring_drops(), "flow_drops": native.flow_drops(), "up_ns": self._up_ns,
                "state": self.state.value, "failure": self.failure, "retry_ns": self._retry_ns, "created": self._created,
                "open": self._open, "undo": self._undo, "lively": self._lively, "silence": self._silence.over,
                "carried": self.carried, "kernel": carried, "kernel_counted": counted_then,
                "commands": self._commands.record(),
                "counters": [[_counts(row) for row in tunnel.counters()] for tunnel in self.tunnels],
                "interfaces": self._interfaces.record() if self._created else None}

    def adopt(self, record: Json, queues: Set[int]) -> None:
        """Becomes what the record says, with those descriptors that are there. Whatever it raises, it is then as if it had just
        been made, with its counters; or, when its interfaces are gone, as if somebody had deleted them."""
        for tunnel, rows in zip(self.tunnels, record["counters"]):
            tunnel.restore_counters(rows)
        if "kernel" in record:  # not from a program that had no path in the kernel
            self.kernel.resume(record["kernel"], record["kernel_counted"] if self._kernel.adopted else None)
        fds = [fd for tunnel in (record["interfaces"] or {"tunnels": ()})["tunnels"] for fd in tunnel["fds"]]
        if not queues.issuperset(fds) or len(fds) != len(set(fds)):
            raise ValueError("queues of its interfaces are missing")
        queues.difference_update(fds)
        self.made_ns = int(record["made_ns"])
        self.native.resume(int(record["last_ns"]), int(record["ring_drops"]), int(record["flow_drops"]))
        self._commands.resume(record["commands"])
        if record["interfaces"]:
            self._undo = True  # unless all of them are there
            self._interfaces.adopt(record["interfaces"])
            self._created = True
        self._undo = bool(record["undo"])
        self._carried = bool(record["carried"])
        self._silence.over = self._silence.over or bool(record["silence"])
        self._up_ns, self._retry_ns = int(record["up_ns"]), int(record["retry_ns"])
        self.failure = record["failure"]
        self.state = State(record["state"])
        if self._created and record["open"]:
            self._open = True
            self._calm_ns = time.monotonic_ns() + int(CALM_S * 1e9)
            self._serve(at_once=bool(record["lively"]))
        elif self.state is not State.FAILED:
            self.state = State.WAITING

    def _serve(self, at_once: bool) -> None:
        """at_once: all its T threads start; otherwise each starts when it is needed."""
        if not self._open:
            return
        with self._serving:
            self.native.open()
            for tunnel in self.tunnels:
                tunnel.serve()
                if at_once:
                    with contextlib.suppress(RuntimeError):  # the starter goes on with those that are needed
                        tunnel.start_all()
        self._kernel.up(self)

    def _widen(self) -> None:
        """Not before what has waited in its queues is gone: shorter ones would lose it."""
        if time.monotonic_ns() >= self._calm_ns:
            super()._widen()

    def descriptors(self) -> List[int]:
        """Those that have to stay open."""
        return [fd for tunnel in self.tunnels for fd in tunnel.fds]


def _counts(row: Row) -> Dict[str, int]:
    """Those that are not 0. Most threads of many endpoints have never run."""
    return {name: count for name, count in zip(row._fields, row) if count}


def counted(record: Json) -> Counter[str]:
    """All that an endpoint has counted; nothing of it if the record is none."""
    total: Counter[str] = collections.Counter()
    try:
        for row in (row for rows in record["counters"] for row in rows):
            total.update({name: int(count) for name, count in row.items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return total
