# SPDX-License-Identifier: MIT-0
"""Which threads stand still.

A thread that has nothing to do is well. One that leaves its work undone is stuck. What shows it depends on the thread, and
costs the thread nothing:

- A receiver or a tunnel thread: there is work at two looks in a row, and its counters say that it has done none
  (native/progress.h). It is the receiver's fault when the receiver is on duty for the tunnel thread.
- The logger: lines wait, their reader would take them, and none is written. A slow reader is no fault of gwlbtun's.
- Control threads wake at least once a second, or are woken by the caller of look() (the health server). One that has not
  run on any core since the last look stands still. A hook may take its time: the thread that waits for it looks after it.

The threads that read what hooks print are not looked at, as they may well sleep for ever.
"""
import time
from typing import Dict, List, Sequence, Tuple

from .endpoints import Endpoints
from .logs import CORE, Log
from .receiver import Receiver
from .state import State
from .worker import Worker, breathing, waking

TELL_S = 10.0  # between two lines about threads that are stuck
NAMES = 8      # in one of them


class Progress:
    """Looks at all threads but the one that looks."""

    def __init__(self, receivers: Sequence[Receiver], endpoints: Endpoints, log: Log, patience: int):
        """patience: at how many looks in a row a thread has to have stood still to be stuck."""
        self._receivers = receivers
        self._endpoints = endpoints
        self._log = log
        self._patience = patience
        self._written = 0
        self._logger_looks = 0
        self._workers: Dict[Worker, Tuple[int, int]] = {}  # CPU time at the last look, and for how many it has not grown
        self._told = 0.0
        self.stuck: List[str] = []

    def look(self) -> None:
        """To be called about once a second, by one thread. Afterwards `stuck` names the threads that are."""
        found = [*self._stuck_receivers(), *self._stuck_tunnels(), *self._stuck_logger(), *self._stuck_workers()]
        found = list(dict.fromkeys(found))  # a receiver may be named for several reasons
        if not found and self.stuck:
            self._log.important(CORE, "No thread is stuck any more.")
        elif set(found) - set(self.stuck) and (not self.stuck or time.monotonic() - self._told >= TELL_S):
            self._told = time.monotonic()
            self._log.critical(CORE, f"Stuck, with work to do: {_list(found)}. Until that ends, gwlbtun does not feed "
                                     "systemd's watchdog, which then starts gwlbtun again.")
        self.stuck = found

    def _stuck_receivers(self) -> List[str]:
        return [receiver.worker.name for receiver in self._receivers
                if receiver.worker.alive and receiver.stalled() >= self._patience]

    def _stuck_tunnels(self) -> List[str]:
        names = []
        for endpoint in breathing(self._endpoints.glance()):
            for tunnel in endpoint.tunnels if endpoint.state in (State.UP, State.DESTROYING) else ():
                for worker, looks, receiver in tunnel.stalled():
                    if looks >= self._patience:
                        names.append(f"{worker.name} of {tunnel.name}" if receiver < 0
                                     else self._receivers[receiver].worker.name)
        return names

    def _stuck_logger(self) -> List[str]:
        waits, written = self._log.progress()
        self._logger_looks = self._logger_looks + 1 if waits and written == self._written else 0
        self._written = written
        return ["gwlbtun Logger"] if self._logger_looks >= self._patience else []

    def _stuck_workers(self) -> List[str]:
        seen = {}
        for worker in waking():
            try:
                cpu_ns = worker.cpu_ns()
            except OSError:  # it has ended
                continue
            before, looks = self._workers.get(worker, (0, 0))
            seen[worker] = cpu_ns, looks + 1 if cpu_ns == before else 0
        self._workers = seen
        return [worker.name for worker, (_, looks) in seen.items() if looks >= self._patience]


def _list(names: List[str]) -> str:
    return ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else "")
