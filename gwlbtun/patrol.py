# SPDX-License-Identifier: MIT-0
"""Goes round the endpoints that are up, and notes what keeps their packets from coming back."""
import threading
import time
from typing import Any, Dict, List, Mapping, Optional

from .endpoint import Endpoint
from .endpoints import Endpoints
from .lapse import PAUSE_S
from .logs import Log
from .notes import Found, Notes
from .silence import Interruption
from .state import State
from .surroundings import Surroundings
from .worker import WAKE_S, Worker, breathing

INTERVAL_S = 1.0
SHARE = 0.05  # of one core, at most
SILENCE = "silence"  # the kind of notes about endpoints that return nothing any more


class Patrol:
    """A thread of its own, as a round takes a while where there are many endpoints."""

    def __init__(self, endpoints: Endpoints, host: Optional[Surroundings], drop_texts: Dict[str, str],
                 stopping: threading.Event, log: Log):
        """host: the surroundings of all endpoints; None where each has its own."""
        self.notes = Notes(log)
        self.worker = Worker(log, "gwlbtun Patrol", self._run, again=True, wakes=True)
        self._endpoints = endpoints
        self._host = host
        self._drop_texts = drop_texts
        self._stopping = stopping
        self._returns = not endpoints.settings.no_return
        self._interruptions: Dict[Endpoint, Interruption] = {}
        self._seen_ns: Dict[Endpoint, int] = {}
        self._paused_s = 0.0  # for so long gwlbtun has stood still: nothing was silent meanwhile

    def record(self) -> Dict[str, Any]:
        """What another program has to know, so that what has been noted is not taken for what the operator wants."""
        return {"told": self.notes.record(), "paused_s": self._paused_s, "host": self._host.record() if self._host else None,
                "interruptions": {str(endpoint.eni): interruption.record()
                                  for endpoint, interruption in list(self._interruptions.items())}}

    def resume(self, record: Mapping[str, Any]) -> None:
        """Before the thread starts, and after the endpoints have been taken over."""
        self.notes.resume(record["told"])
        if self._host and record["host"]:
            self._host.resume(record["host"])
        for endpoint in self._endpoints.glance():
            interruption = record["interruptions"].get(str(endpoint.eni))
            if interruption:
                self._interruptions[endpoint] = Interruption(endpoint.identity, self._drop_texts)
                self._interruptions[endpoint].resume(interruption)
        self._paused_s = float(record["paused_s"])

    def _run(self) -> None:
        due = 0.0
        while not self._stopping.wait(min(max(due - time.monotonic(), 0), WAKE_S)):
            now = time.monotonic()
            if now >= due:
                if due and now - due >= PAUSE_S:
                    self._paused_s += now - due
                work = time.thread_time()
                self._go_round(now - self._paused_s)
                due = time.monotonic() + max(INTERVAL_S, (time.thread_time() - work) / SHARE)

    def _go_round(self, now: float) -> None:
        up = [endpoint for endpoint in self._endpoints.glance() if endpoint.state is State.UP]
        found: Dict[str, Found] = {}
        if self._host:
            self._host.look([endpoint.identity.gwi for endpoint in up])
            found.update(self._host.found)
        self._interruptions = {endpoint: self._interruptions.get(endpoint)
                               or Interruption(endpoint.identity, self._drop_texts) for endpoint in up}
        silent: Found = {}
        seen_ns, self._seen_ns = self._seen_ns, {}
        for endpoint in breathing(up):
            around = self._host or endpoint.surroundings
            if around and around is not self._host:
                around.look([endpoint.identity.gwi])
                for kind, notes in around.found.items():
                    found.setdefault(kind, {}).update(notes)
            if self._returns:
                self._seen_ns[endpoint] = endpoint.last_ns()
                self._look_at(endpoint, self._seen_ns[endpoint] != seen_ns.get(endpoint), now, around, silent)
        self.notes.put({**found, SILENCE: silent})

    def _look_at(self, endpoint: Endpoint, moved: bool, now: float, around: Optional[Surroundings], silent: Found) -> None:
        """moved: a packet has come or gone since the last round."""
        def facts() -> List[str]:
            return around.facts(endpoint.identity.gwi) if around else []

        interruption = self._interruptions[endpoint]
        interruption.look(endpoint.counters() if moved else None, now, facts)
        if interruption.note:
            silent[endpoint.identity.title(endpoint.identity.gwi)] = interruption.note
