# SPDX-License-Identifier: MIT-0
"""The programs as they are loaded, with their maps, and the interfaces that they are attached to."""
import contextlib
import errno
import os
import socket
from typing import Dict, List, Optional, Tuple

from ..logs import CORE, Log
from ..settings import Settings
from . import attach, bpf, programs, resolve
from .attach import Place
from .bequest import Bequest
from .maps import Maps


class Loaded:
    """Any thread may call all methods."""

    def __init__(self, flows: int, slots: int, bequest: Optional[Bequest] = None):
        """bequest: takes all from there, where it stays until Bequest.taken(). Raises OSError."""
        self.maps = Maps(flows, slots, bequest.maps if bequest else None)
        self.kind = ""  # of the last attachment
        self.programs = {name: _program(name, bequest) if bequest else programs.load(name, self.maps.fd)
                         for name in (programs.INGRESS, programs.EGRESS)}
        self._egress_id = bpf.program_id(self.programs[programs.EGRESS])
        self._inherited: Dict[Tuple[int, Place], attach.Attachment] = {}  # by interface; not in use yet
        self._strays: List[int] = []  # links of no use
        if bequest:
            self._sort(bequest.links)

    def _sort(self, links: List[int]) -> None:
        numbers = {Place.INGRESS: bpf.program_id(self.programs[programs.INGRESS]), Place.EGRESS: self._egress_id}
        for link in links:
            found = attach.inherited(link, numbers)
            if found and (found.interface, found.place) not in self._inherited:
                self._inherited[found.interface, found.place] = found
            else:
                self._strays.append(link)

    def at_egress(self, index: int) -> attach.Attachment:
        """Attaches to gwi or gwo. Raises OSError."""
        attached = self._attach(index, Place.EGRESS, programs.EGRESS)
        self.kind = attached.kind
        return attached

    def at_ingress(self, index: int) -> attach.Attachment:
        """Attaches to an uplink. Raises OSError."""
        return self._attach(index, Place.INGRESS, programs.INGRESS)

    def _attach(self, index: int, place: Place, program: str) -> attach.Attachment:
        return self._inherited.pop((index, place), None) or attach.attach(index, place, self.programs[program])

    @property
    def inherited_uplinks(self) -> List[int]:
        """The interfaces at whose ingress the program before has attached its own."""
        return [index for index, place in self._inherited if place is Place.INGRESS]

    def close_unused(self) -> None:
        """Detaches what another program has attached and nobody uses."""
        while self._inherited:
            self._inherited.popitem()[1].detach()
        while self._strays:
            os.close(self._strays.pop())

    def has_company(self, index: int) -> bool:
        """Whether TCX programs of others are at the egress of an interface."""
        try:
            return any(number != self._egress_id for number in bpf.programs_at(index, bpf.TCX_EGRESS))
        except OSError:  # the kernel has no TCX, or the interface is gone
            return False


def _program(name: str, bequest: Bequest) -> int:
    """Raises OSError when it is not there."""
    fd = bequest.programs.get(name, -1)
    if bpf.program_name(fd) != programs.name_of(name):
        raise OSError(errno.EINVAL, f"the program {name} is another one")
    return fd


class Uplinks:
    """The interfaces by which packets of known flows come. For one thread; others may read the names."""

    def __init__(self, loaded: Loaded, settings: Settings, log: Log):
        self._loaded = loaded
        self._chosen, self._allowed = settings.ebpf_interface, settings.uplinks
        self._log = log
        self._attached: Dict[int, attach.Attachment] = {}
        self._names: Dict[int, str] = {}

    @property
    def names(self) -> List[str]:
        return sorted(self._names.values())

    def prepare(self, tcx: bool) -> None:
        """At start. Without TCX, an uplink that gets a program drops what leaves it at that moment. So the uplinks that are
        known get theirs before there is traffic."""
        names = [self._chosen] if self._chosen else list(self._allowed) or resolve.only_interface()
        for name in names if not tcx else ():
            with contextlib.suppress(OSError):  # it is not there yet
                self.attach(socket.if_nametoindex(name), name)

    def resume(self) -> None:
        """Goes on with those of the program before, as far as the options still allow them."""
        for index in self._loaded.inherited_uplinks:
            with contextlib.suppress(OSError):  # it is gone
                self.attach(index, socket.if_indextoname(index))

    @property
    def links(self) -> List[int]:
        """The descriptors of what is attached."""
        return [attached.link for attached in self._attached.values() if attached.link is not None]

    def attach(self, index: int, name: str) -> str:
        """Has the program there. Returns why packets that leave by the interface cannot take the kernel; empty: they can."""
        if self._chosen and name != self._chosen:
            return f"it leaves by {name}, and --ebpf-interface names {self._chosen}"
        if self._allowed and name not in self._allowed:
            return f"it leaves by {name}, which --uplink does not name"
        if index not in self._attached:
            try:
                self._attached[index] = self._loaded.at_ingress(index)
            except OSError as error:
                return f"{name} takes no program ({error.strerror or error})"
            self._log.info(CORE, f"Packets of known flows that come by {name} take the kernel alone.")
        self._names = {**self._names, index: name}
        return ""

    def forget_gone(self) -> None:
        """Those interfaces that no longer exist, or have got another name."""
        for index in list(self._attached):
            try:
                self._names = {**self._names, index: socket.if_indextoname(index)}
            except OSError:
                self._detach(index)

    def close(self) -> None:
        for index in list(self._attached):
            self._detach(index)

    def _detach(self, index: int) -> None:
        self._attached.pop(index).detach()
        self._names = {other: name for other, name in self._names.items() if other != index}
