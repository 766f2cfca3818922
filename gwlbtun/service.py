# SPDX-License-Identifier: MIT-0
"""gwlbtun as a service of systemd's: what systemd is told of its life, its health and its threads.

Without NOTIFY_SOCKET in the environment nobody wants to know, and nothing here costs anything.
"""
import contextlib
import faulthandler
import math
import threading
import time
from typing import List, Optional

from .draining import Draining
from .endpoints import Endpoints
from .health import Health
from .logs import Log
from .notify import Notifier
from .progress import Progress
from .receiver import Receiver
from .web import Server

TICK_S = 1.0
TICK_SHARE = 0.25      # of the watchdog's time, for watchdogs of a few seconds
TICK_LEAST_S = 0.05
PATIENCE_SHARE = 0.5   # of the watchdog's time: from then on a thread that stands still is stuck
PATIENCE_LEAST_S = 3.0
LOOK_SHARE = 0.05      # of one core, at most, for looking at threads and for the status
EXTENSION_S = 90       # for a stop, from each endpoint that is gone to the next; it is what systemd gives to begin with


class Service:
    """Made by the main thread, which calls all but stopping(). Any thread may call that."""

    def __init__(self, log: Log, stopping: threading.Event, draining: Draining):
        self._log = log
        self._draining = draining
        self._stopping = stopping
        self._notifier = Notifier(log)
        self.wanted = self._notifier.wanted
        self.environment = self._notifier.environment  # which another program in this process would be given
        self.tick_s = TICK_S
        self._watchdog_s = self._notifier.watchdog_s
        if self._watchdog_s:
            self.tick_s = min(TICK_S, max(self._watchdog_s * TICK_SHARE, TICK_LEAST_S))
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                faulthandler.enable()  # so that the watchdog's SIGABRT shows where each thread stands
        self._progress: Optional[Progress] = None
        self._look_due = 0.0
        self._status = ""
        self._left: Optional[int] = None  # endpoints, when the stop was last seen to go on

    def begin(self, health: Health, receivers: List[Receiver], endpoints: Endpoints, server: Optional[Server]) -> None:
        """Everything runs: says so."""
        self._health, self._endpoints, self._server = health, endpoints, server
        if self._watchdog_s:
            patience_s = max(self._watchdog_s * PATIENCE_SHARE, PATIENCE_LEAST_S)
            self._progress = Progress(receivers, endpoints, self._log, math.ceil(patience_s / self.tick_s))
        self._status = self._describe()
        self._notifier.tell_status(self._status, READY=1)

    def draining(self) -> None:
        """The daemon begins to drain. systemd's time for a stop begins now as well, so gwlbtun asks for more."""
        self._notifier.tell_status(self._describe(), STOPPING=1,
                                   EXTEND_TIMEOUT_USEC=(self._draining.seconds + EXTENSION_S) * 1_000_000)

    def stopping(self) -> None:
        """The daemon begins to stop."""
        self._notifier.tell(STOPPING=1)

    def reloading(self) -> None:
        """The daemon begins to restart in place. systemd waits for begin(), by the next program, or for go_on()."""
        self._notifier.tell_reloading()

    def go_on(self) -> None:
        """The daemon has not restarted after all."""
        self._notifier.tell(READY=1)

    def tick(self) -> None:
        """To be called every tick_s."""
        if not self.wanted:
            return
        begin = time.monotonic()
        if begin >= self._look_due:
            self._look()
            end = time.monotonic()
            self._look_due = end + (end - begin) * (1 / LOOK_SHARE - 1) - self.tick_s
        if self._progress and self._progress.stuck:
            self._notifier.flush()
        else:
            self._notifier.feed()

    def _look(self) -> None:
        if self._progress:
            self._progress.look()
            if self._server:
                self._server.wake()  # its thread has to have run until the next look
        if self._stopping.is_set():
            left = self._endpoints.left()
            if self._left is not None and left < self._left:
                self._notifier.tell(EXTEND_TIMEOUT_USEC=EXTENSION_S * 1_000_000)
            self._left = left
        status = self._describe()
        if status != self._status:
            self._status = status
            self._notifier.tell_status(status)

    def _describe(self) -> str:
        if self._stopping.is_set():
            return f"Stopping, {_endpoints(self._endpoints.left())} left"
        if self._draining.begun:
            return f"Draining, {math.ceil(self._draining.left_s)} s left, {_endpoints(len(self._endpoints.glance()))}"
        reasons = self._health.reasons()
        return f"{_endpoints(len(self._endpoints.glance()))}, " + (f"unhealthy: {reasons[0]}" if reasons else "healthy")


def _endpoints(number: int) -> str:
    return f"{number} endpoint{'s' * (number != 1)}"
