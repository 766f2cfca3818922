# SPDX-License-Identifier: MIT-0
"""Endpoints and flows of the tests' load balancer: what is awaited of them, and envelopes that change."""
from typing import TYPE_CHECKING, Deque, Dict, Iterable, List, Optional, Tuple

from expectations import Identical
from gwlbtun import geneve
from gwlbtun.demo import flows
from gwlbtun.demo.flows import Envelope

if TYPE_CHECKING:
    from gwlb import Balancer


class Flow(flows.Flow):
    """An inner flow and its envelopes, of which the newest is last."""

    def __init__(self, endpoint: "Endpoint", key: tuple, envelope: Envelope):
        super().__init__(endpoint, key, envelope)
        self.envelopes = [envelope]
        self.newest_returned = 0  # the newest envelope that has come back: index in envelopes
        # By the fingerprint of a packet: the packets sent, each with the index of its envelope.
        self.awaited: Dict[bytes, Deque[Tuple[int, bytes]]] = {}

    @property
    def cookie(self) -> int:
        return geneve.parse_header(self.envelope.header).cookie

    def renew(self, cookie: Optional[int] = None, port: Optional[int] = None, address: Optional[str] = None,
              extra_options: Optional[Iterable[geneve.Option]] = None) -> None:
        """The next packet travels under an envelope that differs from the last in what is given."""
        self.endpoint.balancer.renew(self, cookie, port, address, extra_options)


class Endpoint(flows.Endpoint):
    """A GWLB endpoint: its hosts, its flows, and what is expected of packets that return."""

    def __init__(self, balancer: "Balancer", eni: int, expectation: Identical,
                 extra_options: Iterable[geneve.Option] = ()):
        super().__init__(balancer, eni)
        self.expectation = expectation
        self.extra_options = tuple(extra_options)
        self.received: List[bytes] = []  # what returned and is for none of the hosts

    @property
    def gwi(self) -> str:
        return "gwi-" + base60(self.eni)

    @property
    def gwo(self) -> str:
        return "gwo-" + base60(self.eni)

    def header(self, cookie: int, version: int) -> bytes:
        return geneve.gwlb_header(self.eni, self.attachment, cookie, geneve.PROTOCOLS[version], self.extra_options).pack()

    def new_flow(self, key: tuple, envelope: Envelope) -> Flow:
        return Flow(self, key, envelope)

    def keep(self, packet: bytes) -> None:
        self.received.append(packet)

    def send(self, packet: bytes) -> None:
        """Sends an inner packet to the appliance, as if a host had sent it."""
        self.balancer.forward(self, packet)

    def flow(self, packet: bytes) -> Flow:
        """The flow of a packet, made now if it is new."""
        return self.balancer.flow_of(self, packet)


def base60(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"
    text = ""
    while number or not text:
        number, digit = divmod(number, 60)
        text = digits[digit] + text
    return text
