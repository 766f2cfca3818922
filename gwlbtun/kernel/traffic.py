# SPDX-License-Identifier: MIT-0
"""What others have put at the egress of an interface: qdiscs, filters and programs of tc, and the taps of packet sockets."""
import contextlib
import os
import struct
import sys
from typing import NamedTuple, Set, Tuple

from .. import netlink, rtnetlink
from . import clsact

# <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/if_ether.h>
RTNLGRP_LINK, RTNLGRP_TC = 1, 4
_IFF_UP, _IFLA_QDISC, _IFLA_TXQLEN = 0x1, 6, 13
_TCMSG = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info
_SHARED_BLOCK = 0xFFFFFFFF  # in place of an interface
_ETH_P_ALL = 3

_NET = "/proc/thread-self/net"
TAPS = _NET + "/packet"  # not there before anybody has opened such a socket, where Linux loads that as a module


class State(NamedTuple):
    """Of an interface, as somebody may have set it."""

    up: bool
    qdisc: str         # the kind of the root qdisc; empty: none that sends
    queue_length: int  # the packets that each of its queues may hold


def state(index: int) -> State:
    """Raises OSError; ENODEV: the interface is not in this network namespace."""
    # Not by RTM_GETQDISC: its answer also goes to all who listen for changes of qdiscs, and so to whoever asks because of one.
    _, flags, found = rtnetlink.link(index)
    kind = found.get(_IFLA_QDISC, b"").rstrip(b"\0").decode(errors="replace")
    return State(bool(flags & _IFF_UP), "" if kind == "noop" else kind,
                 int.from_bytes(found.get(_IFLA_TXQLEN, b""), sys.byteorder))


def foreign_filters(index: int) -> bool:
    """Whether filters of others are at its egress. Raises OSError."""
    return any(not found.ours for found in clsact.filters(index, clsact.EGRESS))


def interfaces_in(data: bytes) -> Tuple[Set[int], bool]:
    """The interfaces that reports of tc or about links name, and whether some may be about others as well.

    The index stands at the same place in both.
    """
    found = {_TCMSG.unpack_from(body)[1] & 0xFFFFFFFF for _, _, body in netlink.messages(data) if len(body) >= _TCMSG.size}
    return found - {_SHARED_BLOCK}, _SHARED_BLOCK in found


def shows_taps() -> bool:
    """Whether it can be known what packet sockets there are."""
    return os.path.exists(_NET)


def taps() -> Set[int]:
    """The indices of the interfaces at which packet sockets see what leaves; 0 stands for all. Raises OSError.

    That needs ETH_P_ALL: a socket for one protocol, as those of DHCP clients, sees only what comes in.
    """
    found: Set[int] = set()
    if shows_taps() and not os.path.exists(TAPS):
        return found
    with open(TAPS, encoding="ascii") as table:
        next(table, None)
        for line in table:
            with contextlib.suppress(ValueError, IndexError):
                _, _, _, protocol, index, running, *_ = line.split()
                if int(protocol, 16) == _ETH_P_ALL and running == "1":
                    found.add(int(index))
    return found
