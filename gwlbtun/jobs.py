# SPDX-License-Identifier: MIT-0
"""What takes time in an endpoint's life, done in turn: by threads that exist only as long as there is work.

Jobs begin in the order in which they came, so many at a time. Each holds a turn, which ends with it; a job that must wait
for something that may never end gives its turn back before (Turn.end), and the next one begins beside it.
"""
import collections
import itertools
import threading
from typing import Callable, Deque

from .logs import Log
from .worker import Worker


class Turn:
    """The right to be one of those at work."""

    def __init__(self, give_back: Callable[[], None]):
        self._give_back = give_back
        self._ended = False

    def end(self) -> None:
        """Of effect once."""
        if not self._ended:
            self._ended = True
            self._give_back()


Job = Callable[[Turn], None]


class Jobs:
    """A queue of jobs and the control threads (C000 and so on) that do them."""

    def __init__(self, log: Log, at_once: int):
        self._log = log
        self._at_once = at_once
        self._queue: Deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._taken = 0  # turns
        self._idle = 0   # threads that wait for a job
        self._serial = itertools.count()

    def start(self) -> None:
        """The first thread: there is room for it now. Raises RuntimeError when there is not."""
        self._begin_thread()

    def submit(self, job: Job) -> None:
        with self._changed:
            self._queue.append(job)
            self._changed.notify()

    def tick(self) -> None:
        """Once a second: a thread for whom there was no room before."""
        self._assure_next()

    def _assure_next(self) -> None:
        """Has one thread more than there are at work, for a job that may come while all the others hang."""
        if self._idle == 0:
            try:
                self._begin_thread()
            except RuntimeError:
                pass  # those there are go on, and tick() tries again

    def _begin_thread(self) -> None:
        with self._changed:
            self._idle += 1
        try:
            Worker(self._log, f"gwlbtun C{next(self._serial) % 10_000_000:03d}", self._work).start()
        except RuntimeError:
            with self._changed:
                self._idle -= 1
            raise

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue or self._taken >= self._at_once:
                    if self._idle > self._at_once:
                        self._idle -= 1
                        return
                    self._changed.wait()
                job = self._queue.popleft()
                self._idle -= 1
                self._taken += 1
            self._assure_next()
            turn = Turn(self._give_back)
            try:
                job(turn)
            finally:
                with self._changed:
                    self._idle += 1
                turn.end()

    def _give_back(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify()
