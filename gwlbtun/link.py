# SPDX-License-Identifier: MIT-0
"""What somebody does by hand to an interface of ours: sets it down, renames it, moves it to another network namespace.

Its queues stay ours whatever happens to it, and tell its name and whether it is up. What lasts less than a second only the
kernel's reports (RTNLGRP_LINK) tell. It matters: Linux removes all routes by an interface that goes down.
"""
import contextlib
import socket
import struct
import threading
import time
from typing import Dict, Optional, Set

from . import netlink
from .logs import CORE, Log
from .tun import Device

TELL_S = 10.0  # between two lines that say that the same interface is down

_RTNLGRP_LINK, _RTM_NEWLINK, _RTM_DELLINK = 1, 16, 17
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_IFF_UP = 0x1
_MESSAGES = 4096                  # read at a time


class Links:
    """The kernel's reports about interfaces of one network namespace: the one where it is made."""

    def __init__(self, log: Log) -> None:
        """Without any report, if the kernel gives us none."""
        self._log = log
        self._fell: Dict[int, bool] = {}  # whether one that is watched has been down since it was last asked about
        self._away: Dict[int, bool] = {}  # whether it has left the namespace
        self._doubted: Set[int] = set()   # those of which that has to be looked at, as reports were lost
        self._told_at = -TELL_S
        self._lock = threading.Lock()     # held from the reading of a report to its end
        self._socket: Optional[socket.socket] = None
        with contextlib.suppress(OSError):
            self._socket = netlink.listen(socket.NETLINK_ROUTE, [_RTNLGRP_LINK])

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket else -1

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def watch(self, index: int) -> None:
        """What happens to it from now on counts: not how it was made."""
        self.hear()
        with self._lock:
            self._away[index] = self._fell[index] = False
            self._doubted.discard(index)

    def ignore(self, index: int) -> None:
        with self._lock:
            self._fell.pop(index, None)
            self._away.pop(index, None)
            self._doubted.discard(index)

    def fell(self, index: int) -> bool:
        """Whether it has been down since the last call."""
        with self._lock:
            fell = self._fell.get(index, False)
            if fell:
                self._fell[index] = False
            return fell

    def away(self, device: Device) -> bool:
        index = device.index
        with self._lock:
            if index in self._doubted:
                self._away[index] = not device.is_here()
                self._doubted.discard(index)
            return self._away.get(index, False)

    def hear(self) -> None:
        """To be called when it is readable."""
        with self._lock:
            for report in netlink.reports(self._socket, _MESSAGES) if self._socket else ():
                if report is None:
                    self._lose()
                else:
                    self._read(report)

    def _lose(self) -> None:
        """Where each is can be seen. Whether it has been down meanwhile cannot."""
        self._doubted.update(self._away)
        if self._away and time.monotonic() - self._told_at >= TELL_S:
            self._told_at = time.monotonic()
            self._log.important(CORE, "More has happened to interfaces at once than the kernel could report. If somebody has "
                                      "set one of gwlbtun's down and up again meanwhile, its routes are gone: delete it then, "
                                      "and gwlbtun makes it again with its create hook.")

    def _read(self, data: bytes) -> None:
        for kind, _, body in netlink.messages(data):
            if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or len(body) < _LINK.size:
                continue
            _, _, index, flags, _ = _LINK.unpack_from(body)
            if index in self._away:
                self._doubted.discard(index)
                self._away[index] = kind == _RTM_DELLINK
                self._fell[index] = self._fell[index] or not flags & _IFF_UP


class Link:
    """One interface, from the end of its create hook on: what the hook did to it is as it should be."""

    def __init__(self, title: str, log: Log):
        self.title = title
        self.fault: Optional[str] = None  # why nothing can pass it
        self._log = log
        self._told_at = -TELL_S
        self._lock = threading.Lock()  # held while the device must not be closed
        self._device: Optional[Device] = None

    def begin(self, device: Device, links: Links, fault: Optional[str] = None) -> None:
        """fault: what another program has found, which lasts until it is seen to be up."""
        with contextlib.suppress(OSError):  # it has been deleted already
            self._name, up = device.look()
            self._up, self.fault = up and not fault, fault
            links.watch(device.index)
            self._device, self._links, self._away = device, links, False

    @property
    def begun(self) -> bool:
        return self._device is not None

    def end(self) -> None:
        """Before the device is closed."""
        with self._lock:
            if self._device:
                self._links.ignore(self._device.index)
            self._device = self.fault = None

    def look(self) -> bool:
        """Once a second, by the main thread. True: it has been down and is up again, so Linux has removed its routes."""
        with self._lock, contextlib.suppress(OSError):  # deleted, which its T threads notice
            return self._device is not None and self._look(self._device)
        return False

    def _look(self, device: Device) -> bool:
        name, up = device.look()
        self._look_at_place(name, self._links.away(device))
        fell, was_up, self._up = self._links.fell(device.index), self._up, up
        if was_up and not up:
            self.fault = f"{self.title} is down"
            if time.monotonic() - self._told_at >= TELL_S:
                self._told_at = time.monotonic()
                self._log.critical(CORE, f"Somebody has set {self.title} down: its packets are dropped. "
                                         f"Set it up again: {device.ip} link set {name} up.")
        elif up:
            self.fault = None
        return up and (fell or not was_up)

    @property
    def in_place(self) -> bool:
        """Nobody has given it another name or namespace."""
        device = self._device
        return device is not None and not self._away and self._name == device.name

    def _look_at_place(self, name: str, away: bool) -> None:
        if name != self._name:
            self._log.important(CORE, f"Somebody has renamed {self.title}: it is {name} now. Traffic goes on; rules and hooks "
                                      "that know its name do not find it.")
        if away != self._away:
            self._log.important(CORE, f"{self.title} is in its network namespace again." if self._away else
                                f"Somebody has moved {self.title} to another network namespace: its packets go there. "
                                "Move it back, or delete it there: gwlbtun then makes it again.")
        self._name, self._away = name, away
