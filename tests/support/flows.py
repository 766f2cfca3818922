# SPDX-License-Identifier: MIT-0
"""Endpoints as the load balancer knows them: their flows, and the envelopes that these travel under."""
from typing import TYPE_CHECKING, Deque, Dict, Iterable, List, NamedTuple, Optional, Tuple

import packets
from expectations import Identical
from gwlbtun import geneve
from host import Host

if TYPE_CHECKING:
    from gwlb import Balancer


class Envelope(NamedTuple):
    """What a flow's packets travel under: Geneve header, the balancer's address, and the outer source port."""

    header: bytes
    address: str
    port: int


class Flow:
    """An inner flow and its envelopes, of which the newest is last."""

    def __init__(self, endpoint: "Endpoint", key: tuple, envelope: Envelope):
        self.endpoint = endpoint
        self.key = key
        self.envelopes = [envelope]
        self.sent = 0
        self.returned = 0
        self.newest_returned = 0  # the newest envelope that has come back: index in envelopes
        # By the fingerprint of a packet: the packets sent, each with the index of its envelope.
        self.awaited: Dict[bytes, Deque[Tuple[int, bytes]]] = {}

    @property
    def envelope(self) -> Envelope:
        return self.envelopes[-1]

    @property
    def cookie(self) -> int:
        return geneve.parse_header(self.envelope.header).cookie

    def renew(self, cookie: Optional[int] = None, port: Optional[int] = None, address: Optional[str] = None,
              extra_options: Optional[Iterable[geneve.Option]] = None) -> None:
        """The next packet travels under an envelope that differs from the last in what is given."""
        self.endpoint.balancer.renew(self, cookie, port, address, extra_options)


class Endpoint:
    """A GWLB endpoint: its hosts, its flows, and what is expected of packets that return."""

    def __init__(self, balancer: "Balancer", eni: int, expectation: Identical,
                 extra_options: Iterable[geneve.Option] = ()):
        self.balancer = balancer
        self.eni = eni
        self.attachment = eni ^ 0x5555_5555_5555_5555
        self.expectation = expectation
        self.extra_options = tuple(extra_options)
        self.hosts: Dict[bytes, Host] = {}
        self.flows: Dict[tuple, Flow] = {}
        self.datagrams: Dict[tuple, Flow] = {}  # of fragments: packets.fragment_key
        self.received: List[bytes] = []  # what returned and is for none of the hosts

    @property
    def id(self) -> str:
        """The ENI ID as hooks and health show it."""
        return f"{self.eni:017x}"

    @property
    def gwi(self) -> str:
        return "gwi-" + base60(self.eni)

    @property
    def gwo(self) -> str:
        return "gwo-" + base60(self.eni)

    def attach(self, host: Host) -> None:
        for address in host.addresses:
            self.hosts[packets.address(address)] = host
        self.balancer.watch(host, self)

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
