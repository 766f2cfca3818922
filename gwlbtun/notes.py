# SPDX-License-Identifier: MIT-0
"""The notes: hints for the operator that are in health, and do not make it worse.

The log has a line when a note comes and when it is over, at a bounded rate. What comes and goes faster than that is not told.
"""
import time
from typing import Any, Dict, List, NamedTuple

from .logs import CORE, Log

SHOWN = 20     # in health
NAMED = 3      # in a line that is about several
BURST = 10     # lines of one kind, one after the other; then
LINE_S = 15.0  # one in this time


class Note(NamedTuple):
    fact: str            # what has become of its subject
    advice: str          # what follows from that, and what to do
    interface: str = ""  # which alone it concerns

    def __str__(self) -> str:
        return f"{self.fact}: {self.advice}"


Found = Dict[str, Note]  # by subject


class Notes:
    """One thread puts notes here; any thread may read the lines."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._kinds: Dict[str, _Kind] = {}
        self.lines: List[str] = []

    def put(self, found: Dict[str, Found]) -> None:
        """All that is to be noted now, by kind."""
        for name in found:
            self._kinds.setdefault(name, _Kind())
        for name, kind in self._kinds.items():
            for line in kind.lines(found.get(name, {}), time.monotonic()):
                self._log.important(CORE, line)
        self._show(found)

    def _show(self, found: Dict[str, Found]) -> None:
        every = [note for name in sorted(found) for note in found[name].values()]
        self.lines = [str(note) for note in every[:SHOWN]] + (
            [f"and {len(every) - SHOWN} more"] if len(every) > SHOWN else [])

    def record(self) -> Dict[str, Any]:
        """What the log has told, for another program."""
        return {name: kind.told for name, kind in list(self._kinds.items())}

    def resume(self, record: Dict[str, Any]) -> None:
        """Goes on from what another program has told."""
        for name, told in record.items():
            self._kinds.setdefault(name, _Kind()).told = {subject: Note(*map(str, note)) for subject, note in told.items()}
        self._show({name: kind.told for name, kind in self._kinds.items()})


class _Kind:
    """What the log has told of notes of one kind."""

    def __init__(self) -> None:
        self.told: Found = {}
        self._lines = float(BURST)
        self._counted = 0.0

    def lines(self, found: Found, now: float) -> List[str]:
        self._lines = min(self._lines + (now - self._counted) / LINE_S, float(BURST))
        self._counted = now
        begun = {subject: note for subject, note in found.items() if subject not in self.told}
        ended = {subject: note for subject, note in self.told.items() if subject not in found}
        lines = ([_summed(begun, "{}")] if begun else []) + ([_summed(ended, "No longer so: {0.fact}.")] if ended else [])
        if len(lines) > self._lines:
            return []
        self._lines -= len(lines)
        self.told = {subject: self.told.get(subject, note) for subject, note in found.items()}
        return lines


def _summed(notes: Found, form: str) -> str:
    """The first in full, and the names of some others."""
    (_, first), *others = notes.items()
    names = [subject for subject, _ in others[:NAMED]]
    more = [f"{len(others) - NAMED} more"] if len(others) > NAMED else []
    return form.format(first) + (f" The same holds for {', '.join(names + more)}." if others else "")
