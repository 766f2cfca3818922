# SPDX-License-Identifier: MIT-0
"""The T threads: those of one interface, a queue each."""
import contextlib
import errno
import os
import socket
from typing import Dict, List, Optional

from . import fastpath
from .logs import Log
from .settings import Place
from .sources import Sources
from .tun import Device, base60
from .worker import Worker

PREFIXES = {fastpath.GWI: "gwi-", fastpath.GWO: "gwo-"}


class Tunnel:
    """One of the two interfaces of an endpoint."""

    def __init__(self, side: int, eni: int, native: fastpath.NativeEndpoint, places: List[Place], sources: Sources,
                 log: Log):
        self.name = PREFIXES[side] + base60(eni)
        self.workers: List[Worker] = []
        self._side = side
        self._native = native
        self._places = places
        self._sources = sources
        self._log = log
        self._device: Optional[Device] = None
        self._index: Optional[int] = None  # known to sources

    def create(self, offloads: int) -> None:
        """Makes the interface, down. Raises OSError."""
        self._device = Device(self.name, len(self._places), offloads)
        self._index = socket.if_nametoindex(self.name)
        self._sources.add_own(self._index)

    def up(self) -> None:
        self._device.up()

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for another thread; call it again for the rest then."""
        for index, place in list(enumerate(self._places))[len(self.workers):]:
            worker = Worker(self._log, place.name, lambda index=index: self._serve(index), place.number, place.core)
            worker.start()
            self.workers.append(worker)

    def join(self) -> None:
        """After NativeEndpoint.stop()."""
        for worker in self.workers:
            worker.join()

    def close(self) -> None:
        """The interface goes away. Its threads must have ended."""
        if self._device:
            self._device.close()
            self._device = None
        if self._index is not None:
            self._sources.remove_own(self._index)
            self._index = None

    def counters(self) -> List[Dict[str, int]]:
        """Those of each thread."""
        return [self._native.counters(self._side, index) for index in range(len(self._places))]

    def _serve(self, index: int) -> None:
        _interrupt_nobody()
        try:
            self._native.run(self._side, index, self._device.fds[index])
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise OSError(error.errno, f"the interface {self.name} has been deleted; restart gwlbtun") from None
            raise OSError(error.errno, f"{self.name}: {os.strerror(error.errno)}") from None


def _interrupt_nobody() -> None:
    """Lets the thread wait for its core, when it wakes, until who has it sleeps or gives way.

    That is the receiver, as a rule, in the middle of a batch. Woken by its first write and put in its place, this thread
    would find one packet, and be put to sleep and woken again for each of the others.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # an operator's real-time policy is left alone
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
