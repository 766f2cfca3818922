# SPDX-License-Identifier: MIT-0
"""Attaches the programs to interfaces: by links of TCX, which vanish with the process, or else as filters of tc (clsact.py).

An interface must have Ethernet headers for INGRESS, and none for EGRESS. Filters of tc come after all links. A create hook adds
clsact itself, and `tc qdisc add` fails where it is already: so attach to gwi and gwo after the hook. While Linux adds clsact or
deletes it, the interface drops what it sends: so attach before there is traffic.
"""
import contextlib
import enum
import errno
import os
import socket
from typing import Mapping, Optional

from . import bpf, clsact


class Place(enum.Enum):
    INGRESS = "ingress"
    EGRESS = "egress"


_TCX = {Place.INGRESS: bpf.TCX_INGRESS, Place.EGRESS: bpf.TCX_EGRESS}
_CLS = {Place.INGRESS: clsact.INGRESS, Place.EGRESS: clsact.EGRESS}
# What a kernel says that has no TCX.
_UNKNOWN = (errno.EINVAL, errno.EOPNOTSUPP, errno.E2BIG)


class Attachment:
    """A program at an interface, from attach()."""

    def __init__(self, interface: int, place: Place, link: Optional[int]):
        """link: the descriptor of a TCX link; None: a filter of tc."""
        self.interface, self.place, self.link = interface, place, link

    @property
    def kind(self) -> str:
        return "cls_bpf" if self.link is None else "TCX"

    def detach(self) -> None:
        """Does nothing where the interface is gone."""
        if self.link is None:
            with contextlib.suppress(OSError):
                clsact.detach(self.interface, _CLS[self.place])
        else:
            os.close(self.link)
            self.link = -1


def attach(interface: int, place: Place, program: int, *, tcx: bool = True) -> Attachment:
    """interface: its index. tcx: False leaves links out, as on a kernel that has none. What a gwlbtun that has died left there
    goes. Raises OSError."""
    if tcx:
        try:
            link = bpf.link_create(program, interface, _TCX[place])
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        else:
            sweep(interface, place)
            return Attachment(interface, place, link)
    clsact.attach(interface, _CLS[place], program)
    return Attachment(interface, place, None)


def inherited(link: int, programs: Mapping[Place, int]) -> Optional[Attachment]:
    """What another gwlbtun has attached by a link, if that is one of these programs (the kernel's numbers), at an interface
    that is there."""
    try:
        found = bpf.link_of(link)
    except OSError:
        return None
    for place, number in programs.items():
        if found.interface and (found.place, found.program) == (_TCX[place], number):
            return Attachment(found.interface, place, link)
    return None


def sweep_uplinks() -> None:
    """At start: takes away what a gwlbtun that has died left at whatever was its uplink. For some seconds more, it would hand
    packets to interfaces that are gone."""
    for interface, _ in socket.if_nameindex():
        sweep(interface, Place.INGRESS)


def sweep(interface: int, place: Place) -> None:
    """Takes away the filter of tc that a gwlbtun which has died left at an interface; others stay."""
    with contextlib.suppress(OSError):
        clsact.detach(interface, _CLS[place])
