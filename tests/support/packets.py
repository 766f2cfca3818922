# SPDX-License-Identifier: MIT-0
"""Inner packets: making them, and judging them. gwlbtun.demo.packets reads them."""
import struct
from typing import Dict, Iterable, List, Tuple

from gwlbtun.demo.packets import (  # noqa: F401
    AUTHENTICATION, DESTINATION, ECHO_REPLY, ECHO_REQUEST, EXTENSIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, TCP, UDP,
    Packet, address, checksum, flow_key, fragment_key, is_icmp_error, parse)

SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04


def by_flow(many: Iterable[bytes]) -> Dict[Tuple, List[bytes]]:
    """What order means anything for."""
    flows: Dict[Tuple, List[bytes]] = {}
    for packet in many:
        flows.setdefault(flow_key(packet), []).append(packet)
    return flows


def pseudo_header(version: int, source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    if version == 4:
        return source + destination + struct.pack("!BBH", 0, protocol, length)
    return source + destination + struct.pack("!II", length, protocol)


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
