# SPDX-License-Identifier: MIT-0
"""The records of flows as rows for `gwlbtun show flows`."""
import functools
import socket
from typing import IO, Any, Dict, Iterator, Mapping

from ..identity import endpoint_id
from ..layout import FLOW_RECORD, KEY_FLOW, KEY_FRAGMENT, KEY_ICMP_ERROR

RECORDS_AT_A_TIME = 4096

PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ospf": 89,
             "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_KINDS = {KEY_FLOW: "flow", KEY_FRAGMENT: "fragment", KEY_ICMP_ERROR: "icmp-error"}
_endpoint_id = functools.lru_cache(maxsize=1024)(endpoint_id)
_WITH_PORTS = (PROTOCOLS["tcp"], PROTOCOLS["udp"])
_WITH_IDENTIFIER = (PROTOCOLS["icmp"], PROTOCOLS["icmpv6"])


def flow_rows(octets: IO[bytes], names: Mapping[str, str]) -> Iterator[Dict[str, Any]]:
    """A row for each record. Which end began a flow is not known: the lower address comes first. names: of endpoints, by ID."""
    while True:
        block = octets.read(RECORDS_AT_A_TIME * FLOW_RECORD.size)
        if not block:
            return
        for record in FLOW_RECORD.iter_unpack(block):
            row = _row(*record)
            row["name"] = names.get(row["endpoint"], "")
            yield row


def _row(address1: bytes, address2: bytes, eni: int, attachment: int, ports: int, cookie: int, gwlb_address: bytes,
         own_address: bytes, idle_s: int, gwlb_port: int, family: int, protocol: int, kind: int) -> Dict[str, Any]:
    port1 = port2 = identifier = None
    if kind == KEY_FRAGMENT:
        identifier = ports
    elif kind == KEY_FLOW and protocol in _WITH_PORTS:
        port1, port2 = ports >> 16, ports & 0xFFFF
    elif kind == KEY_FLOW and protocol in _WITH_IDENTIFIER:
        identifier = ports & 0xFFFF
    return {"endpoint": _endpoint_id(eni), "kind": _KINDS.get(kind, "unknown"), "protocol": _NAMES.get(protocol, str(protocol)),
            "address1": _address(family, address1), "port1": port1, "address2": _address(family, address2), "port2": port2,
            "identifier": identifier, "secsSinceLastPacket": idle_s, "cookie": f"{cookie:08x}",
            "attachment": f"{attachment:016x}", "gwlbAddress": _address(4, gwlb_address), "gwlbPort": gwlb_port,
            "ownAddress": _address(4, own_address)}


@functools.lru_cache(maxsize=4096)
def _address(family: int, octets: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, octets) if family == 6 else socket.inet_ntop(socket.AF_INET, octets[:4])
