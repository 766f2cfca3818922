# SPDX-License-Identifier: MIT-0
"""The flow caches of a health report: the flows of each endpoint by family and protocol, and the sums by family."""
import itertools
import time
from typing import Any, Dict, Iterable, List

from .endpoint import Endpoint
from .fastpath import Flows
from .settings import Settings

CLASSES = tuple(itertools.product((4, 6), ("TCP", "UDP", "Other")))  # in the order of NativeEndpoint.flows()
PROTOCOLS = len(CLASSES) // 2
NONE = [0] * len(CLASSES)

PERIOD_S = 10.0  # in which flows "were just timed out"

TimedOut = Dict[Endpoint, List[int]]  # how many flows have timed out, by class


class FlowCaches:
    """Makes them, and remembers what has just timed out."""

    def __init__(self, settings: Settings):
        self._idle_s = {"TCP": settings.flow_idle_s, "UDP": settings.udp_idle_s, "Other": settings.udp_idle_s}
        self._period_due = time.monotonic() + PERIOD_S
        self._timed_out: TimedOut = {}         # until the end of the last period
        self._timed_out_lately: TimedOut = {}  # within it

    def tick(self, endpoints: Iterable[Endpoint]) -> None:
        """Once a second: ends the period when it is over. So what has just happened is the same for all who ask."""
        now = time.monotonic()
        if now < self._period_due:
            return
        self._period_due = now + PERIOD_S
        timed_out = {endpoint: [flows.timed_out for flows in endpoint.native.flows()] for endpoint in endpoints}
        self._timed_out_lately = {endpoint: [count - before for count, before in
                                             zip(counts, self._timed_out.get(endpoint, NONE))]
                                  for endpoint, counts in timed_out.items()}
        self._timed_out = timed_out

    def of(self, endpoint: Endpoint, eni: str) -> Dict[str, Any]:
        """Those of one endpoint, by key."""
        flows = endpoint.native.flows()
        fresh = self._timed_out_lately.get(endpoint, NONE)
        caches = {}
        for first in 0, PROTOCOLS:
            family, _ = CLASSES[first]
            kinds = slice(first, first + PROTOCOLS)
            sums = Flows(*map(sum, zip(*flows[kinds])))
            caches[f"v{family}FlowCache"] = _cache(f"IPv{family} Flow Cache for ENI {eni}", sums, sum(fresh[kinds]),
                                                   self._idle_s["TCP"])
        for (family, protocol), count, timed_out in zip(CLASSES, flows, fresh):
            caches[f"v{family}FlowCache{protocol.capitalize()}"] = _cache(
                f"IPv{family} {protocol} Flow Cache for ENI {eni}", count, timed_out, self._idle_s[protocol])
        return caches


def _cache(name: str, flows: Flows, timed_out: int, idle_s: int) -> Dict[str, Any]:
    return {"cacheName": name, "size": flows.size, "timedOut": timed_out, "timedOutTotal": flows.timed_out,
            "evictedTotal": flows.evicted, "idleTimeoutSecs": idle_s}
