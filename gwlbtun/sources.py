# SPDX-License-Identifier: MIT-0
"""Keeps the table up to date by which the fast path judges where datagrams come from (native/source.h).

Nothing in a packet proves that the load balancer sent it. But a packet that this host sends itself is never from there: over
loopback, from an address of its own, or out of a tunnel interface. Passed straight back, it would be received again, for
ever. The operator says what else gwlbtun must refuse.

The kernel's local routing table lists the host's own addresses: those of all interfaces, 127.0.0.0/8, and prefixes that
somebody made local by hand. A program can send from any of them, and from no other.
"""
import bisect
import errno
import os
import socket
import struct
import threading
import time
from array import array
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from . import StartError, fastpath, netlink
from .logs import CORE, Log
from .settings import Settings

Range = Tuple[int, int]  # of IPv4 addresses: the first and the last

LOOPBACK = 0x7F000000, 0x7FFFFFFF
EVERYWHERE = 0, 0xFFFFFFFF

REREAD_S = 10.0   # between two looks at everything, in case the kernel did not report a change
LINGER_S = 5.0    # packets of a deleted interface may still wait in a socket; Linux reuses no index so soon
_MESSAGES = 256   # about changes, read at a time
_TRIES = 10       # at reading a table that keeps changing

# <linux/rtnetlink.h>
_RTNLGRP_LINK, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV4_ROUTE = 1, 5, 7
_RTM_LINKS, _RTM_ADDRESSES, _RTM_ROUTES = (16, 17), (20, 21), (24, 25)  # NEW and DEL
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTN_LOCAL, _RT_TABLE_LOCAL, _RTA_DST = 2, 255, 1
_ROUTE = struct.Struct("=8BI")  # struct rtmsg


# ---- The table -------------------------------------------------------------------------------------------------------


def compile_ranges(layers: Iterable[Tuple[int, Sequence[Range]]], rest: int) -> "array[int]":
    """struct gw_source_range for all addresses: the first layer that has an address decides; rest: for all others."""
    merged = [(verdict, *_merge(ranges)) for verdict, ranges in layers]
    starts = {0}
    for _, firsts, lasts in merged:
        starts.update(firsts)
        starts.update(last + 1 for last in lasts if last != EVERYWHERE[1])
    table, previous = array("I"), None
    for start in sorted(starts):
        verdict = next((verdict for verdict, firsts, lasts in merged if _within(start, firsts, lasts)), rest)
        if verdict != previous:
            table.extend((start, verdict))
        previous = verdict
    return table


def _merge(ranges: Sequence[Range]) -> Tuple[List[int], List[int]]:
    """The same addresses as disjoint ranges, ascending: the first of each, and the last."""
    firsts: List[int] = []
    lasts: List[int] = []
    for first, last in sorted(ranges):
        if lasts and first <= lasts[-1]:
            lasts[-1] = max(last, lasts[-1])
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


def _within(address: int, firsts: List[int], lasts: List[int]) -> bool:
    at = bisect.bisect_right(firsts, address) - 1
    return at >= 0 and address <= lasts[at]


# ---- Netlink ---------------------------------------------------------------------------------------------------------


def _local_range(route: bytes) -> Optional[Range]:
    """The addresses that a route makes local, if any."""
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(route)
    if (table, kind) != (_RT_TABLE_LOCAL, _RTN_LOCAL):
        return None
    first = int.from_bytes(dict(netlink.attributes(route[_ROUTE.size:])).get(_RTA_DST, b""), "big")
    return first, first | 0xFFFFFFFF >> length


def own_addresses() -> List[Range]:
    """The addresses that the kernel takes for this host's own. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as route:
        try:  # the kernel then filters: there may be a million other routes
            route.setsockopt(netlink.SOL_NETLINK, netlink.NETLINK_GET_STRICT_CHK, 1)
        except OSError:
            pass
        for _ in range(_TRIES):
            body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _RT_TABLE_LOCAL, 0, 0, _RTN_LOCAL, 0)
            route.send(netlink.request(_RTM_GETROUTE, netlink.NLM_F_DUMP, body))
            ranges, whole = _read_routes(route)
            if whole:
                break
    return ranges


def _read_routes(route: socket.socket) -> Tuple[List[Range], bool]:
    """Returns the answer to a request, and whether it is whole: the table may change in the middle of it."""
    ranges: List[Range] = []
    whole = True
    while True:
        for kind, flags, body in netlink.messages(route.recv(1 << 18)):
            whole = whole and not flags & netlink.NLM_F_DUMP_INTR
            if kind in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                error = netlink.error_of(body)
                if error and error != errno.ENOENT:  # there is no table before the first address
                    raise OSError(error, os.strerror(error))
                return ranges, whole
            local = _local_range(body) if kind == _RTM_NEWROUTE else None
            if local:
                ranges.append(local)


def _watch(groups: Iterable[int]) -> Optional[socket.socket]:
    """A socket that becomes readable when something changes. None: the kernel gives us none."""
    try:
        return netlink.listen(socket.NETLINK_ROUTE, groups)
    except OSError:
        return None


def _concerns(data: bytes) -> bool:
    """Whether a message from the watcher concerns the table."""
    return any(kind in (*_RTM_LINKS, *_RTM_ADDRESSES) or kind in _RTM_ROUTES and _local_range(body) is not None
               for kind, _, body in netlink.messages(data))


# ---- For the daemon --------------------------------------------------------------------------------------------------


class Sources:
    """The table in force. Any thread may call add_own() and remove_own(); the rest is for the main thread."""

    def __init__(self, handler: fastpath.Handler, settings: Settings, log: Log):
        """Raises StartError when it cannot read this host's own addresses."""
        self._handler = handler
        self._settings = settings
        self._log = log
        self._lock = threading.Lock()
        self._own_interfaces: "array[int]" = array("I")  # gwi and gwo, ascending
        self.gone: Dict[int, float] = {}  # those that no longer exist, and when to forget them
        self._uplinks: Set[int] = set()
        self._missing: Set[str] = set()
        self._addresses: Optional[List[Range]] = None
        self._ranges: "array[int]" = array("I")
        self._look_due = 0.0
        self._failure_told = False
        self.watcher = _watch([_RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV4_ROUTE, *[_RTNLGRP_LINK] * bool(settings.uplinks)])
        if settings.allow_endpoints:
            handler.allow_endpoints(settings.allow_endpoints)
        try:
            self._look()
        except OSError as error:
            raise StartError(f"cannot read this host's own addresses ({error.strerror}): allow gwlbtun netlink sockets "
                             "(AF_NETLINK, in RestrictAddressFamilies= of the unit)") from None
        if not settings.allow_from:
            log.important(CORE, "gwlbtun takes packets from everywhere, so the security group alone guards UDP port 6081: "
                                "give --allow-from with the subnets of the load balancer.")

    def add_own(self, index: int) -> None:
        """Refuses packets that come by a tunnel interface, which is not up yet. Raises OSError."""
        with self._lock:
            self.gone.pop(index, None)
            if index not in self._own_interfaces:
                bisect.insort(self._own_interfaces, index)
            old = self._install()
        self._handler.retire_sources(old)

    def remove_own(self, index: int) -> None:
        """The interface is gone, but its packets may still wait in a socket."""
        with self._lock:
            self.gone[index] = time.monotonic() + LINGER_S

    def hear(self) -> None:
        """To be called when the watcher is readable."""
        if not self.watcher:
            return
        changes = [report is None or _concerns(report) for report in netlink.reports(self.watcher, _MESSAGES)]
        if any(changes):
            self._try_to_look()

    def tick(self) -> None:
        """Once a second."""
        self._forget_gone()
        if not self.watcher or time.monotonic() >= self._look_due:
            self._try_to_look()

    def _forget_gone(self) -> None:
        with self._lock:
            due = [index for index, end in self.gone.items() if end <= time.monotonic()]
            if not due:
                return
            for index in due:
                del self.gone[index]
                self._own_interfaces.remove(index)
            try:
                old = self._install()
            except OSError:  # no memory: the next change forgets them
                return
        self._handler.retire_sources(old)

    def _try_to_look(self) -> None:
        try:
            self._look()
            if self._failure_told:
                self._failure_told = False
                self._log.important(CORE, "This host's own addresses can be read again.")
        except OSError as error:
            self._look_due = 0.0
            if not self._failure_told:
                self._failure_told = True
                self._log.important(CORE, f"Cannot read this host's own addresses ({error.strerror}): gwlbtun goes on "
                                          "with those that it knows.")

    def _look(self) -> None:
        """Looks for changes, and puts them in force."""
        self._look_due = time.monotonic() + REREAD_S
        uplinks = self._find_uplinks()
        addresses = sorted(own_addresses())
        if (addresses, uplinks) == (self._addresses, self._uplinks):
            return
        with self._lock:
            self._addresses = None  # until they are in force
            self._uplinks = uplinks
            self._ranges = self._compile(addresses)
            old = self._install()
            self._addresses = addresses
        self._handler.retire_sources(old)

    def _find_uplinks(self) -> Set[int]:
        found, missing = set(), set()
        for name in self._settings.uplinks:
            try:
                found.add(socket.if_nametoindex(name))
            except OSError:
                missing.add(name)
        for name in sorted(missing - self._missing):
            self._log.important(CORE, f"There is no interface {name} (--uplink): gwlbtun takes packets through it once it "
                                      "exists.")
        for name in sorted(self._missing - missing):
            self._log.important(CORE, f"Interface {name} (--uplink) has appeared: gwlbtun takes packets through it.")
        self._missing = missing
        return found

    def _compile(self, addresses: List[Range]) -> "array[int]":
        number = self._handler.shim.counters.index
        layers = [(number("drop_source_loopback"), [LOOPBACK]),
                  (number("drop_source_own"), addresses),
                  (0, self._settings.allow_from or [EVERYWHERE])]
        return compile_ranges(layers, number("drop_source_refused"))

    def _install(self) -> Optional[int]:
        """Under the lock. Returns what was in force, to be retired without the lock: that may wait for receivers."""
        if self._settings.uplinks:
            return self._handler.set_sources(
                self._ranges, array("I", sorted(self._uplinks.difference(self._own_interfaces))), True)
        return self._handler.set_sources(self._ranges, self._own_interfaces, False)
