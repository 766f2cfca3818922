# SPDX-License-Identifier: MIT-0
"""The T threads of one interface, each of which serves one of its queues."""
import collections
import contextlib
import errno
import os
import select
import threading
import time
from typing import Any, Callable, Counter, Dict, List, Optional, Tuple

from . import fastpath
from .identity import Identity
from .link import Link, Links
from .logs import CORE, Log
from .netns import Namespace
from .privilege import Rights
from .settings import Place
from .sources import Sources
from .starter import Starter
from .tun import Device
from .worker import Backoff, Worker

RETRY_S = 1.0                          # before a thread that lacks something tries again
RETRY_MOST_S = 60.0                    # before one is started again that fails time after time
DELETED = (errno.EBADFD, errno.EBADF)  # the errors of a queue whose interface is gone


class Tunnel:
    """One of the two interfaces of an endpoint."""

    def __init__(self, side: int, identity: Identity, native: fastpath.NativeEndpoint, places: List[Place],
                 sources: Sources, starter: Starter, deleted: Callable[[str], None], log: Log):
        """deleted(text) is called when somebody has deleted the interface."""
        self.name = identity.gwi if side == fastpath.GWI else identity.gwo
        self.title = identity.title(self.name)  # for the log
        self._side = side
        self._native = native
        self._places = places
        self._sources = sources
        self._starter = starter
        self._deleted = deleted
        self._log = log
        self._device: Optional[Device] = None
        self.link = Link(self.title, log)
        self._workers: List[Optional[Worker]] = [None] * len(places)
        self._failed: Dict[int, _Failure] = {}  # of threads, by their indices
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._index: Optional[int] = None  # that sources knows

    def create(self, offloads: int, namespace: Optional[Namespace]) -> None:
        """Makes the interface, down. Raises OSError."""
        self._device = Device(self.name, len(self._places), offloads, namespace)
        if namespace is None:  # in another, no packet gets from the interface to our own sockets
            self._index = self._device.index
            self._sources.add_own(self._index)

    def adopt(self, record: Dict[str, Any], offloads: int, namespace: Optional[Namespace]) -> None:
        """Takes over an interface that another program has made, with what record() said there. Raises OSError."""
        fds = [int(fd) for fd in record["fds"]]
        self._device = device = Device.adopt(self.name, int(record["index"]), int(record["tx_queue"]), fds, offloads, namespace)
        if namespace is None:
            self._index = device.index
            self._sources.add_own(self._index)
        device.add_queues(len(self._places))
        self._native.stop()
        while len(fds) > len(self._places):  # what waits in a queue that is to go, goes first
            with contextlib.suppress(OSError):
                self._native.run(self._side, 0, fds[-1])
            os.close(fds.pop())
        self._native.close()

    def restore_counters(self, rows: List[Dict[str, int]]) -> None:
        """Goes on from those of another program, whether or not there is anything to adopt."""
        self._native.restore_counters(self._side, rows)

    def record(self) -> Dict[str, Any]:
        """What adopt() needs."""
        device = self._made_device
        return {"index": device.index, "tx_queue": device.tx_queue, "fds": device.fds,
                "link": {"fault": self.link.fault} if self.link.begun else None}

    def lengthen(self) -> None:
        """Before it rests."""
        self._made_device.lengthen()

    @property
    def index(self) -> int:
        """Of the interface, in its namespace. After create()."""
        return self._made_device.index

    @property
    def fds(self) -> List[int]:
        """The queues."""
        return list(self._device.fds) if self._device else []

    def up(self) -> None:
        self._made_device.up()

    def settle(self, links: Links) -> None:
        """To be called after the create hook."""
        self._made_device.settle()
        self.link.begin(self._made_device, links)

    def go_on_watching(self, record: Dict[str, Any], links: Links) -> None:
        """After adopt(), with the same record."""
        if record.get("link"):
            self.link.begin(self._made_device, links, record["link"]["fault"])

    def serve(self) -> None:
        """After NativeEndpoint.open(): from now on each of its threads starts when it is needed."""
        self._stopping.clear()
        for index in range(len(self._places)):
            self._starter.watch(self._descriptors(index), self.start, index)

    def start(self, index: int) -> None:
        """Starts a thread, unless it runs. Raises RuntimeError when the system has no room for it."""
        with self._starting:
            if self._workers[index] is None:
                self._begin(index)

    def _begin(self, index: int) -> None:
        def enter() -> None:
            # By the thread itself, so that health never counts a packet of a thread that it does not list.
            self._workers[index] = worker

        place = self._places[index]
        worker = Worker(self._log, place.name, lambda: self._serve(index), place.number, place.core, rights=Rights.PACKETS,
                        begun=enter, failed=lambda: self._note_failure(index))
        worker.start()

    def restart_failed(self) -> None:
        """Once a second, while the endpoint is open: starts threads again that an exception has ended. What lies in their
        rings and queues has waited for them. Raises RuntimeError as start() does."""
        for index, failure in list(self._failed.items()):
            with self._starting:
                worker = self._workers[index]
                if worker and not worker.alive and time.monotonic() >= failure.due:
                    self._begin(index)
                    self._log.important(CORE, f"Thread {worker.name} of {self.title} has been started again.")

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
        self._failed.clear()

    def about_to_go(self) -> List[int]:
        """Before close(), when its threads have ended: the index of the interface, if it is there."""
        self.link.end()
        with contextlib.suppress(OSError):
            return [self._device.index] if self._device and self._device.is_here() else []
        return []

    def close(self) -> None:
        """Deletes the interface. Its threads must have ended."""
        self.link.end()
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

    def stalled(self) -> List[Tuple[Worker, int, int]]:
        """Each thread that runs, at how many looks in a row its work has been left undone, and by which receiver; or -1."""
        device = self._device
        if not device:
            return []
        return [(worker, *self._native.stalled(self._side, index, fd))
                for index, (worker, fd) in enumerate(zip(list(self._workers), list(device.fds))) if worker and worker.alive]

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

    def _note_failure(self, index: int) -> None:
        self._native.count_failure(self._side, index)
        self._failed.setdefault(index, _Failure()).happen()

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
                    self._deleted(f"the interface {self.title} has been deleted")
                    return
                if not told:
                    self._log.critical(CORE, f"A thread of {self.title} cannot work: {error.strerror}. "
                                             f"gwlbtun tries again every {RETRY_S:.0f} s.")
                told = True
            if self._stopping.wait(RETRY_S):
                return


class _Failure:
    """What is known of a thread that has failed."""

    def __init__(self) -> None:
        self.due = 0.0  # when it is started again
        self._backoff = Backoff(RETRY_MOST_S)

    def happen(self) -> None:
        self.due = time.monotonic() + self._backoff.after_failure()


def added_up(*tunnels: Tunnel) -> Counter[str]:
    """The counters of all their threads. The times among them mean nothing."""
    rows = [row for tunnel in tunnels for row in tunnel.counters()]
    return collections.Counter(dict(zip(rows[0]._fields, map(sum, zip(*rows)))))


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
