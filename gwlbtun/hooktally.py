# SPDX-License-Identifier: MIT-0
"""How often hooks ran, how they ended and how long they took, over all endpoints, past ones included."""
import bisect
import itertools
import threading
from typing import Any, Dict

ACTIONS = ("create", "destroy")

# Upper bounds of a histogram. A hook that calls a few commands takes hundredths of a second; one that loses its turn takes 2.
BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class HookTally:
    """Counts the runs of hooks. Any thread may add one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = {action: _Runs() for action in ACTIONS}

    def add(self, action: str, succeeded: bool, seconds: float) -> None:
        """A hook has run to its end."""
        with self._lock:
            self._runs[action].add(succeeded, seconds)

    @property
    def failures(self) -> int:
        with self._lock:
            return sum(runs.failed for runs in self._runs.values())

    def record(self) -> Dict[str, Any]:
        """What resume() needs, in another program."""
        with self._lock:
            return {action: vars(runs) for action, runs in self._runs.items()}

    def resume(self, record: Dict[str, Any]) -> None:
        with self._lock:
            for action, runs in self._runs.items():
                runs.resume(record[action])

    def snapshot(self) -> Dict[str, Any]:
        with self._lock:
            return {action: runs.snapshot() for action, runs in self._runs.items()}


class _Runs:
    """Those of one action."""

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.seconds = 0.0
        self.by_bound = [0] * (len(BOUNDS_S) + 1)  # the last: longer than all bounds

    def add(self, succeeded: bool, seconds: float) -> None:
        self.ok += succeeded
        self.failed += not succeeded
        self.seconds += seconds
        self.by_bound[bisect.bisect_left(BOUNDS_S, seconds)] += 1

    def resume(self, record: Dict[str, Any]) -> None:
        if len(record["by_bound"]) == len(self.by_bound):  # a newer program may have other bounds
            self.by_bound = [int(count) for count in record["by_bound"]]
            self.ok, self.failed, self.seconds = int(record["ok"]), int(record["failed"]), float(record["seconds"])

    def snapshot(self) -> Dict[str, Any]:
        return {"ok": self.ok, "failed": self.failed, "seconds": round(self.seconds, 3),
                "buckets": [{"le": bound, "count": count}
                            for bound, count in zip(BOUNDS_S, itertools.accumulate(self.by_bound))]}
