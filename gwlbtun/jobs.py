# SPDX-License-Identifier: MIT-0
"""Control threads, which do in turn (turns.py) what takes time in an endpoint's life.

Each job has a turn of its own. The most urgent one begins first, and of equals the one that came first, so many invented
endpoints do not hold up one with traffic. A job that hangs loses its turn, and the next one begins beside it in another thread:
there is always one thread more than are at work.
"""
import itertools
import threading
from typing import Callable, List, Tuple

from .logs import Log
from .privilege import Rights
from .turns import Turn, Turns
from .worker import WAKE_S, Worker

IDLE_KEPT = 2  # idle threads kept for when the system has no room for more

Job = Callable[[Turn], None]
Urgency = Callable[[], int]  # asked when a turn is free: the highest is next


class Jobs:
    """A queue of jobs and the threads C000, C001 and so on that do them."""

    def __init__(self, log: Log, at_once: int):
        self._log = log
        self._turns = Turns(at_once)
        self._queue: List[Tuple[Job, Urgency]] = []
        self._changed = threading.Condition()
        self._idle = 0  # threads that wait for a job
        self._at_work = 0
        self._least: float = 0  # only jobs that are as urgent may begin
        self._serial = itertools.count()

    def start(self) -> None:
        """Starts the first threads, while the system has room for them. Raises RuntimeError when it has none."""
        for _ in range(IDLE_KEPT):
            self._begin_thread()

    def submit(self, job: Job, urgency: Urgency) -> None:
        with self._changed:
            self._queue.append((job, urgency))
            self._changed.notify()

    def admit(self, least: float) -> bool:
        """Lets only jobs begin that are at least so urgent; all wait with math.inf. True: none is under way."""
        with self._changed:
            self._least = least
            self._changed.notify_all()
            return self._at_work == 0

    def tick(self) -> None:
        """Once a second: starts the thread for which the system had no room before, or in place of those that have failed."""
        if self._idle == 0:
            try:
                self._begin_thread()
            except RuntimeError:
                pass  # the existing threads go on

    def _begin_thread(self) -> None:
        with self._changed:
            self._idle += 1
        try:
            Worker(self._log, f"gwlbtun C{next(self._serial) % 10_000_000:03d}", self._work, vital=True, wakes=True,
                   rights=Rights.PROCESSES, failed=self._lose_one).start()
        except RuntimeError:
            self._lose_one()
            raise

    def _lose_one(self) -> None:
        """It waits for jobs no more. Another may have to do them, if only to take everything down."""
        with self._changed:
            self._idle -= 1

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._idle > IDLE_KEPT:
                    self._idle -= 1
                    return
                if not self._changed.wait_for(self._any, WAKE_S):
                    continue
            with self._turns.take() as turn:
                with self._changed:
                    if not self._any():  # another thread was faster
                        continue
                    self._idle -= 1
                    self._at_work += 1
                    most_urgent = max(self._queue, key=lambda waiting: waiting[1]())
                    self._queue.remove(most_urgent)
                self.tick()
                try:
                    most_urgent[0](turn)
                finally:
                    with self._changed:
                        self._idle += 1
                        self._at_work -= 1

    def _any(self) -> bool:
        """Whether a job may begin."""
        return any(urgency() >= self._least for _, urgency in self._queue)
