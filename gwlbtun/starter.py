# SPDX-License-Identifier: MIT-0
"""Starts T threads when there is something for them to do.

An endpoint costs what its traffic warrants: a T thread does not exist before it is needed. Until then this one thread, for
all endpoints, watches its bell, which U threads ring, and its queue.
"""
import select
import threading
import time
from typing import Callable, Dict, List, Tuple

from .logs import CORE, Log
from .worker import WAKE_S, Worker

RETRY_S = 0.5   # before another try, when the system has no room for a thread
TELL_S = 10.0   # between two lines that say so

Start = Callable[[int], None]  # starts the thread of this index; raises RuntimeError when there is no room for it


class Starter:
    """One thread, for all endpoints."""

    def __init__(self, log: Log):
        self._log = log
        self._epoll = select.epoll()
        self._watched: Dict[int, Tuple[Start, int, List[int]]] = {}  # by each descriptor
        self._lock = threading.Lock()
        self._told = -TELL_S
        self._lacking = False
        self._worker = Worker(log, "gwlbtun Starter", self._run, vital=True, wakes=True)

    def start(self) -> None:
        self._worker.start()

    def watch(self, descriptors: List[int], start: Start, index: int) -> None:
        """Calls start(index) when one of the descriptors is readable, until ignore(). Raises OSError, and watches none then."""
        with self._lock:
            try:
                for fd in descriptors:
                    self._epoll.register(fd, select.EPOLLIN)
                    self._watched[fd] = start, index, descriptors
            except OSError:
                self._ignore(descriptors)
                raise

    def ignore(self, descriptors: List[int]) -> None:
        """To be called before they are closed. When it returns, no start() for them is under way."""
        with self._lock:
            self._ignore(descriptors)

    def _ignore(self, descriptors: List[int]) -> None:
        for fd in descriptors:
            if self._watched.pop(fd, None):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            ready = self._epoll.poll(WAKE_S)
            try:
                for fd, _ in ready:
                    self._begin(fd)
                if ready and self._lacking:
                    self._lacking = False
                    self._log.important(CORE, "gwlbtun can start tunnel threads again.")
            except RuntimeError as error:
                self._tell(str(error))
                time.sleep(RETRY_S)

    def _begin(self, fd: int) -> None:
        with self._lock:
            if fd not in self._watched:
                return
            start, index, descriptors = self._watched[fd]
            start(index)
            self._ignore(descriptors)

    def _tell(self, why: str) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told, self._lacking = now, True
            self._log.important(CORE, f"gwlbtun cannot start a tunnel thread ({why}). It keeps trying.")
