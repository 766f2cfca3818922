# SPDX-License-Identifier: MIT-0
"""The Geneve header (RFC 8926) as a gateway load balancer writes it, in Python.

The fast path has its own in native/geneve.c. This one serves log text and the test load balancer, and is the independent
oracle of the C code's tests: it makes the same checks in the same order, and names what it refuses by the same counters
(GW_COUNTER_LIST in native/gwlbtun.h).
"""
import struct
from dataclasses import dataclass
from typing import Dict, Iterable, NamedTuple, Optional, Tuple

PORT = 6081
BASE_SIZE = 8
MAX_OPTIONS_SIZE = 63 * 4

PROTOCOL_IPV4 = 0x0800
PROTOCOL_IPV6 = 0x86DD
IP_VERSIONS = {PROTOCOL_IPV4: 4, PROTOCOL_IPV6: 6}
PROTOCOLS = {version: protocol for protocol, version in IP_VERSIONS.items()}

CRITICAL = 0x80

AWS = 0x0108
MEANINGS = ENI, ATTACHMENT, COOKIE = "eni", "attachment", "cookie"


class KnownOption(NamedTuple):
    """What an option means, and the only size its data may have, in bytes."""

    meaning: str
    size: int


# What an option means, by class and type. The load balancer of another cloud would add to this alone.
KNOWN_OPTIONS: Dict[Tuple[int, int], KnownOption] = {
    (AWS, 1): KnownOption(ENI, 8),
    (AWS, 2): KnownOption(ATTACHMENT, 8),
    (AWS, 3): KnownOption(COOKIE, 4),
}


class GeneveError(ValueError):
    """A packet that the fast path drops. reason names the counter that counts it."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Option:
    """One option. type includes the critical bit; the size of data is a multiple of 4, at most 124 bytes."""

    option_class: int
    type: int
    data: bytes = b""
    reserved: int = 0

    @property
    def known(self) -> Optional[KnownOption]:
        return KNOWN_OPTIONS.get((self.option_class, self.type))

    @property
    def critical(self) -> bool:
        return bool(self.type & CRITICAL)

    def pack(self) -> bytes:
        if len(self.data) % 4 or len(self.data) > 31 * 4:
            raise ValueError(f"the data of a Geneve option cannot have {len(self.data)} bytes")
        return struct.pack("!HBB", self.option_class, self.type, self.reserved << 5 | len(self.data) // 4) + self.data

    def __str__(self) -> str:
        name = self.known.meaning if self.known else f"option {self.option_class:#06x}/{self.type:#04x}"
        return f"{name} {self.data.hex() or '(empty)'}"


@dataclass(frozen=True)
class Header:
    """A whole header: pack() returns every bit that parse() was given."""

    protocol: int
    options: Tuple[Option, ...] = ()
    vni: int = 0
    version: int = 0
    control: bool = False
    critical: bool = False
    reserved_flags: int = 0
    reserved: int = 0

    def _known(self, meaning: str) -> Optional[int]:
        """The value of the option of that meaning. If it comes twice, the first counts."""
        for option in self.options:
            if option.known and option.known.meaning == meaning:
                return int.from_bytes(option.data, "big")
        return None

    @property
    def eni(self) -> Optional[int]:
        return self._known(ENI)

    @property
    def attachment(self) -> Optional[int]:
        return self._known(ATTACHMENT)

    @property
    def cookie(self) -> Optional[int]:
        return self._known(COOKIE)

    @property
    def size(self) -> int:
        """Bytes of base and options: where the inner packet begins."""
        return BASE_SIZE + sum(4 + len(option.data) for option in self.options)

    def pack(self) -> bytes:
        options = b"".join(option.pack() for option in self.options)
        if len(options) > MAX_OPTIONS_SIZE:
            raise ValueError(f"{len(options)} bytes of options do not fit a Geneve header")
        flags = self.control << 7 | self.critical << 6 | self.reserved_flags
        return struct.pack("!BBHI", self.version << 6 | len(options) // 4, flags, self.protocol,
                           self.vni << 8 | self.reserved) + options

    def __str__(self) -> str:
        inner = f"IPv{IP_VERSIONS[self.protocol]}" if self.protocol in IP_VERSIONS else f"protocol {self.protocol:#06x}"
        return f"Geneve {inner}, " + (", ".join(map(str, self.options)) or "no options")


def parse_header(payload: bytes) -> Header:
    """The header at the start of a UDP payload, checked as far as it can be without its inner packet.

    Raises GeneveError with the reason of the first check that fails.
    """
    if len(payload) < BASE_SIZE:
        raise GeneveError("drop_header_short", f"{len(payload)} bytes")
    first, flags, protocol, last = struct.unpack_from("!BBHI", payload)
    version, end = first >> 6, BASE_SIZE + (first & 0x3F) * 4
    if version != 0:
        raise GeneveError("drop_version", f"version {version}")
    if end > len(payload):
        raise GeneveError("drop_options_length", f"a header of {end} bytes in {len(payload)}")
    if flags & 0x80:
        raise GeneveError("drop_control", "the O bit is set")
    if protocol not in IP_VERSIONS:
        raise GeneveError("drop_protocol", f"protocol type {protocol:#06x}")
    options = []
    offset = BASE_SIZE
    while offset < end:
        option_class, kind, last_byte = struct.unpack_from("!HBB", payload, offset)
        size = (last_byte & 0x1F) * 4
        if offset + 4 + size > end:
            raise GeneveError("drop_option_overrun", f"an option of {4 + size} bytes where {end - offset} are left")
        option = Option(option_class, kind, bytes(payload[offset + 4:offset + 4 + size]), last_byte >> 5)
        if option.known:
            if size != option.known.size:
                raise GeneveError("drop_option_size", f"{option}: {size} bytes, not {option.known.size}")
        elif option.critical:
            raise GeneveError("drop_critical_option", str(option))
        options.append(option)
        offset += 4 + size
    header = Header(protocol, tuple(options), last >> 8, version, False, bool(flags & 0x40), flags & 0x3F, last & 0xFF)
    for meaning in MEANINGS:
        if getattr(header, meaning) is None:
            raise GeneveError(f"drop_no_{meaning}", f"no option with the {meaning}")
    return header


def check_inner(packet: bytes, version: int) -> int:
    """Checks the bounds of an inner packet that should be of that IP version, and returns the length it claims.

    What follows that length is padding, and not part of the packet. Raises GeneveError.
    """
    smallest = 20 if version == 4 else 40
    if len(packet) < smallest:
        raise GeneveError("drop_inner_truncated", f"{len(packet)} bytes are no IPv{version} packet")
    if packet[0] >> 4 != version:
        raise GeneveError("drop_inner_mismatch", f"IP version {packet[0] >> 4}, not {version}")
    if version == 4:
        header_size = (packet[0] & 0x0F) * 4
        length = int.from_bytes(packet[2:4], "big")
        if header_size < smallest or length < header_size:
            raise GeneveError("drop_inner_mismatch", f"an IPv4 header of {header_size} bytes in a packet of {length}")
    else:
        length = smallest + int.from_bytes(packet[4:6], "big")
    if length > len(packet):
        raise GeneveError("drop_inner_truncated", f"{len(packet)} bytes of {length}")
    return length


def parse(payload: bytes) -> Header:
    """The header of a Geneve packet, all of it checked; the inner packet is payload[header.size:].

    Raises GeneveError with the reason of the first check that fails, from the outside in.
    """
    header = parse_header(payload)
    check_inner(payload[header.size:], IP_VERSIONS[header.protocol])
    return header


def gwlb_header(eni: int, attachment: int, cookie: int, protocol: int = PROTOCOL_IPV4,
                extra_options: Iterable[Option] = ()) -> Header:
    """The header that Gateway Load Balancer sends: its three options, and extra_options after them."""
    return Header(protocol, (
        Option(AWS, 1, eni.to_bytes(8, "big")),
        Option(AWS, 2, attachment.to_bytes(8, "big")),
        Option(AWS, 3, cookie.to_bytes(4, "big")),
        *extra_options,
    ))
