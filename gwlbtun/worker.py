# SPDX-License-Identifier: MIT-0
"""Threads: ps shows their names, they may have a core of their own, and their failure is noticed."""
import contextlib
import os
import signal
import threading
import time
from typing import Callable, Dict, Iterable, Iterator, List, Optional, TypeVar

from . import fastpath, privilege
from .logs import CORE, Log
from .privilege import Rights

# A thread without a core of its own may use these. It would inherit the affinity of the thread that starts it.
_ALL_CORES = os.sched_getaffinity(0)

# <linux/posix-timers.h>: the CPU clock of a thread is ~TID in the upper bits, CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED.
_THREAD_CPU_CLOCK = 4 | 2

# The main thread's alone: what it has yet to hear then waits until it can be heard, also across execve().
FOR_MAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPT = signal.SIGURG  # the kernel ignores it by default, and so does whoever does not expect it

BREATH_S = 0.001
AGAIN_S = 1.0       # before the first time that what has failed begins again
AGAIN_MOST_S = 4.0  # before others, as who stops gwlbtun may wait for it
LIVED_S = 60.0      # what went well for so long has not failed time after time
WAKE_S = 1.0  # a thread that wakes does so at least this often, unless it is at work
Item = TypeVar("Item")

_waking: "Dict[Worker, None]" = {}  # those that run


def breathing(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a pause each millisecond: long work in Python must not keep the interpreter from other threads."""
    begin = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - begin >= BREATH_S:
            time.sleep(BREATH_S)
            begin = time.monotonic()


def waking() -> "List[Worker]":
    """The threads that run and wake."""
    return list(_waking)


def pause(seconds: float) -> None:
    """As time.sleep(), for a thread that wakes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(max(end - time.monotonic(), 0), WAKE_S))


class Backoff:
    """How long what has failed waits until it begins again: the longer, the sooner it has failed after the last time."""

    def __init__(self, most_s: float):
        self._most_s = most_s
        self._pause_s = 0.0
        self._failed = time.monotonic()

    def after_failure(self) -> float:
        now = time.monotonic()
        lived_s, self._failed = now - self._failed - self._pause_s, now
        self._pause_s = AGAIN_S if lived_s >= LIVED_S or not self._pause_s else min(2 * self._pause_s, self._most_s)
        return self._pause_s


class Worker:
    """Runs body() in a thread of its own. A body that raises has failed; one that returns has done its work.

    When a vital one fails, the daemon stops (by threading.excepthook), as it would limp without it. `again`: one that fails
    begins again after a pause. One that wakes never waits for longer than WAKE_S, so that it is known to be well (progress.py).
    """

    def __init__(self, log: Log, name: str, body: Callable[[], None], number: int = 0, core: Optional[int] = None,
                 vital: bool = False, again: bool = False, wakes: bool = False, rights: Rights = Rights.CONTROL,
                 begun: Callable[[], None] = lambda: None, failed: Callable[[], None] = lambda: None):
        """begun(): the thread's first act, before start() returns. failed(): the last act of one that has failed."""
        self.name = name
        self.number = number
        self.native_id = 0
        self.started_ns = time.monotonic_ns()
        self.failure: Optional[str] = None  # why the body raised
        self._log = log
        self._body = body
        self._core = core
        self._vital = vital
        self._again = Backoff(AGAIN_MOST_S) if again else None
        self._wakes = wakes
        self._rights = rights
        self._begun = begun
        self._failed = failed
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """On return the thread bears its name. Raises RuntimeError when the system has no room for another thread."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise RuntimeError(f"{error}: allow more of them (TasksMax= of the unit, ulimit -u, kernel.threads-max)"
                               ) from None
        self._running.wait()

    def join(self, timeout: Optional[float] = None) -> None:
        self._again = None  # what fails at its end must not begin again
        self._thread.join(timeout)

    def interrupt(self) -> None:
        """Makes a system call of the thread return, if one is under way. A thread that has ended is left alone."""
        if self._thread.ident and self._thread.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._thread.ident, INTERRUPT)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, FOR_MAIN)
        fastpath.set_thread_name(self.name)
        self.native_id = threading.get_native_id()
        self.started_ns = time.monotonic_ns()
        if self._wakes:
            _waking[self] = None
        self._begun()
        self._running.set()
        try:
            self._pin()
            privilege.take(self._rights)
            while not self._attempt():
                pass
        except Exception as error:  # whatever it was, the log tells it, and health reports the thread as dead
            self.failure = _text_of(error)
            self._log.critical(CORE, f"Thread {self.name} has failed and ended: {self.failure}.")
            self._failed()
            if self._vital:
                raise
        finally:
            _waking.pop(self, None)

    def _attempt(self) -> bool:
        """Whether its work is done."""
        try:
            self._body()
        except Exception as error:
            again = self._again
            if not again:
                raise
            pause_s = again.after_failure()
            self._log.critical(CORE, f"Thread {self.name} has failed: {_text_of(error)}. It begins again in {pause_s:.0f} s.")
            pause(pause_s)
            return False
        return True

    def cpu_ns(self) -> int:
        """How long it has run on any core. Raises OSError when it has ended."""
        return time.clock_gettime_ns(~self.native_id << 3 | _THREAD_CPU_CLOCK)

    def _pin(self) -> None:
        try:
            os.sched_setaffinity(0, _ALL_CORES if self._core is None else {self._core})
        except OSError as error:
            self._log.important(CORE, f"The kernel refuses core {self._core} to thread {self.name} ({error.strerror}): "
                                      "the thread runs without an affinity.")


def _text_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
