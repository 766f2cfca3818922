# SPDX-License-Identifier: MIT-0
"""Single requests to rtnetlink (rtnetlink(7)), for things that no ioctl can do."""
import contextlib
import os
import socket
import struct
from typing import Dict, List, Tuple

from . import netlink

# <linux/rtnetlink.h>, <linux/pkt_sched.h>
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWQDISC, _RTM_GETQDISC = 16, 17, 18, 36, 38
_TCMSG = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info
_TCA_KIND, _TC_H_ROOT = 1, 0xFFFFFFFF
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_NUMBER = struct.Struct("=I")
_IFLA_IFALIAS, _IFLA_GROUP = 20, 27
_GOING = 0x67776C62  # the group of interfaces that are about to be deleted, which nobody else uses


def ask(kind: int, flags: int, body: bytes, protocol: int = socket.NETLINK_ROUTE) -> List[bytes]:
    """protocol: another of netlink that works in the same way.

    Returns the bodies of the answers before the acknowledgement, or of a dump. Raises OSError.
    """
    answers: List[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as route:
        route.send(netlink.request(kind, flags | netlink.NLM_F_ACK, body))
        while True:
            for answer, _, answer_body in netlink.messages(route.recv(65536)):
                if answer in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                    error = netlink.error_of(answer_body)
                    if error:
                        raise OSError(error, os.strerror(error))
                    return answers
                answers.append(answer_body)


def delete_link(index: int) -> None:
    """Deletes an interface. Raises OSError."""
    ask(_RTM_DELLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def delete_links(indices: List[int]) -> None:
    """Deletes several at once. Those that are gone already do not matter. Raises OSError."""
    group = netlink.attribute(_IFLA_GROUP, _NUMBER.pack(_GOING))
    for index in indices:
        with contextlib.suppress(OSError):
            ask(_RTM_NEWLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + group)
    ask(_RTM_DELLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + group)


def link(index: int) -> Tuple[int, int, Dict[int, bytes]]:
    """The hardware type of an interface (ARPHRD), its flags and its attributes. Raises OSError."""
    answer, = ask(_RTM_GETLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0))
    _, kind, _, flags, _ = _IFINFOMSG.unpack_from(answer)
    return kind, flags, dict(netlink.attributes(answer[_IFINFOMSG.size:]))


def alias(index: int) -> str:
    """The alias of an interface, a text of no meaning to Linux; without one it is empty. Raises OSError."""
    _, _, found = link(index)
    return found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace")


def set_alias(index: int, text: str) -> None:
    """Raises OSError."""
    ask(_RTM_NEWLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + netlink.attribute(_IFLA_IFALIAS, text.encode()))


def has_own_qdisc(index: int) -> bool:
    """Whether somebody has given the interface a root qdisc; the kernel's own have no handle. Raises OSError."""
    # Without the echo, many kernels answer only listeners to all changes.
    for answer in ask(_RTM_GETQDISC, netlink.NLM_F_ECHO, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)):
        _, _, handle, *_ = _TCMSG.unpack_from(answer)
        return handle != 0
    return False  # the kernel reports nothing about built-in ones, such as noqueue


def use_no_queue(index: int) -> None:
    """Gives the interface the root qdisc noqueue. Raises OSError."""
    ask(_RTM_NEWQDISC, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)
         + netlink.attribute(_TCA_KIND, b"noqueue\0"))
