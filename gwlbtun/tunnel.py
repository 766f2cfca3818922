# SPDX-License-Identifier: MIT-0
"""The T threads of one interface, each of which serves one of its queues."""
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
RETRY_S = 1.0                          # before a thread that lacks something tries again
DELETED = (errno.EBADFD, errno.EBADF)  # the errors of a queue whose interface is gone


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
        self._index: Optional[int] = None  # that sources knows

    def create(self, offloads: int) -> None:
        """Makes the interface, down. Raises OSError."""
        self._device = Device(self.name, len(self._places), offloads)
        self._index = self._device.index
        self._sources.add_own(self._index)

    def up(self) -> None:
        self._made_device.up()

    def settle(self) -> None:
        """To be called after the create hook."""
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

    def stop_starting(self) -> None:
        """Before NativeEndpoint.stop(): the starter starts no further thread."""
        if self._device:
            for index in range(len(self._places)):
                self._starter.ignore(self._descriptors(index))

    @property
    def with_frames(self) -> List[int]:
        """The threads that have frames to write."""
        return [index for index in range(len(self._places)) if self._native.has_frames(self._side, index)]

    def start_all(self) -> None:
        """Raises RuntimeError as start() does."""
        for index in range(len(self._places)):
            self.start(index)

    def join(self) -> None:
        """After NativeEndpoint.stop()."""
        self._stopping.set()
        for worker in filter(None, self._workers):
            worker.join()
        self._workers = [None] * len(self._places)

    def close(self) -> None:
        """Deletes the interface. Its threads must have ended."""
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
        """The counters of each thread by name, whether or not it runs."""
        return self._native.rows(self._side)

    @property
    def _made_device(self) -> Device:
        assert self._device, "create() comes first"
        return self._device

    def _descriptors(self, index: int) -> List[int]:
        """The descriptors that become readable when a thread is needed."""
        return [self._native.bell(self._side, index), self._made_device.fds[index]]

    def _serve(self, index: int) -> None:
        _interrupt_nobody()
        fd = self._made_device.fds[index]
        told = False
        while True:
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
            if self._stopping.wait(RETRY_S):
                return


def start_to_drain(inward: Tunnel, outward: Tunnel) -> None:
    """Starts the threads that the frames in the rings need, there and back."""
    with contextlib.suppress(RuntimeError):  # no room for a thread: the frames go with their rings
        waiting = inward.with_frames
        for index in waiting:
            inward.start(index)
        if waiting:
            outward.start_all()


def _is_gone(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _interrupt_nobody() -> None:
    """Keeps this thread, when it wakes, from interrupting the thread that has its core.

    As a rule that is the receiver, in the middle of a batch. If its first write let this thread take its place, this thread
    would find one packet, and sleep and wake again for each of the others.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # an operator's real-time policy stays
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
