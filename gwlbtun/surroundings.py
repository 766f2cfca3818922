# SPDX-License-Identifier: MIT-0
"""Notes about what keeps Linux from forwarding in one network namespace: the host's, or an endpoint's of its own.

Only what has changed for the worse counts. A hook that sends traffic by another way than Linux's routing (as tc does) needs
none of these settings, and what was so when the first endpoint came up is taken for what the operator wants.
"""
import contextlib
import time
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Union

from . import forwarding, xtables
from .forwarding import Chain
from .netns import Namespace, inside
from .nftwatch import PREFIX, TableWatch
from .notes import Found, Note

FIREWALL, FORWARDING, RP_FILTER = "firewall", "forwarding", "rp_filter"  # kinds of notes
POLL_S = 5.0  # where the kernel reports no changes

_STRICTNESS = {0: 0, 2: 1, 1: 2}  # of rp_filter: 2 is loose, 1 is strict
_FILTERED = {1: "it would not route back there", 2: "it has no route to"}

Dropping = Union[Chain, xtables.Policy]  # a chain


class Surroundings:
    """stir() and stir_chains() are for any thread, all else is for the one that looks."""

    def __init__(self, namespace: Optional[Namespace] = None):
        self.hears = False  # of settings that change
        self.table_watch: Optional[TableWatch] = None
        self.found: Dict[str, Found] = {}
        self._namespace = namespace
        self._where = f" in network namespace {namespace.name}" if namespace else ""
        self._enter = f"ip netns exec {namespace.name} " if namespace else ""
        self._names = "gwi" if namespace else "gwi-*"
        self._interfaces: Set[str] = set()
        self._stirred = self._chains_stirred = True
        self._failed = False  # to look
        self._polled = 0.0
        self._best: Dict[str, int] = {}     # the least bad that each setting has been
        self._kept: Dict[str, int] = {}     # the same, as far as it has been seen in the look that is under way
        self._suspects: Set[str] = set()    # settings of gwi that gwlbtun may be about to put back
        self._accepted: Optional[Set[Dropping]] = None
        self._doubtful = False  # what rules accept matters

    def stir(self) -> None:
        """A setting may have changed."""
        self._stirred = True

    def stir_chains(self) -> None:
        self._chains_stirred = True

    def look(self, interfaces: Iterable[str]) -> None:
        """interfaces: gwi of each endpoint here that is up."""
        before, self._interfaces = self._interfaces, set(interfaces)
        if not self._interfaces:
            self.found, self._best, self._accepted, self._doubtful = {}, {}, None, False
            return
        if self._interfaces - before:
            self._stirred = True
        if not before:
            self._chains_stirred = True
        self._poll()
        try:
            if self._stirred:
                self._stirred = False
                with inside(self._namespace):
                    self._look_at_settings()
            if self._chains_stirred:
                self._chains_stirred = False
                with inside(self._namespace):
                    self._look_at_chains()
        except OSError:  # the namespace is gone, or something has changed meanwhile
            self._failed = True

    def facts(self, interface: str) -> List[str]:
        """What may stop the packets that appear on an interface."""
        table = PREFIX + interface.removeprefix("gwi-")
        facts = [note.fact for found in self.found.values() for note in found.values() if note.interface in ("", interface)]
        if self.table_watch and table in self.table_watch.missing:
            facts.append(f"the nftables table inet {table} has been deleted")
        return facts

    def record(self) -> Dict[str, Any]:
        """What is no change, for another program."""
        return {"best": self._best, "accepted": None if self._accepted is None else [list(chain) for chain in self._accepted]}

    def resume(self, record: Mapping[str, Any]) -> None:
        self._best = {str(name): int(badness) for name, badness in record["best"].items()}
        if record["accepted"] is not None:
            self._accepted = {xtables.Policy(*map(str, chain)) if len(chain) < 3 else Chain(*map(str, chain))
                              for chain in record["accepted"]}

    def _poll(self) -> None:
        now = time.monotonic()
        if now - self._polled >= POLL_S:
            self._polled = now
            self._stirred = self._stirred or self._failed or not self.hears
            self._chains_stirred = self._chains_stirred or self._failed or self._doubtful or not self.table_watch
            with contextlib.suppress(OSError), inside(self._namespace):
                self._chains_stirred = self._chains_stirred or xtables.there()
            self._failed = False

    # ---- Settings ----------------------------------------------------------------------------------------------------

    def _look_at_settings(self) -> None:
        self._kept = {}
        filters: Found = {}
        off: Found = {}
        off_here: Found = {}
        raised_here: Found = {}
        self._examine(forwarding.RP_FILTER, 0, "", filters)
        self._examine(forwarding.IPV4, 1, "Linux forwards no IPv4 packet", off)
        if not off:  # otherwise it is off for each interface
            for interface in self._interfaces:
                self._examine(f"net.ipv4.conf.{interface}.forwarding", 1,
                              f"Linux forwards no IPv4 packet that appears on {interface}", off_here, interface)
        self._examine(forwarding.IPV6, 1, "Linux forwards no IPv6 packet", off)
        for interface in self._interfaces:
            self._examine(f"net.ipv4.conf.{interface}.rp_filter", 0,
                          "gwlbtun cannot put it back, and Linux may drop packets in silence", raised_here, interface)
        filters.update((subject, note) for subject, note in raised_here.items() if subject in self._suspects)
        self._stirred = self._stirred or not raised_here.keys() <= self._suspects
        self._suspects = set(raised_here)
        self._best = self._kept
        self.found[RP_FILTER], self.found[FORWARDING] = filters, {**off, **off_here}

    def _examine(self, name: str, good: int, meaning: str, found: Found, interface: str = "") -> None:
        """Notes a setting that is worse than it has been. interface: the one that it is of."""
        value = forwarding.setting(name)
        if value is None:
            return
        badness = _STRICTNESS.get(value, 1) if name.endswith("rp_filter") else int(value == 0)
        self._kept[name] = min(badness, self._best.get(name, badness))
        if badness > self._kept[name]:
            meaning = meaning or (f"it holds for gwi as well, and Linux drops in silence what comes from a source that "
                                  f"{_FILTERED.get(value, _FILTERED[1])}")
            found[name + self._where] = Note(f"{name}{self._where} has become {value}",
                                             f"{meaning}. `{self._enter}sysctl -w {name}={good}` mends that.", interface)

    # ---- Chains ------------------------------------------------------------------------------------------------------

    def _look_at_chains(self) -> None:
        dropping: Set[Dropping] = {chain for chain in self._dropping() if not chain.table.startswith(PREFIX)}
        if self._accepted is None:
            self._accepted = dropping
        new = dropping - self._accepted
        self._doubtful = bool(new)
        self.found[FIREWALL] = {
            f"{chain}{self._where}": Note(f"the policy of the chain {chain}{self._where} has become drop",
                                          "Linux forwards only what its rules accept. "
                                          f"`{self._enter}{chain.acceptance(self._names)}` lets what comes in pass.")
            for chain in sorted(new, key=str) if not chain.accepts(self._interfaces)}

    def _dropping(self) -> Iterator[Dropping]:
        yield from xtables.dropping()
        try:
            yield from forwarding.dropping_chains()
        except OSError:
            if self.table_watch:  # otherwise the kernel has no nf_tables
                raise
