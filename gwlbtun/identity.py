# SPDX-License-Identifier: MIT-0
"""Which endpoint: its ID, the name that the operator gave it, what its interfaces are called, and how options name it.

The load balancer's packets bring the ID, 64 bits wide. AWS shows it as vpce- and 17 hexadecimal digits.
"""
import re
from typing import Dict, Iterable, NamedTuple, Optional, Tuple

GWI, GWO = "gwi", "gwo"
NAME_MOST = 63  # characters
CACHES = 6      # numbers of --reserve: IPv4 TCP, UDP, other, IPv6 TCP, UDP, other
FLOWS_MOST = 1 << 28


_BASE60 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"


def base60(number: int) -> str:
    """A 64-bit number in at most 11 characters: with a prefix of 4 it fits the 15 of an interface name."""
    text = ""
    while True:
        number, digit = divmod(number, 60)
        text = _BASE60[digit] + text
        if not number:
            return text


def endpoint_id(eni: int) -> str:
    """As AWS shows it."""
    return f"vpce-{eni:017x}"


class Identity(NamedTuple):
    """All that names one endpoint."""

    eni: int
    name: str = ""       # empty: the operator has given it none
    netns: bool = False  # its interfaces are in a network namespace of its own
    named: bool = False  # on the command line: it is there from the start, and stays

    @property
    def vpce(self) -> str:
        return endpoint_id(self.eni)

    @property
    def namespace(self) -> str:
        """The name of its network namespace, or nothing."""
        return self.vpce if self.netns else ""

    @property
    def gwi(self) -> str:
        return self._interface(GWI)

    @property
    def gwo(self) -> str:
        return self._interface(GWO)

    def _interface(self, kind: str) -> str:
        return kind if self.netns else f"{kind}-{base60(self.eni)}"

    def title(self, interface: str) -> str:
        """How a line of text calls one of its interfaces."""
        where = f" of {self.vpce}" if self.netns else ""
        return f"{interface}{where}{self.remark}"

    @property
    def remark(self) -> str:
        """Its name, to be put behind its ID or an interface."""
        return f" ({self.name})" if self.name else ""

    def __str__(self) -> str:
        return f"ENI ID {self.eni:017x}{self.remark}"

    @property
    def interfaces(self) -> str:
        where = f" in network namespace {self.namespace}" if self.netns else ""
        return f"{self.gwi} and {self.gwo}{where} for {self}"

    def command(self, hook: str, action: str) -> str:
        """The command line by which an operator runs a hook of this endpoint."""
        inside = f"ip netns exec {self.namespace} " if self.netns else ""
        return f"{inside}{hook} {action} {self.gwi} {self.gwo} {self.eni:017x}"


class Identities:
    """Gives each ENI ID the identity that the options mean."""

    def __init__(self, named: Iterable["NamedEndpoint"] = (), netns: bool = False):
        self._names = {endpoint.eni: endpoint.name for endpoint in named}
        self._netns = netns

    def of(self, eni: int) -> Identity:
        return Identity(eni, self._names.get(eni, ""), self._netns, eni in self._names)

    @property
    def named(self) -> Iterable[int]:
        """The endpoints that are ready from the start."""
        return self._names.keys()


class NamedEndpoint(NamedTuple):
    """An endpoint that is ready from the start. Without a name it has only its ID."""

    eni: int
    name: str


class Reservation(NamedTuple):
    """Flows to have room for: of one endpoint, or of each that has no reservation of its own."""

    eni: Optional[int]
    flows: int


def endpoint_ids(text: str) -> Tuple[int, ...]:
    """A check for a list of endpoint IDs as AWS shows them, or as hooks and health do."""
    return tuple(_endpoint_id(word) for word in text.split(","))


def _endpoint_id(text: str) -> int:
    match = re.fullmatch(r"vpce-([0-9a-f]{17})|([0-9a-f]{1,17})", text, re.IGNORECASE)
    if not match or int(match[1] or match[2], 16) >= 1 << 64:
        raise ValueError(f"'{text}' is not the ID of an endpoint: give IDs such as vpce-0123456789abcdef0, "
                         "or their hexadecimal digits, separated by commas")
    return int(match[1] or match[2], 16)


def named_endpoints(text: str) -> Tuple[NamedEndpoint, ...]:
    """A check for a list of ID or ID=NAME."""
    return tuple(_named_endpoint(word) for word in text.split(","))


def _named_endpoint(text: str) -> NamedEndpoint:
    digits, equals, name = text.partition("=")
    if equals and not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_MOST - 1}}}", name):
        raise ValueError(f"'{name}' cannot be the name of an endpoint: give up to {NAME_MOST} letters, digits, dots, hyphens "
                         "and underscores, a letter or a digit first")
    return NamedEndpoint(_endpoint_id(digits), name)


def check_named(endpoints: Tuple[NamedEndpoint, ...], most: int) -> None:
    """Raises ValueError when two of them have the same ID or name, or when they are more than there may be."""
    by_id: Dict[int, str] = {}
    by_name: Dict[str, int] = {}
    for eni, name in endpoints:
        if eni in by_id:
            raise ValueError(f"--endpoint: {endpoint_id(eni)} is given twice: give each endpoint once")
        if name in by_name:
            raise ValueError(f"--endpoint: {endpoint_id(by_name[name])} and {endpoint_id(eni)} have the same name '{name}': "
                             "give each its own")
        by_id[eni] = name
        if name:
            by_name[name] = eni
    if len(endpoints) > most:
        raise ValueError(f"--endpoint: {len(endpoints)} endpoints are named, and --max-endpoints allows {most}: raise that")


def reservations(text: str) -> Tuple[Reservation, ...]:
    """A check for [ID:]a,b,c,d,e,f: the flows of an endpoint, by family and protocol."""
    form = "give [vpce-ID:] and six numbers of flows, a,b,c,d,e,f: IPv4 TCP, UDP, other, IPv6 TCP, UDP, other"
    head, colon, tail = text.rpartition(":")
    numbers = tail.split(",")
    if len(numbers) != CACHES or not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
        raise ValueError(f"'{text}' is no reservation: {form}")
    flows = sum(map(int, numbers))
    if flows > FLOWS_MOST:
        raise ValueError(f"'{text}' asks for {flows} flows: the most are {FLOWS_MOST}")
    return (Reservation(_endpoint_id(head) if colon else None, flows),)


def reserved_flows(reserved: Tuple[Reservation, ...], named: Tuple[NamedEndpoint, ...]) -> int:
    """The flows that all reservations ask for. One for each endpoint counts for those that are known, at least once."""
    own = {reservation.eni: reservation.flows for reservation in reserved}
    each = own.pop(None, 0)
    return sum(own.values()) + each * max(sum(endpoint.eni not in own for endpoint in named), 1)
