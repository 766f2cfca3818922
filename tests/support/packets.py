# SPDX-License-Identifier: MIT-0
"""Inner packets: making them, reading them, and naming the flow they belong to.

Written apart from native/packet.c, so that each can show the other's mistakes.
"""
import socket
import struct
from typing import List, NamedTuple, Tuple

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, 135, 139, 140  # IANA's list

SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
_ECHOES = {4: (0, 8), 6: (128, 129)}
_ERRORS = {4: (3, 4, 5, 11, 12), 6: range(128)}


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


def pseudo_header(version: int, source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    if version == 4:
        return source + destination + struct.pack("!BBH", 0, protocol, length)
    return source + destination + struct.pack("!II", length, protocol)


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


# ---- Reading ---------------------------------------------------------------------------------------------------------


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


def flow_key(packet: bytes) -> tuple:
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


def fragment_key(parsed: Packet) -> tuple:
    """The name of the datagram that a fragment is part of. IPv6 does not go by the protocol (RFC 8200, 4.5)."""
    protocol = parsed.protocol if parsed.version == 4 else FRAGMENT
    return "datagram", parsed.version, protocol, parsed.source, parsed.destination, parsed.fragment_id


def faults(packet: bytes) -> List[str]:
    """What is wrong with a packet that came off the wire: its lengths and its checksums."""
    try:
        parsed = parse(packet)
    except ValueError as error:
        return [str(error)]
    if parsed.length != len(packet):
        return [f"{len(packet)} bytes, but IP says {parsed.length}"]
    found = []
    if parsed.version == 4 and checksum(packet[:parsed.transport]):
        found.append("wrong IPv4 header checksum")
    if parsed.fragment:
        return found
    body = packet[parsed.transport:]
    pseudo = pseudo_header(parsed.version, parsed.source, parsed.destination, parsed.protocol, len(body))
    if parsed.protocol == ICMP and checksum(body):
        found.append("wrong ICMP checksum")
    elif parsed.protocol in (TCP, UDP, ICMPV6) and checksum(pseudo, body):
        if parsed.protocol != UDP or parsed.version == 6 or body[6:8] != b"\0\0":
            found.append(f"wrong checksum of protocol {parsed.protocol}")
    return found


# ---- Making ----------------------------------------------------------------------------------------------------------


def ipv4(source: str, destination: str, protocol: int, body: bytes, *, ttl=64, tos=0, ident=0, dont_fragment=True,
         more=False, fragment_offset=0, options=b"") -> bytes:
    size = 20 + len(options)
    offset = dont_fragment << 14 | more << 13 | fragment_offset // 8
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | size // 4, tos, size + len(body), ident, offset, ttl, protocol, 0,
                         address(source), address(destination)) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def ipv6(source: str, destination: str, protocol: int, body: bytes, *, ttl=64, tos=0, flow_label=0,
         extensions: Tuple[Tuple[int, bytes], ...] = ()) -> bytes:
    """extensions: pairs of protocol number and extension header, whose first byte is filled in here."""
    following = [number for number, _ in extensions[1:]] + [protocol]
    headers = b"".join(bytes([after]) + header[1:] for (_, header), after in zip(extensions, following))
    first = extensions[0][0] if extensions else protocol
    return struct.pack("!IHBB16s16s", 6 << 28 | tos << 20 | flow_label, len(headers) + len(body), first, ttl,
                       address(source), address(destination)) + headers + body


def ip(source: str, destination: str, protocol: int, body: bytes, **fields) -> bytes:
    return (ipv6 if ":" in source else ipv4)(source, destination, protocol, body, **fields)


def _transport(source: str, destination: str, protocol: int, header: bytes, at: int, payload: bytes) -> bytes:
    version = 6 if ":" in source else 4
    pseudo = pseudo_header(version, address(source), address(destination), protocol, len(header) + len(payload))
    value = checksum(pseudo, header, payload)
    if protocol == UDP:
        value = value or 0xFFFF
    return header[:at] + struct.pack("!H", value) + header[at + 2:] + payload


def udp_datagram(source: str, destination: str, source_port: int, destination_port: int, payload: bytes) -> bytes:
    header = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0)
    return _transport(source, destination, UDP, header, 6, payload)


def udp(source: str, destination: str, source_port: int, destination_port: int, payload=b"", **fields) -> bytes:
    datagram = udp_datagram(source, destination, source_port, destination_port, payload)
    return ip(source, destination, UDP, datagram, **fields)


def tcp(source: str, destination: str, source_port: int, destination_port: int, payload=b"", *, seq=0, ack=0,
        flags=ACK, window=65535, options=b"", **fields) -> bytes:
    header = struct.pack("!HHIIBBHHH", source_port, destination_port, seq, ack, (20 + len(options)) // 4 << 4, flags,
                         window, 0, 0) + options
    return ip(source, destination, TCP, _transport(source, destination, TCP, header, 16, payload), **fields)


def icmp(source: str, destination: str, kind: int, code: int, rest: bytes, payload=b"", **fields) -> bytes:
    """rest: the four bytes after the checksum."""
    header = struct.pack("!BBH", kind, code, 0) + rest
    if ":" in source:
        return ip(source, destination, ICMPV6, _transport(source, destination, ICMPV6, header, 2, payload), **fields)
    return ip(source, destination, ICMP, header[:2] + struct.pack("!H", checksum(header, payload)) + rest + payload,
              **fields)


def echo(source: str, destination: str, identifier: int, sequence=0, payload=b"", reply=False, **fields) -> bytes:
    kind = (ECHO_REPLY if reply else ECHO_REQUEST)[6 if ":" in source else 4]
    return icmp(source, destination, kind, 0, struct.pack("!HH", identifier, sequence), payload, **fields)


def fragments(source: str, destination: str, protocol: int, body: bytes, size: int, ident: int) -> List[bytes]:
    """A datagram in fragments of size bytes of its body, a multiple of 8."""
    made = []
    for offset in range(0, len(body), size):
        more = offset + size < len(body)
        part = body[offset:offset + size]
        if ":" in source:
            header = struct.pack("!BBHI", 0, 0, offset | more, ident)
            made.append(ipv6(source, destination, protocol, part, extensions=((FRAGMENT, header),)))
        else:
            made.append(ipv4(source, destination, protocol, part, ident=ident, dont_fragment=False, more=more,
                             fragment_offset=offset))
    return made
