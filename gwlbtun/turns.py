# SPDX-License-Identifier: MIT-0
"""Turns: threads that must not all work at once wait in line, first come, first served.

A turn is lost TURN_S after it was taken or renewed, once another thread waits for it: a thread that hangs holds up the others
for no longer. The first in line looks after it: it finds turns that are lost, and threads behind it that need not wait.
"""
import collections
import threading
import time
from typing import Optional, Set, overload

from .worker import WAKE_S

TURN_S = 2.0
POLL_S = 0.1


class Turn:
    """A place in the line, and then a turn. The turn ends when its context is left, at the latest."""

    def __init__(self, turns: "Turns", stop: Optional[threading.Event]):
        self.called = threading.Event()  # the thread that waits has something new to see
        self.until = float("inf")
        self._turns = turns
        self._stop = stop

    @property
    def stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def renew(self) -> None:
        """Lets it last for TURN_S from now on, unless it is lost."""
        self.until = time.monotonic() + TURN_S

    def end(self) -> None:
        """Ends the turn. Calling it again does nothing."""
        self._turns.end(self)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()


class Turns:
    """At most so many turns at a time."""

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._lock = threading.Lock()
        self._line: "collections.OrderedDict[Turn, None]" = collections.OrderedDict()  # the turns that wait, first to last
        self._taken: Set[Turn] = set()

    @overload
    def take(self) -> Turn: ...

    @overload
    def take(self, stop: Optional[threading.Event]) -> Optional[Turn]: ...

    def take(self, stop: Optional[threading.Event] = None) -> Optional[Turn]:
        """Waits for a turn. Returns None as soon as stop is set; without a stop it always returns a turn."""
        turn = Turn(self, stop)
        with self._lock:
            self._line[turn] = None
        while True:
            with self._lock:
                leads = next(iter(self._line)) is turn
                if leads:
                    self._look_after_line()
                if turn.stopped:
                    self._leave_line(turn)
                    return None
                if leads and len(self._taken) < self._jobs:
                    self._leave_line(turn)
                    self._taken.add(turn)
                    turn.renew()
                    return turn
            turn.called.wait(POLL_S if leads else WAKE_S)
            turn.called.clear()

    def end(self, turn: Turn) -> None:
        with self._lock:
            self._taken.discard(turn)
            self._call_first()

    def _look_after_line(self) -> None:
        now = time.monotonic()
        self._taken = {turn for turn in self._taken if turn.until > now}
        for turn in self._line:
            if turn.stopped:
                turn.called.set()

    def _leave_line(self, turn: Turn) -> None:
        del self._line[turn]
        self._call_first()

    def _call_first(self) -> None:
        if self._line:
            next(iter(self._line)).called.set()
