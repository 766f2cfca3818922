# SPDX-License-Identifier: MIT-0
"""Single requests to rtnetlink (rtnetlink(7)), for things that no ioctl can do."""
import os
import socket
import struct
from typing import List

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_ECHO = 0x1, 0x4, 0x8
_NLMSG_ERROR = 2

# <linux/rtnetlink.h>, <linux/pkt_sched.h>
_RTM_DELLINK, _RTM_NEWQDISC, _RTM_GETQDISC = 17, 36, 38
_NLM_F_REPLACE, _NLM_F_CREATE = 0x100, 0x400
_TCMSG = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info
_TCA_KIND, _TC_H_ROOT = 1, 0xFFFFFFFF


def _ask(kind: int, flags: int, body: bytes) -> List[bytes]:
    """Returns the bodies of the answers before the acknowledgement. Raises OSError."""
    answers: List[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body)
        while True:
            data = route.recv(65536)
            while data:
                size, answer, *_ = _HEADER.unpack_from(data)
                if answer == _NLMSG_ERROR:
                    error, = struct.unpack_from("=i", data, _HEADER.size)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return answers
                answers.append(data[_HEADER.size:size])
                data = data[(size + 3) & ~3:]


def delete_link(index: int) -> None:
    """Deletes an interface. Raises OSError."""
    _ask(_RTM_DELLINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0))


def has_own_qdisc(index: int) -> bool:
    """Whether somebody has given the interface a root qdisc; the kernel's own have no handle. Raises OSError."""
    # Without the echo, many kernels answer only listeners to all changes.
    for answer in _ask(_RTM_GETQDISC, _NLM_F_ECHO, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)):
        _, _, handle, *_ = _TCMSG.unpack_from(answer)
        return handle != 0
    return False  # the kernel reports nothing about built-in ones, such as noqueue


def use_no_queue(index: int) -> None:
    """Gives the interface the root qdisc noqueue. Raises OSError."""
    kind = b"noqueue\0"
    _ask(_RTM_NEWQDISC, _NLM_F_CREATE | _NLM_F_REPLACE, _TCMSG.pack(socket.AF_UNSPEC, index, 0, _TC_H_ROOT, 0)
         + struct.pack("=HH", 4 + len(kind), _TCA_KIND) + kind)
