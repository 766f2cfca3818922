# SPDX-License-Identifier: MIT-0
"""Time that does not pass as it should: somebody sets the system's clock, or gwlbtun does not run for a while.

All that gwlbtun does goes by the monotonic clock; only lines of the log bear the system's. Yet Python before 3.11 lets a
thread that waits for a lock for some seconds do so by the system's clock: set back by an hour, it would wait for an hour. A
signal has such threads reckon anew.

After a pause (SIGSTOP, a host that was suspended), packets wait in the kernel's queues. Until they have been seen, nothing
is idle that seems so. While a host is suspended, the monotonic clock stands still, and the system's is set ahead afterwards.
The kernel also has a clock that goes on. So this module measures by that one: a suspension is no step of the system's clock.
"""
import contextlib
import os
import threading
import time

from . import fastpath
from .logs import CORE, Log
from .worker import INTERRUPT

STEP_S = 0.5    # the least that is called a step: adjtime(3) takes longer for less
PAUSE_S = 3.0   # the least between two looks that is called a pause
GRACE_S = 2.0   # for packets that waited


class Lapses:
    """For the main thread."""

    def __init__(self, log: Log):
        self._log = log
        self._seen = _since_boot()
        self._offset = _offset()
        self._busy_s = 0.0
        self._grace_end = 0.0

    def look(self, busy_s: float) -> bool:
        """Once a second. busy_s: how long the main thread has been at other work so far, while all others ran.

        False: something may seem idle whose packets only wait.
        """
        busy_before, self._busy_s = self._busy_s, busy_s
        offset, before = _offset(), self._offset
        now, seen = _since_boot(), self._seen
        self._offset, self._seen = offset, now
        if abs(offset - before) >= STEP_S:
            _reckon_anew()
            self._log.important(CORE, f"The system's clock has gone {'ahead' if offset > before else 'back'} by "
                                      f"{abs(offset - before):.0f} s. That concerns the times in this log alone.")
        paused_s = now - seen - (busy_s - busy_before)
        if paused_s >= PAUSE_S:
            self._grace_end = now + GRACE_S
            self._log.important(CORE, f"gwlbtun has not run for {paused_s:.0f} s: it was stopped, or the host stood still. "
                                      "It goes on.")
        return now >= self._grace_end


def _since_boot() -> float:
    """The time that the host has been suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _offset() -> float:
    """Of the system's clock to the one that nobody sets."""
    return time.time() - _since_boot()


def _reckon_anew() -> None:
    """Interrupts all threads but this one. Those that wait for a lock then wait for what is left of their time."""
    for thread in threading.enumerate():
        if thread.native_id and thread.native_id != threading.get_native_id():
            with contextlib.suppress(OSError):  # it has ended
                fastpath.signal_thread(os.getpid(), thread.native_id, INTERRUPT)
