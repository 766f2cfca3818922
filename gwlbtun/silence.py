# SPDX-License-Identifier: MIT-0
"""Tells when packets go in to an endpoint and none comes back: most often something is missing that lets Linux route them.

Silence is about an endpoint from which nothing has come back yet, Interruption about one from which nothing comes any more.
"""
import collections
import time
from typing import Any, Callable, Counter, Dict, List, Mapping, Optional

from .identity import Identity
from .logs import CORE, Log
from .notes import Note

SILENCE_S = 10.0  # since the endpoint has been up, after which a hint is due
SILENCE_PACKETS = 10
HINT_S = 10.0
GAP_S = 5.0       # without packets: those before it count no more
IDLE_S = 60.0     # without packets: whether they would come back is not known any more
NEWER = 0.2       # how much the newest look counts in the share of packets that come back
_CAME, _BACK, _REFUSED = "packets_out", "packets_sent", "drop_tun_write"


class Silence:
    """Watches one endpoint until it has spoken, or the hint has been given. Of many, one in HINT_S is named."""

    _due = 0.0  # the next hint
    _untold = 0

    def __init__(self, identity: Identity, log: Log):
        self.over = False  # there is nothing to tell any more
        self._gwi = identity.title(identity.gwi)
        self._log = log

    def look(self, counters: Counter[str], up_ns: int) -> None:
        """counters: the endpoint's. up_ns: for how long it has been up."""
        if up_ns < SILENCE_S * 1e9:
            return
        if counters["packets_sent"]:
            self.over = True
        elif counters["packets_out"] >= SILENCE_PACKETS:
            self.over = True
            now = time.monotonic()
            if now < Silence._due:
                Silence._untold += 1
                return
            before, Silence._untold = Silence._untold, 0
            Silence._due = now + HINT_S
            self._log.important(
                CORE, f"{counters['packets_out']} packets went in to Linux on {self._gwi}, and none has come back. If "
                      "they should, check: is there a create hook (-c) that routes or redirects them? Is "
                      "net.ipv4.ip_forward 1, and the forwarding of this interface (for IPv6, "
                      "net.ipv6.conf.all.forwarding)? Is the policy of iptables' FORWARD chain DROP (Docker sets it)? Is "
                      "net.ipv4.conf.all.rp_filter 0? Is the EC2 source/destination check of this instance off, if they "
                      "leave by another interface?"
                      + (f" This concerns {before} more endpoints that have not been named." if before else ""))


class Interruption:
    """Watches one endpoint for as long as it is up.

    Of the packets that went in, a share came back: all where Linux returns what it gets, few where it drops most, or where
    replies come by another interface. So many packets have to go in that SILENCE_PACKETS were to come back, and none comes.
    """

    def __init__(self, identity: Identity, drop_texts: Dict[str, str]):
        """drop_texts: what the reasons for drops mean, by the names of their counters."""
        self.note: Optional[Note] = None
        self._gwi = identity.title(identity.gwi)
        self._drop_texts = drop_texts
        self._share: Optional[float] = None
        self._last: Optional[Counter[str]] = None
        self._looked = 0.0
        self._came = 0.0                          # when packets were last seen to have come
        self._begin: Optional[Counter[str]] = None  # the counters when packets last came back, if more went in since
        self._begun = 0.0

    def record(self) -> Dict[str, Any]:
        """What another program has to know to go on."""
        return {"note": self.note, "share": self._share, "last": self._last, "looked": self._looked, "came": self._came,
                "begin": self._begin, "begun": self._begun}

    def resume(self, record: Mapping[str, Any]) -> None:
        self._share = None if record["share"] is None else float(record["share"])
        self._looked, self._came, self._begun = (float(record[key]) for key in ("looked", "came", "begun"))
        self._last, self._begin = (None if record[key] is None else collections.Counter(
            {str(name): int(count) for name, count in record[key].items()}) for key in ("last", "begin"))
        self.note = Note(*map(str, record["note"])) if record["note"] else None

    def look(self, counters: Optional[Counter[str]], now: float, facts: Callable[[], List[str]]) -> None:
        """counters: the endpoint's; None if they have not changed. facts(): what may be the cause."""
        last, looked, self._looked = self._last, self._looked, now
        self._last = counters or last
        if counters and last:
            came = _came(counters) - _came(last)
            back = counters[_BACK] - last[_BACK]
            if came < 0 or back:
                self._begin = self.note = None
            if came > 0 and back > 0:
                share = min(back / came, 1.0)
                self._share = share if self._share is None else (1 - NEWER) * self._share + NEWER * share
            elif came > 0 and back == 0 and self._share is not None:
                self._came = now
                if self._begin is None:
                    self._begin, self._begun = last, looked
                self._judge(counters, self._share, now, facts)
        if now - self._came >= (IDLE_S if self.note else GAP_S):
            self._begin = self.note = None

    def _judge(self, counters: Counter[str], share: float, now: float, facts: Callable[[], List[str]]) -> None:
        assert self._begin is not None
        came = _came(counters) - _came(self._begin)
        if now - self._begun < SILENCE_S or came * share < SILENCE_PACKETS:
            return
        seen = facts() + [f"gwlbtun has dropped {counters[name] - self._begin[name]} packets because {text}"
                          for name, text in self._drop_texts.items() if counters[name] > self._begin[name]]
        self.note = Note(f"nothing comes back from Linux on {self._gwi} any more",
                         f"{came} packets have come since the last that did. " + (
                             f"What gwlbtun sees: {'; '.join(seen)}." if seen else
                             "gwlbtun sees no cause: look at the rules, routes and programs that they have to pass."))


def _came(counters: Counter[str]) -> int:
    return counters[_CAME] + counters[_REFUSED]
