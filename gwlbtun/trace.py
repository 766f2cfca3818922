# SPDX-License-Identifier: MIT-0
"""Turns the fast path's trace of single packets into log text, for the sections udp, geneve and tunnel."""
import ipaddress
import socket
import struct
import threading
from typing import Dict, List

from . import fastpath, geneve
from .identity import Identities
from .logs import CORE, DUMPED_SECTIONS, GENEVE, TUNNEL, UDP, Entry, Level, Log

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_EXTENSION_HEADERS = (0, 43, 60)  # hop-by-hop options, routing, destination options (RFC 8200)
_FRAGMENT = 44


def level_wanted(levels: Dict[str, Level]) -> int:
    """How much the fast path has to trace for a log of these levels: enum gw_trace_level."""
    most = max(levels[section] for section in DUMPED_SECTIONS)
    return {Level.DEBUG: fastpath.TRACE_HEADERS, Level.DEBUGDETAIL: fastpath.TRACE_DUMP}.get(most, fastpath.TRACE_OFF)


def hex_dump(data: bytes) -> str:
    """Lines of 16 bytes, in hex and as text, each after a line end."""
    lines = []
    for offset in range(0, len(data), 16):
        part = data[offset:offset + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"\n  {offset:04x}  {part.hex(' '):<47}  {text}")
    return "".join(lines)


def describe_inner(packet: bytes) -> str:
    """Addresses, protocol and ports of an IP packet, as far as it goes."""
    try:
        if packet[0] >> 4 == 4:
            protocol, source, destination = packet[9], packet[12:16], packet[16:20]
            offset = (packet[0] & 0xF) * 4
            fragment, = struct.unpack_from("!H", packet, 6)
            later_fragment = fragment & 0x1FFF != 0
        elif packet[0] >> 4 == 6:
            protocol, source, destination = packet[6], packet[8:24], packet[24:40]
            offset = 40
            later_fragment = False
            while protocol in (*_EXTENSION_HEADERS, _FRAGMENT) and not later_fragment:
                if protocol == _FRAGMENT:
                    later_fragment = struct.unpack_from("!H", packet, offset + 2)[0] & 0xFFF8 != 0
                    size = 8
                else:
                    size = (packet[offset + 1] + 1) * 8
                protocol = packet[offset]
                offset += size
        else:
            return "no IP packet"
        text = (f"{_PROTOCOLS.get(protocol, f'protocol {protocol}')} {ipaddress.ip_address(source)} to "
                f"{ipaddress.ip_address(destination)}")
        if later_fragment:
            return text + ", later fragment"
        if protocol in (6, 17):
            return text + ", ports {} to {}".format(*struct.unpack_from("!HH", packet, offset))
        if protocol in (1, 58):
            return text + ", type {}, code {}, identifier {}".format(*struct.unpack_from("!BB2xH", packet, offset))
        return text
    except (IndexError, ValueError, struct.error):
        return "an IP packet cut short"


class Trace:
    """Reads the trace of a handler, for the logger thread."""

    def __init__(self, handler: fastpath.Handler, identities: Identities, log: Log):
        self._handler = handler
        self._identities = identities
        self._log = log
        self._record = fastpath.TraceRecord()
        self._lost = 0
        self._threads: Dict[int, str] = {}

    def __call__(self, most: int) -> List[Entry]:
        entries: List[Entry] = []
        while len(entries) < most and self._handler.read_trace(self._record):
            self._format(entries)
        lost = self._handler.trace_lost()
        if lost > self._lost and entries:
            text = f"{lost - self._lost} packets were not logged: the log cannot keep up."
            entries.append(entries[-1]._replace(section=CORE, level=Level.IMPORTANT, text=text))
            self._lost = lost
        return entries

    def _format(self, entries: List[Entry]) -> None:
        record = self._record
        packet = record.packet
        if record.event == fastpath.TRACE_IN:
            source = f"{_address(record.gwlb_address)}:{record.gwlb_port}"
            self._say(entries, UDP, f"{record.length} bytes from {source} to {_address(record.own_address)}", packet)
            self._say_inward(entries, packet)
        else:
            way = (f"{self._interface(record.side)}: from Linux, {record.length} bytes, "
                   f"{describe_inner(packet)}")
            if record.counter:
                self._say(entries, TUNNEL, f"{way}: dropped, {self._reason()}", packet)
            else:
                target = f"{_address(record.gwlb_address)}, source port {record.gwlb_port}"
                self._say(entries, TUNNEL, f"{way}: flow cookie {record.cookie:08x}, to {target}", packet)

    def _say_inward(self, entries: List[Entry], packet: bytes) -> None:
        try:
            header = geneve.parse_header(packet)
        except geneve.GeneveError as error:
            self._say(entries, GENEVE, f"Dropped, {self._reason() or error}", packet)
            return
        inner = packet[header.size:]
        if self._record.counter:
            self._say(entries, GENEVE, f"{header}: {describe_inner(inner)}: dropped, {self._reason()}", packet)
            return
        self._say(entries, GENEVE, f"{header}: {describe_inner(inner)}", packet[:header.size])
        self._say(entries, TUNNEL, f"{self._interface(fastpath.GWI)}: to Linux, "
                                   f"{self._record.length - header.size} bytes, {describe_inner(inner)}", inner)

    def _interface(self, side: int) -> str:
        identity = self._identities.of(self._record.eni)
        return identity.title(identity.gwi if side == fastpath.GWI else identity.gwo)

    def _reason(self) -> str:
        shim = self._handler.shim
        name = shim.counters[self._record.counter] if self._record.counter < len(shim.counters) else ""
        return shim.drop_texts.get(name, "")

    def _say(self, entries: List[Entry], section: str, text: str, data: bytes) -> None:
        if self._log.wants(section, Level.DEBUGDETAIL):
            level, text = Level.DEBUGDETAIL, text + hex_dump(data)
        elif self._log.wants(section, Level.DEBUG):
            level = Level.DEBUG
        else:
            return
        entries.append(Entry(self._record.time_ns, self._thread(), section, level, text))

    def _thread(self) -> str:
        number = self._record.thread_id
        if number not in self._threads:
            self._threads = {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
            self._threads.setdefault(number, "gwlbtun")
        return self._threads[number]


def _address(number: int) -> str:
    """An address as it lies in memory."""
    return socket.inet_ntoa(struct.pack("=I", number))
