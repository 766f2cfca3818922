# SPDX-License-Identifier: MIT-0
"""Who gets an endpoint, and how fast.

Any sender that reaches the port can invent ENI IDs. Receivers announce an ID with each packet that comes for it, and go on;
the packets wait (native/waiting.h). This one thread hears the announcements. It admits the IDs with the most packets first,
at a bounded rate, so that making endpoints takes a bounded share of the host.

When the table of endpoints is full, or memory or threads run short, the endpoint that is most likely forged makes room for an
ID that has shown several packets.
"""
import heapq
import time
from typing import Dict, List, Optional

from . import capacity, fastpath
from .endpoints import Endpoints
from .logs import CORE, Log
from .worker import Worker

RATE = 250.0         # endpoints a second
BURST = 50.0         # and so many at once
EVICTIONS = 10.0     # endpoints a second that give way to others
LISTEN_MS = 200
PACE_S = 0.01        # between two rounds while announcements come
CANDIDATES = 4096    # IDs remembered at a time
AT_A_TIME = 16       # of them are considered in a round, those with the most packets
FORGET_S = 5.0       # then an ID counts anew: no packet waits longer (WAIT_NS)
GENUINE_PACKETS = 3  # that an ID must show before another endpoint makes room for it
TELL_S = 10.0        # between two lines about IDs that get no endpoint


class Bucket:
    """Bounds a rate: tokens come at so many a second, and at most so many are saved."""

    def __init__(self, rate: float, most: float):
        self._rate = rate
        self._most = self._tokens = most
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._most)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Candidate:
    """An ID without an endpoint."""

    def __init__(self, now: float):
        self.packets = 0
        self.since = now


class Admission:
    """The thread that admits endpoints."""

    def __init__(self, handler: fastpath.Handler, endpoints: Endpoints, most: int, log: Log):
        """most: the number of endpoints that may exist at a time."""
        self._handler = handler
        self._endpoints = endpoints
        self._most = most
        self._log = log
        self._candidates: Dict[int, Candidate] = {}
        self._rate = Bucket(RATE, BURST)
        self._evictions = Bucket(EVICTIONS, EVICTIONS)
        self._told = -TELL_S
        self.worker = Worker(log, "gwlbtun Admission", self._run, vital=True, wakes=True)

    def _run(self) -> None:
        while True:
            heard = self._handler.listen(LISTEN_MS)
            now = time.monotonic()
            self._remember(heard, now)
            self._admit(now)
            if heard or self._candidates:
                time.sleep(PACE_S)

    def _remember(self, heard: List[int], now: float) -> None:
        for eni in heard:
            candidate = self._candidates.get(eni)
            if candidate is None:
                if len(self._candidates) >= CANDIDATES:  # the oldest goes; if it is genuine, its next packet brings it back
                    del self._candidates[next(iter(self._candidates))]
                candidate = self._candidates[eni] = Candidate(now)
            candidate.packets += 1
        while self._candidates:
            eni, candidate = next(iter(self._candidates.items()))
            if now - candidate.since <= FORGET_S:
                break
            del self._candidates[eni]

    def _admit(self, now: float) -> None:
        for eni in heapq.nlargest(AT_A_TIME, self._candidates, key=lambda eni: self._candidates[eni].packets):
            if self._endpoints.has(eni):  # announced by packets that came before it was made
                del self._candidates[eni]
                continue
            lack = self._lack()
            self._handler.set_full(lack is not None)
            if lack and self._make_room(self._candidates[eni]):
                lack = self._lack()  # memory and threads come back only when the other endpoint is gone
            if lack:
                self._tell(f"{self._endpoints.settings.identities.of(eni)} and others get no endpoint: {lack}.", now)
                return
            if not self._rate.take():
                return
            try:
                if not self._endpoints.admit(eni):  # gwlbtun is about to restart in place, or stops
                    return
                del self._candidates[eni]
            except OSError as error:
                del self._candidates[eni]
                self._tell(f"{self._endpoints.settings.identities.of(eni)} gets no endpoint: {error.strerror}.", now)
                return

    def _lack(self) -> Optional[str]:
        """Why there can be no further endpoint."""
        if self._endpoints.staying() >= self._most:
            return f"there are {self._most} endpoints, as many as --max-endpoints allows"
        return capacity.lack()

    def _make_room(self, candidate: Candidate) -> bool:
        return (candidate.packets >= GENUINE_PACKETS and self._endpoints.leaving() < capacity.SPARE
                and self._evictions.take() and self._endpoints.make_room() is not None)

    def _tell(self, text: str, now: float) -> None:
        if now - self._told >= TELL_S:
            self._told = now
            self._log.important(CORE, text)
