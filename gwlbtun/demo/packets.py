# SPDX-License-Identifier: MIT-0
"""Inner packets: reading them, and naming the flow they belong to.

Written apart from native/packet.c, so that tests can hold each against the other.
"""
import socket
import struct
from typing import Any, NamedTuple, Tuple

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, 135, 139, 140  # IANA's list

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
_ECHOES = {4: (0, 8), 6: (128, 129)}
_ERRORS = {4: (3, 4, 5, 11, 12), 6: range(128)}

FlowKey = Tuple[Any, ...]


class Packet(NamedTuple):
    """What an IP packet says of itself. transport is the offset of the transport header, in bytes."""

    version: int
    protocol: int
    source: bytes
    destination: bytes
    transport: int
    length: int
    fragment: bool
    fragment_offset: int
    fragment_id: int


def checksum(*parts: bytes) -> int:
    """The Internet checksum (RFC 1071) of the parts, of which all but the last have an even length.

    A one's complement sum of 16-bit words is the remainder of the whole number by 65535.
    """
    data = b"".join(parts)
    data += bytes(len(data) % 2)
    total = int.from_bytes(data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def parse(packet: bytes) -> Packet:
    """Raises ValueError where the packet is too short to say what it must; one that an error quotes may lack its end."""
    try:
        if packet[0] >> 4 == 4:
            length, fragment_id, offset, protocol = struct.unpack_from("!2xHHHxB", packet)
            return Packet(4, protocol, packet[12:16], _whole(packet, 16, 4), (packet[0] & 15) * 4, length,
                          bool(offset & 0x3FFF), (offset & 0x1FFF) * 8, fragment_id)
        if packet[0] >> 4 == 6:
            return _parse_ipv6(packet)
    except (IndexError, struct.error):
        pass
    raise ValueError(f"no IP packet: {packet[:64].hex()}")


def _whole(packet: bytes, offset: int, size: int) -> bytes:
    if len(packet) < offset + size:
        raise IndexError
    return packet[offset:offset + size]


def _parse_ipv6(packet: bytes) -> Packet:
    source, destination = packet[8:24], _whole(packet, 24, 16)
    protocol, offset = packet[6], 40
    fragment, fragment_offset, fragment_id = False, 0, 0
    while protocol in EXTENSIONS and not fragment_offset:
        following, size = packet[offset], (packet[offset + 1] + 1) * 8
        if protocol == AUTHENTICATION:
            size = (packet[offset + 1] + 2) * 4
        elif protocol == FRAGMENT:
            size = 8
            flags, fragment_id = struct.unpack_from("!HI", packet, offset + 2)
            fragment, fragment_offset = bool(flags & 0xFFF9), flags & 0xFFF8
        protocol, offset = following, offset + size
    return Packet(6, protocol, source, destination, offset, 40 + struct.unpack_from("!H", packet, 4)[0],
                  fragment, fragment_offset, fragment_id)


def is_icmp_error(parsed: Packet, packet: bytes) -> bool:
    return (parsed.protocol == (ICMP if parsed.version == 4 else ICMPV6) and not parsed.fragment_offset
            and len(packet) > parsed.transport and packet[parsed.transport] in _ERRORS[parsed.version])


def flow_key(packet: bytes) -> FlowKey:
    """The name of a packet's flow, the same in both directions: version, protocol, and both ends, the lower first.

    An ICMP error belongs to the flow of the packet that it quotes. Of a later fragment only its datagram can be told:
    fragment_key().
    """
    parsed = parse(packet)
    if parsed.fragment_offset:
        return fragment_key(parsed)
    if is_icmp_error(parsed, packet):
        return flow_key(packet[parsed.transport + 8:])
    source = destination = 0
    at = parsed.transport
    if parsed.protocol in (TCP, UDP) and len(packet) >= at + 4:
        source, destination = struct.unpack_from("!HH", packet, at)
    elif parsed.protocol == (ICMP if parsed.version == 4 else ICMPV6) and len(packet) >= at + 6 \
            and packet[at] in _ECHOES[parsed.version]:
        source = destination = struct.unpack_from("!H", packet, at + 4)[0]
    ends = (parsed.source, source), (parsed.destination, destination)
    return (parsed.version, parsed.protocol, *sorted(ends))


def fragment_key(parsed: Packet) -> FlowKey:
    """The name of the datagram that a fragment is part of. IPv6 does not go by the protocol (RFC 8200, 4.5)."""
    protocol = parsed.protocol if parsed.version == 4 else FRAGMENT
    return "datagram", parsed.version, protocol, parsed.source, parsed.destination, parsed.fragment_id
