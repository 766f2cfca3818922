# SPDX-License-Identifier: MIT-0
"""Threads: ps shows their names, they may have a core of their own, and their failure is noticed."""
import os
import threading
import time
from typing import Callable, Iterable, Iterator, Optional, TypeVar

from . import fastpath
from .logs import CORE, Log

# A thread without a core of its own may use these. It would inherit the affinity of the thread that starts it.
_ALL_CORES = os.sched_getaffinity(0)

BREATH_S = 0.001
Item = TypeVar("Item")


def breathing(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a pause each millisecond: long work in Python must not keep the interpreter from other threads."""
    begin = time.monotonic()
    for item in items:
        yield item
        if time.monotonic() - begin >= BREATH_S:
            time.sleep(BREATH_S)
            begin = time.monotonic()


class Worker:
    """Runs body() once in a thread of its own. A body that raises has failed; one that returns has done its work.

    When a vital one fails, the daemon stops (by threading.excepthook), as it would limp without it.
    """

    def __init__(self, log: Log, name: str, body: Callable[[], None], number: int = 0, core: Optional[int] = None,
                 vital: bool = False):
        self.name = name
        self.number = number
        self.native_id = 0
        self.started_ns = time.monotonic_ns()
        self.failure: Optional[str] = None  # why the body raised
        self._log = log
        self._body = body
        self._core = core
        self._vital = vital
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
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        fastpath.set_thread_name(self.name)
        self.native_id = threading.get_native_id()
        self.started_ns = time.monotonic_ns()
        self._running.set()
        self._pin()
        try:
            self._body()
        except Exception as error:  # whatever it was, the log tells it, and health reports the thread as dead
            self.failure = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._log.critical(CORE, f"Thread {self.name} has failed and ended: {self.failure}.")
            if self._vital:
                raise

    def _pin(self) -> None:
        try:
            os.sched_setaffinity(0, _ALL_CORES if self._core is None else {self._core})
        except OSError as error:
            self._log.important(CORE, f"The kernel refuses core {self._core} to thread {self.name} ({error.strerror}): "
                                      "the thread runs without an affinity.")
