# SPDX-License-Identifier: MIT-0
"""Which share of each endpoint's packets passes, so that the queue of a receiver stays short and never runs empty.

What an endpoint was served, divided by the share of it that passed, is what it offers. Who offers no more than the fair share
of the capacity passes whole; the others divide evenly what is left of it, less what makes the queue too long. A queue that is
long all the same is shed: what waits in it of those above the fair share is dropped, and little more of them is let in until it
is gone.

The last rule is what makes the others hold. They need a short queue: what comes out of a long one was let in long ago, under
other shares. And a long queue ends. Its packets are a sample of what was offered, so it tells who is above the fair share; if
one was missed, the queue gets long once more, and mostly holds packets of that one.
"""
import math
from typing import Dict, NamedTuple

from .sieve import fair_share

REST = -1             # stands for all that belongs to no endpoint

AIM_S, LONG_S = 0.04, 0.3    # the length of the queue, in time at full capacity: as it should be, and of a long one
AIM_LEAST, LONG_LEAST = 512, 4096  # and in packets: a batch, and some
AIM_MOST, LONG_MOST = 1 / 8, 1 / 2  # of its room
EMPTY = 1 / 8         # of the aim
UNEASY = 1 / 8        # of its room: up to there nobody is held back, if nobody is yet, since it may be but a pause
OVERHEAD = 768        # bytes that the kernel takes for a packet beside its own
DRAIN_S = 0.3         # in which a queue that is not long shall become as long as it should be
PROBE = 1.02          # how the capacity that is assumed grows from look to look, while the queue is short
PROBE_EMPTY = 1.2     # and while it is as good as empty: the softirq has left more of the core, or too little has passed
PROBE_MOST = 2        # times what all offer
BATCH = 1024          # packets that may be on their way between two counters
SHARE_LEAST = 0.002
QUICKER = 4           # packets, at most, are shed in the time that it takes to carry one
SAMPLE, SERVED = 0.5, 1.25  # so much of a long queue is surely of before, and by then all that was in it is served
SHORT_LOOKS = 2       # in a row, until a long queue that was sifted is over
GROWTH = 4            # a share grows by no more from look to look
KEEP, KEEP_CAPACITY = 0.75, 0.85  # how much of an estimate stays from look to look


class Sight(NamedTuple):
    """What is seen of a receiver at one moment."""

    now: float                # seconds
    room: int                 # bytes that its queue may take
    taken: int                # bytes that it takes
    dropped: int              # datagrams that the kernel has refused so far
    packets: int              # that it has taken out so far
    arrived: Dict[int, int]   # of them, by ENI ID
    size: float               # bytes of a packet

    @property
    def length(self) -> float:
        """Packets in its queue."""
        return self.taken / (self.size + OVERHEAD)

    @property
    def limit(self) -> float:
        """Packets that its queue may hold."""
        return self.room / (self.size + OVERHEAD)


class Contender:
    """An endpoint, or all strangers."""

    def __init__(self) -> None:
        self.share = 1.0
        self._packets = self._seconds = 0.0  # what it was served lately, and how long that took had all of it passed

    @property
    def is_open(self) -> bool:
        """Whether all of it passes."""
        return self.share >= 1

    @property
    def offered(self) -> float:
        """Packets a second. Of whom nothing is known yet: nothing, or any number when it is held back."""
        if self._seconds:
            return self._packets / self._seconds
        return 0.0 if self.is_open else math.inf

    def note(self, packets: float, seconds: float, keep: float = 1) -> None:
        self._packets = self._packets * keep + packets
        self._seconds = self._seconds * keep + seconds

    def forget(self) -> None:
        self._packets = self._seconds = 0.0


class Steering:
    """Of one receiver, from the beginning of an overload to its end."""

    def __init__(self, sight: Sight):
        self.calm = 0       # at how many looks in a row everything passed
        self.sheds = False  # what waits of those held back shall be dropped
        self._last = sight
        self._contenders: Dict[int, Contender] = {}
        self._afloat = 0       # packets taken out that no endpoint has
        self._capacity = 0.0   # packets a second
        self._probes = False   # all that should have passed could
        self._short = 0        # at how many looks in a row the queue was short
        self._waiting = 0.0    # packets in the long queue that is shed
        self._taken_out = 0    # packets since then
        self._pace = 0.0       # packets a second that came when it began
        self._unsifted = True  # all that came was let in then, as far as there was room
        self._begin_to_shed(sight)

    def look(self, sight: Sight) -> Dict[int, float]:
        """The shares of those that must not have all."""
        elapsed = sight.now - self._last.now
        served = self._served(sight)
        was_shed = self.sheds
        if self.sheds:
            self._look_into_queue(sight, served, elapsed)
        else:
            self._estimate_offered(sight, served, elapsed)
            self._estimate_capacity((sight.packets - self._last.packets) / elapsed, sight)
            self._watch_length(sight)
        uneasy = min(sight.length, self._last.length) > sight.limit * UNEASY
        self._last = sight
        if self.sheds or self._holds_back or uneasy:
            self._divide(self._goal(sight), known=was_shed and self._unsifted)
        self.calm = 0 if self.sheds or self._holds_back else self.calm + 1
        return {eni: contender.share for eni, contender in self._contenders.items() if not contender.is_open}

    @property
    def _holds_back(self) -> bool:
        return not all(contender.is_open for contender in self._contenders.values())

    def _served(self, sight: Sight) -> Dict[int, int]:
        """The packets of each contender since the last look."""
        served = {eni: max(0, count - self._last.arrived.get(eni, 0)) for eni, count in sight.arrived.items()}
        self._afloat = max(0, self._afloat + sight.packets - self._last.packets - sum(served.values()))
        served[REST] = max(0, self._afloat - BATCH)
        self._afloat -= served[REST]
        self._contenders = {eni: self._contenders.get(eni) or Contender() for eni in served}
        return served

    def _aim(self, sight: Sight) -> float:
        """The packets that the queue should hold."""
        return min(max(self._capacity * AIM_S, AIM_LEAST), sight.limit * AIM_MOST)

    # ---- A long queue ------------------------------------------------------------------------------------------------

    def _watch_length(self, sight: Sight) -> None:
        most = max(self._capacity * LONG_S, LONG_LEAST) if self._holds_back else math.inf
        if sight.length > min(most, sight.limit * LONG_MOST):
            self._begin_to_shed(sight)

    def _begin_to_shed(self, sight: Sight) -> None:
        self.sheds = True
        self._waiting, self._taken_out, self._short = sight.length, 0, 0
        self._unsifted = not self._holds_back
        self._pace = self._came(sight)
        for contender in self._contenders.values():
            contender.forget()
            contender.share = 1.0 if contender.is_open else SHARE_LEAST

    def _came(self, sight: Sight) -> float:
        """Packets a second since the last look, without those that a sieve has refused."""
        if sight is self._last:
            return 0.0
        came = sight.packets - self._last.packets + sight.length - self._last.length
        if self._unsifted:
            came += (sight.dropped - self._last.dropped) % (1 << 32)
        return max(came, 1) / (sight.now - self._last.now)

    def _look_into_queue(self, sight: Sight, served: Dict[int, int], elapsed: float) -> None:
        """It holds a sample of what was offered, and behind that, what has come since."""
        everything = sight.packets - self._last.packets
        if not self._taken_out:
            self._pace = max(self._pace, self._came(sight))
        self._taken_out += everything
        if everything and self._taken_out < self._waiting * SAMPLE:
            for eni, contender in self._contenders.items():
                if contender.is_open or self._unsifted:
                    contender.note(served[eni], everything / self._pace)
        self._capacity = max(self._capacity, everything / elapsed / (QUICKER if self._capacity else 1))
        self._short = self._short + 1 if sight.length < self._aim(sight) else 0
        if self._short >= (1 if self._unsifted else SHORT_LOOKS) or self._taken_out > self._waiting * SERVED:
            self.sheds = False
            self._watch_length(sight)

    # ---- A queue that is not long ------------------------------------------------------------------------------------

    def _estimate_offered(self, sight: Sight, served: Dict[int, int], elapsed: float) -> None:
        """What came is what was served, and what the queue grew by."""
        everything = sight.packets - self._last.packets
        if not everything and sight.length > 1:
            return  # a receiver that stands still tells nothing
        admitted = max(0, 1 + (sight.length - self._last.length) / max(everything, 1))
        for eni, contender in self._contenders.items():
            contender.note(served[eni] * admitted, elapsed * contender.share, KEEP)

    def _estimate_capacity(self, served: float, sight: Sight) -> None:
        """A queue that is not short shows it."""
        if sight.length > self._aim(sight) / 2:
            self._capacity = self._capacity * KEEP_CAPACITY + served * (1 - KEEP_CAPACITY)
        elif self._holds_back and self._probes:
            probe = PROBE if sight.length > self._aim(sight) * EMPTY else PROBE_EMPTY
            offered = sum(contender.offered for contender in self._contenders.values())
            self._capacity = max(self._capacity, served, min(self._capacity * probe, PROBE_MOST * offered))
        else:
            self._capacity = max(self._capacity, served)

    def _goal(self, sight: Sight) -> float:
        """The packets that shall pass in a second."""
        excess = (sight.length - self._aim(sight)) / DRAIN_S
        return max(0, min(self._capacity - excess, self._capacity * 1.1))

    def _divide(self, goal: float, known: bool) -> None:
        """known: the queue has told what each offers."""
        contenders = self._contenders.values()
        fair = fair_share([contender.offered for contender in contenders], self._capacity)
        fair = math.inf if fair is None else fair
        above = sum(contender.offered > fair for contender in contenders)
        left = max(0, goal - sum(contender.offered for contender in contenders if contender.offered <= fair))
        self._probes = True
        for contender in contenders:
            most = 1 if known else contender.share * GROWTH
            if contender.offered <= fair:
                contender.share = min(1, most)
            elif self.sheds:
                contender.share = SHARE_LEAST
                if not self._unsifted:
                    contender.forget()
            else:
                share = left / above / contender.offered
                self._probes = self._probes and contender.offered < math.inf and share <= most
                contender.share = max(SHARE_LEAST, min(share, most))
