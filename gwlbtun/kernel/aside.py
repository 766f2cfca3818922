# SPDX-License-Identifier: MIT-0
"""When the programs at the egress of gwi and gwo step aside, so that what others have put there sees the packets.

A packet that a program sends to the uplink has passed by the interface's qdisc, by tc filters after the program, and by packet
sockets: shaping would not shape, and tcpdump would see nothing. So while such a thing is there, what leaves by that interface
goes the threads' way. The kernel reports qdiscs and filters (RTNLGRP_TC); packet sockets and TCX programs have to be looked
for.
"""
import errno
import socket
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from .. import netlink
from ..logs import CORE, Log
from . import traffic

TAPS_S = 0.25      # between two looks for packet sockets
PROGRAMS_S, PROGRAMS_MOST_S = 0.5, 1.0  # between two looks for TCX programs
SHARE = 0.02       # of one core, for those looks, as far as the time allows
LOOK_S = 10.0      # between two looks at everything, in case the kernel did not report a change
BURST = 10         # lines one after the other; then
LINE_S = 15.0      # one in this time
SHOWN = 20         # in health
_MESSAGES = 256    # about changes, read at a time

Key = Tuple[int, int]  # slot and side


class Place(NamedTuple):
    """An interface that is watched."""

    number: int  # its index
    title: str
    put: Callable[[bool], None]  # has the program there step aside, or not any longer
    stand: Callable[[Optional[bool]], None]  # the interface is up, down, or (None) not in this network namespace any more


class Aside:
    """For one thread, the one that polls its descriptor. Others may read `reasons` and `lines`."""

    def __init__(self, foreign_programs: Callable[[int], bool], log: Log):
        """foreign_programs(): whether an interface has TCX programs of others at its egress.

        Raises OSError when the kernel reports no changes.
        """
        self._foreign_programs = foreign_programs
        self._log = log
        self._places: Dict[Key, Place] = {}
        self._fixed: Dict[int, List[str]] = {}  # by index of the interface: what the kernel reports changes of
        self._up: Dict[int, Optional[bool]] = {}  # likewise
        self._stood: Dict[Key, Optional[bool]] = {}  # what was last said of that
        self._programs: Set[int] = set()
        self._taps: Set[int] = set()
        self.reasons: Dict[Key, List[str]] = {}
        self._told: Dict[Key, str] = {}
        self._untold: Set[Key] = set()  # those of which a line is still to come
        self._taps_due = self._programs_due = self._look_due = 0.0
        self._lines, self._counted = float(BURST), time.monotonic()
        self._socket = netlink.listen(socket.NETLINK_ROUTE, [traffic.RTNLGRP_TC, traffic.RTNLGRP_LINK])

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def due(self) -> float:
        """When look() is to be called at the latest."""
        return min(self._taps_due, self._programs_due, self._look_due) if self._places else time.monotonic() + LOOK_S

    @property
    def lines(self) -> List[str]:
        """For health."""
        places, reasons = self._places, list(self.reasons.items())
        lines = [f"{places[key].title}: {', '.join(why)}" for key, why in reasons[:SHOWN] if key in places]
        return lines + ([f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else [])

    def add(self, key: Key, place: Place) -> None:
        """Watches an interface. On return its program has stepped aside if there is a reason."""
        self._places = {**self._places, key: place}
        self._look_at_taps()
        self._look_at(place.number)
        self._look_at_programs(place.number)
        self._judge(key)
        if key not in self.reasons:
            place.put(False)  # another endpoint may have had the place, or another program

    def remove(self, key: Key) -> None:
        place = self._places.get(key)
        self._places = {other: place for other, place in self._places.items() if other != key}
        self.reasons.pop(key, None)
        self._told.pop(key, None)
        self._untold.discard(key)
        self._stood.pop(key, None)
        if place:
            self._fixed.pop(place.number, None)
            self._up.pop(place.number, None)
            self._programs.discard(place.number)

    def hear(self) -> None:
        """To be called when its descriptor is readable."""
        mine = {place.number: key for key, place in self._places.items()}
        changed: Set[int] = set()
        for report in netlink.reports(self._socket, _MESSAGES):
            found, others = traffic.interfaces_in(report) if report else (set(), True)
            changed |= set(mine) if others else found
        for index in changed & mine.keys():
            self._look_at(index)
            self._judge(mine[index])

    def look(self) -> None:
        """To be called when it is due."""
        now = time.monotonic()
        places = list(self._places.items())
        programs, taps, thorough = self._programs.copy(), self._taps, now >= self._look_due
        if thorough:
            self._look_due = now + LOOK_S
            for _, place in places:
                self._look_at(place.number)
        if now >= self._programs_due:
            for _, place in places:
                self._look_at_programs(place.number)
            self._programs_due = now + min(max(PROGRAMS_S, (time.monotonic() - now) / SHARE), PROGRAMS_MOST_S)
        if now >= self._taps_due:
            self._look_at_taps()
        changed = programs ^ self._programs | taps ^ self._taps
        if thorough or self._untold or changed:
            for key, place in places:
                if thorough or self._untold or changed & {0, place.number}:
                    self._judge(key)

    # ---- What there is -----------------------------------------------------------------------------------------------

    def _look_at(self, index: int) -> None:
        try:
            state = traffic.state(index)
            filters = traffic.foreign_filters(index)
        except OSError as error:
            if error.errno == errno.ENODEV:
                self._up[index], self._fixed[index] = None, []
            self._fixed.setdefault(index, [f"the kernel does not tell what is at its egress ({error.strerror or error})"])
            return
        self._up[index] = state.up
        self._fixed[index] = ([f"it has the qdisc {state.qdisc}"] if state.qdisc not in ("", "noqueue") else []) + (
            ["tc filters are at its egress"] if filters else [])

    def _look_at_programs(self, index: int) -> None:
        if self._foreign_programs(index):
            self._programs.add(index)
        else:
            self._programs.discard(index)

    def _look_at_taps(self) -> None:
        self._taps_due = time.monotonic() + TAPS_S
        try:
            self._taps = traffic.taps()
        except OSError:  # nobody knows then
            self._taps = {0}

    def _judge(self, key: Key) -> None:
        place = self._places.get(key)
        if not place:
            return
        up = self._up.get(place.number, True)
        if up is not self._stood.get(key, True):
            self._stood[key] = up
            place.stand(up)
        reasons = [*self._fixed.get(place.number, [])]
        if place.number in self._programs:
            reasons.append("eBPF programs of others are at its egress")
        if self._taps & {0, place.number}:
            reasons.append("a packet socket taps " + ("it" if place.number in self._taps else "all interfaces"))
        before = self.reasons.get(key, [])
        if reasons != before:
            if bool(reasons) != bool(before):
                place.put(bool(reasons))
            self.reasons = {**{other: why for other, why in self.reasons.items() if other != key},
                            **({key: reasons} if reasons else {})}
        self._tell(key, place, reasons)

    def _tell(self, key: Key, place: Place, reasons: List[str]) -> None:
        """A line when it begins, and one when it is over, at a bounded rate. What comes and goes faster is not told."""
        if bool(reasons) == (key in self._told):
            self._untold.discard(key)
            return
        now = time.monotonic()
        self._lines, self._counted = min(self._lines + (now - self._counted) / LINE_S, float(BURST)), now
        if self._lines < 1:
            self._untold.add(key)
            return
        self._lines -= 1
        self._untold.discard(key)
        if reasons:
            self._told[key] = reasons[0]
            self._log.important(CORE, f"What leaves by {place.title} goes through gwlbtun's threads instead of the kernel "
                                      f"alone, as {' and '.join(reasons)}.")
        else:
            self._log.important(CORE, f"What leaves by {place.title} may take the kernel again. No longer so: "
                                      f"{self._told.pop(key)}.")
