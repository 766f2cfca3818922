# SPDX-License-Identifier: MIT-0
"""The T threads: those of one interface, a queue each."""
import contextlib
import errno
import os
import select
import threading
from typing import Callable, List, Optional, Tuple

from . import fastpath
from .logs import CORE, Log
from .settings import Place
from .sources import Sources
from .starter import Starter
from .tun import Device, base60
from .worker import Worker

PREFIXES = {fastpath.GWI: "gwi-", fastpath.GWO: "gwo-"}
RETRY_S = 1.0                          # for a thread that is short of something
DELETED = (errno.EBADFD, errno.EBADF)  # what a queue says whose interface is gone


class Tunnel:
    """One of the two interfaces of an endpoint."""

    def __init__(self, side: int, eni: int, native: fastpath.NativeEndpoint, places: List[Place], sources: Sources,
                 starter: Starter, deleted: Callable[[str], None], log: Log):
        """deleted(text) is called when somebody has deleted the interface."""
        self.name = PREFIXES[side] + base60(eni)
        self._side = side
        self._native = native
        self._places = places
        self._sources = sources
        self._starter = starter
        self._deleted = deleted
        self._log = log
        self._device: Optional[Device] = None
        self._workers: List[Optional[Worker]] = [None] * len(places)
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._index: Optional[int] = None  # known to sources

    def create(self, offloads: int) -> None:
        """Makes the interface, down. Raises OSError."""
        self._device = Device(self.name, len(self._places), offloads)
        self._index = self._device.index
        self._sources.add_own(self._index)

    def up(self) -> None:
        self._made_device.up()

    def settle(self) -> None:
        """After the create hook."""
        self._made_device.settle()

    def serve(self) -> None:
        """After NativeEndpoint.open(): from now on each of its threads starts when it is needed."""
        self._stopping.clear()
        for index in range(len(self._places)):
            self._starter.watch(self._descriptors(index), self.start, index)

    def start(self, index: int) -> None:
        """Starts a thread, unless it runs. Raises RuntimeError when the system has no room for it."""
        with self._starting:
            if self._workers[index] is None:
                place = self._places[index]
                worker = Worker(self._log, place.name, lambda: self._serve(index), place.number, place.core)
                worker.start()
                self._workers[index] = worker

    def widen(self) -> None:
        """For an endpoint that carries traffic: all threads, and long queues. Raises RuntimeError as start() does."""
        self._made_device.widen()
        for index in range(len(self._places)):
            self.start(index)
            self._starter.ignore(self._descriptors(index))

    def stop_starting(self, drain: bool) -> None:
        """Before NativeEndpoint.stop(): no further thread starts; with drain, but those for which there are frames."""
        if not self._device:
            return
        for index in range(len(self._places)):
            self._starter.ignore(self._descriptors(index))
            if drain and self._native.has_frames(self._side, index):
                with contextlib.suppress(RuntimeError):
                    self.start(index)

    def join(self) -> None:
        """After NativeEndpoint.stop()."""
        self._stopping.set()
        for worker in filter(None, self._workers):
            worker.join()
        self._workers = [None] * len(self._places)

    def close(self) -> None:
        """The interface goes away. Its threads must have ended."""
        if self._device:
            self._device.close()
            self._device = None
        if self._index is not None:
            self._sources.remove_own(self._index)
            self._index = None

    @property
    def workers(self) -> List[Worker]:
        """Each thread that runs or has run."""
        return [worker for worker in self._workers if worker]

    @property
    def threads(self) -> List[Tuple[Worker, fastpath.Row]]:
        """Each thread that runs or has run, and its counters by name."""
        return [(worker, row) for worker, row in zip(list(self._workers), self.counters()) if worker]

    def counters(self) -> List[fastpath.Row]:
        """Those of each thread by name, be it there or not."""
        return self._native.rows(self._side)

    @property
    def _made_device(self) -> Device:
        assert self._device, "create() comes first"
        return self._device

    def _descriptors(self, index: int) -> List[int]:
        """What tells that a thread is needed."""
        return [self._native.bell(self._side, index), self._made_device.fds[index]]

    def _serve(self, index: int) -> None:
        _interrupt_nobody()
        fd = self._made_device.fds[index]
        told = False
        while not self._stopping.is_set():
            try:
                self._native.run(self._side, index, fd)
                return
            except OSError as error:
                if error.errno in DELETED or _is_gone(fd):
                    self._deleted(f"the interface {self.name} has been deleted")
                    return
                if not told:
                    self._log.critical(CORE, f"A thread of {self.name} cannot work: {error.strerror}. "
                                             f"gwlbtun tries again every {RETRY_S:.0f} s.")
                told = True
            self._stopping.wait(RETRY_S)


def _is_gone(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _interrupt_nobody() -> None:
    """Lets the thread wait for its core, when it wakes, until who has it sleeps or gives way.

    That is the receiver, as a rule, in the middle of a batch. Woken by its first write and put in its place, this thread
    would find one packet, and be put to sleep and woken again for each of the others.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # an operator's real-time policy is left alone
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
