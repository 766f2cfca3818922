# SPDX-License-Identifier: MIT-0
"""A thread with a name that ps shows, a core where one is asked, and an end that is noticed."""
import os
import threading
import time
from typing import Callable, Optional

from . import fastpath
from .logs import CORE, Log

# What a thread without a core of its own may use: threads inherit the affinity of the one that starts them.
_ALL_CORES = os.sched_getaffinity(0)


class Worker:
    """Runs body() once in a thread of its own. A body that raises has failed; one that returns has done its work.

    When one that is vital fails the daemon stops, by way of threading.excepthook: it would limp without it.
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
        except Exception as error:  # whatever it was, it is told, and health reports the thread as dead
            self.failure = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._log.critical(CORE, f"Thread {self.name} has failed and ended: {self.failure}.")
            if self._vital:
                raise

    def _pin(self) -> None:
        try:
            os.sched_setaffinity(0, _ALL_CORES if self._core is None else {self._core})
        except OSError as error:
            self._log.important(CORE, f"The kernel refuses core {self._core} to thread {self.name} ({error.strerror}): "
                                      "it runs without an affinity.")
