# SPDX-License-Identifier: MIT-0
"""The load balancer of the tests: the demo's (gwlbtun/demo/balancer.py), which also holds what comes back against what was
sent.

Whatever returns is compared byte for byte before it is delivered to the host that it is for; each fault is one line in
Balancer.violations. Renewing the envelope of a flow gives it a new cookie or port, as GWLB does. The network to the
appliance may be a bad one. Tests find the names of all these parts here.

Tests may call Endpoint.send() and Balancer.inject() from threads of their own.
"""
import collections
import contextlib
import heapq
import itertools
import socket
import threading
import time
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

import faults
from expectations import Forwarded, Identical, WellFormed  # noqa: F401
from flows import Endpoint, Envelope, Flow, base60  # noqa: F401
from gwlbtun import geneve
from gwlbtun.demo import balancer
from gwlbtun.demo.balancer import (  # noqa: F401
    IP_PKTINFO, RECEIVE_BUFFER, RECEIVE_TIMEOUT, SO_RCVBUFFORCE, Outer, is_multicast)
from gwlbtun.demo.host import IFF_NO_PI, IFF_TUN, MTU, TUNSETIFF, Host  # noqa: F401
from netns import Namespace
from network import Counters, Impairment


class Balancer(balancer.Balancer):
    """The load balancer, what passed, and what it found wrong."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], appliance: str,
                 impairment: Optional[Impairment] = None):
        self.impairment = impairment
        self._counters = Counters()
        self._delayed: List[Tuple[float, int, Flow, bytes]] = []
        self._order = itertools.count()
        super().__init__(namespace, addresses, appliance)
        self._due = threading.Condition(self._lock)
        self._threads.append(threading.Thread(target=self._guarded, args=(self._send_delayed,), name="delayed"))
        self._threads[-1].start()

    def close(self) -> None:
        with self._due:
            self._stopping = True
            self._due.notify()
        super().close()

    def endpoint(self, eni: int, expectation: Optional[Identical] = None,
                 extra_options: Iterable[geneve.Option] = ()) -> Endpoint:
        """A new endpoint; its packets come back identical unless another expectation is given."""
        endpoint = Endpoint(self, eni, expectation or Identical(), extra_options)
        self.endpoints.append(endpoint)
        return endpoint

    @property
    def awaited(self) -> int:
        """Packets sent that have not come back, of those that should."""
        with self._lock:
            return sum(len(entries) for endpoint in self.endpoints for flow in set(endpoint.flows.values())
                       for entries in flow.awaited.values())

    @property
    def counters(self) -> Counters:
        """What passed: whatever a host has been given is counted."""
        with self._lock:
            return self._counters

    def wait(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        """Waits until a condition holds, and what came back until then is counted; whether it did in time."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        with self._lock:
            return True

    # ---- Towards the appliance ---------------------------------------------------------------------------------------

    def renew(self, flow: Flow, cookie: Optional[int] = None, port: Optional[int] = None,
              address: Optional[str] = None, extra_options: Optional[Iterable[geneve.Option]] = None) -> None:
        endpoint, newest = flow.endpoint, flow.envelope
        old = geneve.parse_header(newest.header)
        with self._lock:
            header = geneve.gwlb_header(
                endpoint.eni, endpoint.attachment, old.cookie if cookie is None else cookie, old.protocol,
                old.options[3:] if extra_options is None else extra_options).pack()
            if self._flows.setdefault(header, flow) is not flow:
                raise ValueError("another flow has that cookie")
            flow.envelope = Envelope(header, address or newest.address, newest.port if port is None else port)
            flow.envelopes.append(flow.envelope)

    def forward(self, endpoint: Endpoint, packet: bytes) -> None:
        if self.impairment is None:
            super().forward(endpoint, packet)
            return
        with self._due:
            flow = self.flow_of(endpoint, packet)
            copies = self.impairment.copies()
            self.counters.lost += not copies
            self.counters.duplicated += len(copies) > 1
            for delay in copies:
                if delay:
                    heapq.heappush(self._delayed, (time.monotonic() + delay, next(self._order), flow, packet))
                    self._due.notify()
                else:
                    self._send(flow, packet)

    def _send_delayed(self) -> None:
        with self._due:
            while not self._stopping:
                wait = self._delayed[0][0] - time.monotonic() if self._delayed else None
                if wait is None or wait > 0:
                    self._due.wait(wait)
                else:
                    _, _, flow, packet = heapq.heappop(self._delayed)
                    self._send(flow, packet)

    def _send(self, flow: Flow, packet: bytes) -> None:
        fingerprint = flow.endpoint.expectation.fingerprint(packet)
        with self._lock:
            if fingerprint is not None:
                flow.awaited.setdefault(fingerprint, collections.deque()).append(
                    (len(flow.envelopes) - 1, packet))
            self.counters.sent += 1
            self.counters.sent_bytes += len(flow.envelope.header) + len(packet)
            super()._send(flow, packet)

    def inject(self, payload: bytes, port: int = 50000, address: Optional[str] = None,
               destination_port: int = geneve.PORT) -> None:
        """Sends a UDP payload as it is, of up to 65,507 bytes; nothing is expected to come back."""
        with self._lock:
            self.counters.injected += 1
        with self.namespace.entered(), contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.bind((address or self.addresses[0], port))
            sender.sendto(payload, (self.appliance, destination_port))

    # ---- From the appliance ------------------------------------------------------------------------------------------

    def _accept(self, payload: bytes, outer: Outer) -> None:
        with self._lock:  # whoever takes it finds all of this done, or nothing
            super()._accept(payload, outer)
            self._counters.returned += 1

    def _judge(self, flow: Flow, header: bytes, outer: Outer, packet: bytes) -> List[str]:
        under = Envelope(header, outer.destination, outer.destination_port)
        return list(faults.outer(flow, under, outer.source, outer.ttl)) or faults.inner(flow, under, packet)

    def _deliver(self, flow: Flow, packet: bytes) -> None:
        super()._deliver(flow, packet)
        self.counters.delivered += 1
