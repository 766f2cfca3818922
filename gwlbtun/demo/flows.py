# SPDX-License-Identifier: MIT-0
"""Endpoints as the load balancer knows them, their flows, and the envelope that a flow travels under."""
from typing import TYPE_CHECKING, Dict, NamedTuple

from .. import geneve
from . import packets
from .host import Host

if TYPE_CHECKING:
    from .balancer import Balancer


class Envelope(NamedTuple):
    """What a flow's packets travel under: Geneve header, the balancer's address, and the outer source port."""

    header: bytes
    address: str
    port: int


class Flow:
    """An inner flow, its envelope, and how many of its packets went to the appliance and came back."""

    def __init__(self, endpoint: "Endpoint", key: packets.FlowKey, envelope: Envelope):
        self.endpoint = endpoint
        self.key = key
        self.envelope = envelope
        self.sent = 0
        self.returned = 0


class Endpoint:
    """A GWLB endpoint: its hosts and its flows."""

    def __init__(self, balancer: "Balancer", eni: int):
        self.balancer = balancer
        self.eni = eni
        self.attachment = eni ^ 0x5555_5555_5555_5555
        self.hosts: Dict[bytes, Host] = {}
        self.flows: Dict[packets.FlowKey, Flow] = {}
        self.datagrams: Dict[packets.FlowKey, Flow] = {}  # of fragments: packets.fragment_key

    @property
    def id(self) -> str:
        """The ENI ID as hooks and health show it."""
        return f"{self.eni:017x}"

    def attach(self, host: Host) -> None:
        for address in host.addresses:
            self.hosts[packets.address(address)] = host
        self.balancer.watch(host, self)

    def header(self, cookie: int, version: int) -> bytes:
        """The Geneve header of a new flow, of that IP version."""
        return geneve.gwlb_header(self.eni, self.attachment, cookie, geneve.PROTOCOLS[version]).pack()

    def new_flow(self, key: packets.FlowKey, envelope: Envelope) -> Flow:
        return Flow(self, key, envelope)

    def keep(self, packet: bytes) -> None:
        """A packet came back that is for none of the hosts."""
