# SPDX-License-Identifier: MIT-0
"""A program as a filter of tc (cls_bpf): for kernels before 6.6, where an attached program outlives its process.

Ours has a preference and a handle of its own. Its name says that it is gwlbtun's, and whether the qdisc clsact that it hangs on
is as well: so a later gwlbtun knows what a dead one has left, and takes away no more than that.
"""
import contextlib
import errno
import socket
import struct
from typing import Iterator, NamedTuple, Optional

from .. import netlink, rtnetlink

# <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>
_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 36, 37, 44, 45, 46
_NLM_F_EXCL = 0x200
_TCMSG = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info
_TCA_KIND, _TCA_OPTIONS, _TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS = 1, 2, 6, 7, 8
_DIRECT_ACTION = 1
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # the two places of clsact

PREFERENCE, HANDLE = 6081, 0x6757
NAME, NAME_WITH_QDISC = "gwlbtun", "gwlbtun with clsact"
_INFO = PREFERENCE << 16 | socket.htons(0x0003)  # ETH_P_ALL


class Filter(NamedTuple):
    """A filter that hangs on clsact."""

    handle: int
    preference: int
    name: str  # of a program

    @property
    def in_our_place(self) -> bool:
        return (self.handle, self.preference) == (HANDLE, PREFERENCE)

    @property
    def ours(self) -> bool:
        return self.in_our_place and self.name in (NAME, NAME_WITH_QDISC)


def filters(interface: int, place: int) -> Iterator[Filter]:
    """Raises OSError."""
    for body in rtnetlink.ask(_RTM_GETTFILTER, netlink.NLM_F_DUMP, _TCMSG.pack(socket.AF_UNSPEC, interface, 0, place, 0)):
        if len(body) < _TCMSG.size:
            continue
        _, _, handle, _, info = _TCMSG.unpack_from(body)
        found = dict(netlink.attributes(body[_TCMSG.size:]))
        name = dict(netlink.attributes(found.get(_TCA_OPTIONS, b""))).get(_TCA_BPF_NAME, b"")
        if handle:
            yield Filter(handle, info >> 16, name.rstrip(b"\0").decode(errors="replace"))


def attach(interface: int, place: int, program: int) -> None:
    """Attaches a program, in the place of one that is ours. Raises OSError: EEXIST when somebody else has that place."""
    ours = _find(interface, place)
    made = _make_qdisc(interface) or any(
        found.name == NAME_WITH_QDISC for end in (INGRESS, EGRESS) for found in filters(interface, end) if found.ours)
    name = NAME_WITH_QDISC if made else NAME
    options = (netlink.attribute(_TCA_BPF_FD, struct.pack("=I", program))
               + netlink.attribute(_TCA_BPF_NAME, name.encode() + b"\0")
               + netlink.attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION)))
    try:
        rtnetlink.ask(_RTM_NEWTFILTER, netlink.NLM_F_CREATE | (netlink.NLM_F_REPLACE if ours else _NLM_F_EXCL),
                      _TCMSG.pack(socket.AF_UNSPEC, interface, HANDLE, place, _INFO)
                      + netlink.attribute(_TCA_KIND, b"bpf\0") + netlink.attribute(_TCA_OPTIONS, options))
    except OSError:
        if made:
            _delete_qdisc(interface)
        raise


def detach(interface: int, place: int) -> None:
    """Takes away what gwlbtun has attached there, be it this one or one that has died, and the qdisc if gwlbtun made it and
    nothing else hangs on it. Raises OSError."""
    ours = _find(interface, place, mine_only=True)
    if ours is None:
        return
    rtnetlink.ask(_RTM_DELTFILTER, 0, _TCMSG.pack(socket.AF_UNSPEC, interface, HANDLE, place, _INFO)
                  + netlink.attribute(_TCA_KIND, b"bpf\0"))
    if ours.name == NAME_WITH_QDISC:
        _delete_qdisc(interface)


def _find(interface: int, place: int, mine_only: bool = False) -> Optional[Filter]:
    """Our own filter. Raises OSError."""
    for found in filters(interface, place):
        if found.ours:
            return found
        if found.in_our_place and not mine_only:
            raise OSError(errno.EEXIST, f"another filter has preference {PREFERENCE} and handle {HANDLE:#x}")
    return None


def _make_qdisc(interface: int) -> bool:
    """Whether there was none. Raises OSError."""
    try:
        rtnetlink.ask(_RTM_NEWQDISC, netlink.NLM_F_CREATE | _NLM_F_EXCL,
                      _TCMSG.pack(socket.AF_UNSPEC, interface, _CLSACT_HANDLE, _CLSACT, 0)
                      + netlink.attribute(_TCA_KIND, b"clsact\0"))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def _delete_qdisc(interface: int) -> None:
    """Unless something hangs on it."""
    with contextlib.suppress(OSError):
        if not any(True for place in (INGRESS, EGRESS) for _ in filters(interface, place)):
            rtnetlink.ask(_RTM_DELQDISC, 0, _TCMSG.pack(socket.AF_UNSPEC, interface, _CLSACT_HANDLE, _CLSACT, 0))
