# SPDX-License-Identifier: MIT-0
"""Policies of IPsec (ip-xfrm(8)): what they want protected, or kept from leaving, must not leave by the programs."""
import os
import socket
import struct
from typing import List, NamedTuple

from .. import netlink, rtnetlink
from ..geneve import PORT

# <linux/netlink.h>, <linux/xfrm.h>
_NETLINK_XFRM, _GETPOLICY, _OUT, _ALLOW = 6, 0x15, 1, 0
_TMPL, _MARK, _IF_ID = 5, 21, 31
_SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
_POLICY_ID = struct.Struct("=56sIB3x")
_POLICY = struct.Struct("=56s96sIIBBBB4x")  # selector, lifetimes, priority, index, direction, action, flags, share

_SOCKETS = "/proc/thread-self/net/netlink"


class Policy(NamedTuple):
    """One for what leaves."""

    priority: int
    selector: bytes
    plain: bool  # what it is for leaves as it is

    def is_for(self, own: bytes, gwlb: bytes, interface: int) -> bool:
        """Whether what we send to the load balancer is among it."""
        (destination, source, port, port_mask, _, _, family, destination_bits, source_bits, protocol, index,
         _) = _SELECTOR.unpack(self.selector)
        return (family in (socket.AF_UNSPEC, socket.AF_INET) and protocol in (0, socket.IPPROTO_UDP) and index in (0, interface)
                and (socket.htons(PORT) ^ port) & port_mask == 0
                and _same(destination, gwlb, destination_bits) and _same(source, own, source_bits))


def policies() -> List[Policy]:
    """The first that is for a packet decides. Raises OSError."""
    found: List[Policy] = []
    if not _has_xfrm():
        return found
    for body in rtnetlink.ask(_GETPOLICY, netlink.NLM_F_DUMP, _POLICY_ID.pack(bytes(56), 0, 0), _NETLINK_XFRM):
        if len(body) < _POLICY.size:
            continue
        selector, _, priority, _, direction, action, *_ = _POLICY.unpack_from(body)
        more = dict(netlink.attributes(body[_POLICY.size:]))
        if direction == _OUT and not any(more.get(_IF_ID, b"")) and not any(more.get(_MARK, b"")[:4]):
            found.append(Policy(priority, selector, action == _ALLOW and _TMPL not in more))
    return sorted(found, key=lambda policy: policy.priority)


def _has_xfrm() -> bool:
    """To ask whether the kernel has it loads it, where it is a module."""
    if not os.path.exists(_SOCKETS):
        return False
    with open(_SOCKETS, encoding="ascii") as table:
        return any(line.split()[1] == str(_NETLINK_XFRM) for line in table)


def _same(one: bytes, other: bytes, bits: int) -> bool:
    return (int.from_bytes(one[:4], "big") ^ int.from_bytes(other, "big")) >> (32 - min(bits, 32)) == 0
