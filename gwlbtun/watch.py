# SPDX-License-Identifier: MIT-0
"""Logs when packets are lost: one line sums them up."""
import time
from typing import Counter, Dict, Iterable

from .logs import CORE, Level, Log

INTERVAL_S = 10.0
# IPv6 autoconfiguration and the like send out of every interface. Dropping that loses nobody's traffic.
_NOISE = ("drop_no_flow", "drop_not_ip")


class DropWatch:
    """Compares the counters with those that it has logged."""

    def __init__(self, drop_texts: Dict[str, str], log: Log):
        self._texts = {**drop_texts, "socket_drops": "the receive buffer of the UDP socket is full (see --rcvbuf)"}
        self._log = log
        self._told = dict.fromkeys(self._texts, 0)
        self._told_at = {Level.IMPORTANT: -INTERVAL_S, Level.INFO: -INTERVAL_S}

    def look(self, totals: Counter[str]) -> None:
        """Once a second."""
        self._tell(Level.IMPORTANT, totals, (name for name in self._texts if name not in _NOISE))
        self._tell(Level.INFO, totals, _NOISE)

    def _tell(self, level: Level, totals: Counter[str], names: Iterable[str]) -> None:
        now = time.monotonic()
        if now - self._told_at[level] < INTERVAL_S:
            return
        lost = {name: totals[name] - self._told[name] for name in names if totals[name] > self._told[name]}
        if lost:
            self._told_at[level] = now
            self._told.update((name, totals[name]) for name in lost)
            self._log.say(CORE, level, "Packets dropped: "
                          + "; ".join(f"{count} because {self._texts[name]}" for name, count in lost.items()) + ".")
