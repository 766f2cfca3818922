# SPDX-License-Identifier: MIT-0
"""Under overload, endpoints that ask for more than their share lose packets, before these cost much, and others lose none.

When more comes than a receiver can take, the queue of its socket fills, and the kernel drops what finds it full, whosever it
is. So one thread looks at the queues ten times a second. While one stays long, the thread finds out who sends how much, and
gives the kernel a program (sieve.py) that drops a part of what comes for the endpoints above their share. The queue is short
then: packets wait for milliseconds, not for most of a second, and are still in the cache when they are read.

What passes is steered by the length of the queue: so much that it neither runs empty nor grows.
"""
import contextlib
import errno
import itertools
import threading
import time
from typing import Dict, List, Optional, Sequence, Set

from .endpoints import Endpoints
from .logs import CORE, Log
from .receiver import Receiver
from .sieve import ENDPOINTS_MOST, LOSING_MOST, program
from .steering import REST, Sight, Steering
from .worker import Worker

LOOK_S, STEER_S = 0.1, 0.05  # between two looks, and under overload
SHARE = 0.2           # of one core, at most: there may be many receivers and a thousand endpoints
TELL_S = 60.0         # between two overloads of a receiver that the log tells of
NAMES_MOST = 3        # in such a line
CALM_LOOKS = 100      # without need of a sieve, until nobody steers: a flood that pauses is still known
NAMES_LEAST = 16      # that a sieve can tell apart, whatever memory it may have

# Of the room of the queue: what is long at two looks in a row, and what is long at once.
LONG, VERY_LONG = 1 / 8, 1 / 2


class Overload:
    """The thread, for all receivers."""

    def __init__(self, receivers: Sequence[Receiver], endpoints: Endpoints, stopping: threading.Event, log: Log):
        self._watches = [Watch(receiver, endpoints, log) for receiver in receivers]
        self._stopping = stopping
        self.worker = Worker(log, "gwlbtun Overload", self._run, vital=True, wakes=True)

    def _run(self) -> None:
        took_s = 0.0
        while not self._stopping.wait(max(STEER_S if any(watch.steers for watch in self._watches) else LOOK_S,
                                          took_s / SHARE)):
            begin = time.thread_time()
            for watch in self._watches:
                with contextlib.suppress(OSError):  # a socket that is closed, as its receiver has failed
                    watch.look(time.monotonic())
            took_s = time.thread_time() - begin


class Watch:
    """One receiver's queue."""

    def __init__(self, receiver: Receiver, endpoints: Endpoints, log: Log):
        self._receiver, self._endpoints, self._log = receiver, endpoints, log
        self._long = 0                             # at how many looks in a row
        self._steering: Optional[Steering] = None  # under overload
        self._since = 0.0
        self._told = -TELL_S
        self._tells = False                        # has said that it began
        self._sifted = b""
        self._names_most = ENDPOINTS_MOST
        self._shed: Set[int] = set()               # endpoints of which the receiver drops what waits

    @property
    def steers(self) -> bool:
        return self._steering is not None

    def look(self, now: float) -> None:
        taken, room, dropped = self._receiver.queue()
        if self._steering is None:
            self._long = self._long + 1 if taken > room * LONG else 0
            if self._long > 1 or taken > room * VERY_LONG:
                self._steering, self._since = Steering(self._sight(now, taken, room, dropped)), now
            return
        shares = self._steering.look(self._sight(now, taken, room, dropped))
        self._shed_of(set(shares) if self._steering.sheds else set())
        if shares:
            self._sift(shares, now)
        elif self._sifted:
            self._sifted = b""
            self._receiver.sift_no_more()
        if self._steering.calm >= CALM_LOOKS:
            self._end(now)

    def _sight(self, now: float, taken: int, room: int, dropped: int) -> Sight:
        index = self._receiver.index
        arrived = {endpoint.eni: endpoint.native.arrived(index) for endpoint in self._endpoints.glance()}
        packets, size = self._receiver.packets()
        return Sight(now, room, taken, dropped, packets, arrived, size)

    def _shed_of(self, enis: Set[int]) -> None:
        for endpoint in self._endpoints.glance() if enis or self._shed else ():
            endpoint.native.shed(self._receiver.index, endpoint.eni in enis)
        self._shed = enis

    def _sift(self, shares: Dict[int, float], now: float) -> None:
        rest = shares.get(REST, 1.0)
        losing = sorted((eni for eni in shares if eni != REST), key=shares.__getitem__)[:min(LOSING_MOST, self._names_most)]
        chosen = {eni: shares[eni] for eni in losing}
        if rest < 1:  # then those within their share must be told from strangers
            others = (endpoint.eni for endpoint in self._endpoints.glance() if endpoint.eni not in shares)
            chosen.update((eni, 1.0) for eni in itertools.islice(others, self._names_most - len(chosen)))
        sifted = program(chosen, rest)
        if sifted != self._sifted:
            self._attach(sifted)
        if (losing or rest < 1) and not self._tells and now - self._told >= TELL_S:
            self._told, self._tells = now, True
            self._tell(losing)

    def _attach(self, sifted: bytes) -> None:
        try:
            self._receiver.sift(sifted)
            self._sifted = sifted
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOMEM):  # net.core.optmem_max allows no program so long
                raise
            self._names_most = max(NAMES_LEAST, self._names_most // 2)

    def _tell(self, losing: List[int]) -> None:
        named = map(self._endpoints.settings.identities.of, losing[:NAMES_MOST])
        names = ", ".join(f"{each.vpce}{each.remark}" for each in named) + ", and others" * (len(losing) > NAMES_MOST)
        self._log.important(
            CORE, f"Overload: more comes from the load balancer than {self._receiver.worker.name} can carry. Until that is "
                  f"over, the kernel drops a part of what comes for {names or 'unknown endpoints'}; endpoints within their "
                  "share lose nothing. More cores or more targets would carry it all.")

    def _end(self, now: float) -> None:
        self._steering, self._long = None, 0
        if self._tells:
            self._tells = False
            self._log.important(CORE, f"The overload of {self._receiver.worker.name} is over, after "
                                      f"{now - self._since:.0f} s.")
