# SPDX-License-Identifier: MIT-0
"""Logs when packets are lost, and when that is over: one line sums them up."""
import time
from typing import Counter, Dict, Iterable

from .logs import CORE, Level, Log
from .receiver import SOCKET_DROPS

INTERVAL_S = 10.0
# IPv6 autoconfiguration and the like send out of every interface. Dropping that loses nobody's traffic.
_NOISE = ("drop_no_flow", "drop_no_return", "drop_not_ip")
# What something about this host does to good packets for as long as it lasts. The end of that is news, too.
_FAULTS = ("socket_drops", "drop_endpoints_full", "drop_endpoint_refused", "drop_flows_full", "drop_overload",
           "drop_ring_full", "drop_tun_write", "drop_too_big", "drop_send")


class DropWatch:
    """Compares the counters with those that it has logged."""

    def __init__(self, drop_texts: Dict[str, str], log: Log):
        self._texts = {**drop_texts, "socket_drops": SOCKET_DROPS}
        self._log = log
        self._told = dict.fromkeys(self._texts, 0)
        self._told_at = {Level.IMPORTANT: -INTERVAL_S, Level.INFO: -INTERVAL_S}
        self._seen_at: Dict[str, float] = {}  # when each fault that has been told and is not over was last told

    @property
    def told(self) -> Dict[str, int]:
        """The counters that have been logged."""
        return dict(self._told)

    def resume(self, told: Dict[str, int]) -> None:
        """Goes on from what another program has logged."""
        self._told.update((name, int(told[name])) for name in self._told if name in told)

    def look(self, totals: Counter[str]) -> None:
        """Once a second."""
        self._tell(Level.IMPORTANT, totals, (name for name in self._texts if name not in _NOISE))
        self._tell(Level.INFO, totals, _NOISE)
        self._tell_ends(totals)

    def _tell(self, level: Level, totals: Counter[str], names: Iterable[str]) -> None:
        now = time.monotonic()
        if now - self._told_at[level] < INTERVAL_S:
            return
        lost = {name: totals[name] - self._told[name] for name in names if totals[name] > self._told[name]}
        if lost:
            self._told_at[level] = now
            self._told.update((name, totals[name]) for name in lost)
            self._seen_at.update((name, now) for name in lost if name in _FAULTS)
            self._log.say(CORE, level, "Packets dropped: "
                          + "; ".join(f"{count} because {self._texts[name]}" for name, count in lost.items()) + ".")

    def _tell_ends(self, totals: Counter[str]) -> None:
        """To be called after _tell(), so that what has been lost is told first."""
        now = time.monotonic()
        over = [name for name, seen in self._seen_at.items()
                if now - seen >= INTERVAL_S and totals[name] == self._told[name]]
        for name in over:
            del self._seen_at[name]
        if over:
            self._log.important(CORE, f"That is over: for {INTERVAL_S:.0f} s no packet has been dropped because "
                                + " or because ".join(self._texts[name] for name in over) + ".")
