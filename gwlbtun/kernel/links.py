# SPDX-License-Identifier: MIT-0
"""Keeps the ways out to the load balancer that the programs use: map `links`.

Thread K puts a pair of addresses into the map, our own and the load balancer's, when a flow needs it. The rest is written here:
the interface, the Ethernet header, and whether all that is certain. When there is little room left, K is asked to give up the
pairs that have no flows, as a sender may invent addresses. The kernel reports changes of routes, rules, addresses,
interfaces and neighbours, and each is followed at once. What it does not report, such as a path MTU that it has learned, is
seen within two seconds.

Packets that the programs send do not count for the kernel's neighbour table. So the kernel is asked every few seconds to see
whether a neighbour is still there. One that does not answer is asked for ever less often: a sender may invent addresses, for
which the kernel's table has little room. While it is missing the threads send, which has the kernel look for it as well.
"""
import contextlib
import ctypes
import socket
import time
from typing import Any, Callable, Dict, List, Sequence, Set

from .. import netlink
from ..logs import CORE, Log
from .resolve import Neighbour, Resolver, Way, freshen, neighbours_in

LOOK_S = 2.0      # between two looks at everything, in case the kernel did not report a change
FRESH_S = 3.0     # between two times that a neighbour in use is looked after
MISSING_S = 1.0   # the same of one whose address is not known, at first
MISSING_MOST_S = 60.0
CALM_S = 0.05     # between two looks when one change follows the other
SHARE = 0.25      # of one core, at most
ROOM_FROM = 3 / 4  # of the places: when so many are taken, pairs without flows have to go
IDLE_S = 60.0      # for which they must have had none
_MESSAGES = 64

# <linux/rtnetlink.h>
_RTNLGRP_LINK, _RTNLGRP_NEIGH, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV4_ROUTE, _RTNLGRP_IPV4_RULE = 1, 3, 5, 7, 8
_RTNLGRP_NEXTHOP = 32
_GROUPS = _RTNLGRP_LINK, _RTNLGRP_NEIGH, _RTNLGRP_IPV4_IFADDR, _RTNLGRP_IPV4_ROUTE, _RTNLGRP_IPV4_RULE

Uplink = Callable[[int, str], str]  # index and name of an interface; returns why its packets cannot take the kernel, or nothing
Free = Callable[[float], int]       # has K give up the pairs that have had no flows for so many seconds; returns their number


class Links:
    """For one thread, the one that polls its descriptor. Others may read the figures."""

    def __init__(self, table: Sequence[Any], uplink: Uplink, free: Free, log: Log):
        """table: struct gw_kernel_link, one after the other. uplink(): called for each way that can be taken, before it is.
        free(): called when there is little room.

        Raises OSError when the kernel reports no changes.
        """
        self._table = table
        self._uplink = uplink
        self._free = free
        self._log = log
        self._resolver = Resolver()
        self._ways: Dict[int, Way] = {}  # by place in the table
        self._told: Set[str] = set()
        self._fresh: Dict[Neighbour, float] = {}  # when each is to be looked after again
        self._patience: Dict[Neighbour, float] = {}  # of each that is missing: the time between two times
        self._look_due = self._calm = 0.0
        self._changed = False
        self._socket = netlink.listen(socket.NETLINK_ROUTE, _GROUPS)
        with contextlib.suppress(OSError):  # since Linux 5.3
            netlink.join(self._socket, _RTNLGRP_NEXTHOP)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def valid(self) -> int:
        return sum(not way.reason for way in list(self._ways.values()))

    @property
    def reasons(self) -> List[str]:
        """Why ways cannot be taken, each once."""
        return list(dict.fromkeys(way.reason for way in list(self._ways.values()) if way.reason))

    def due(self) -> float:
        """When look() is to be called at the latest."""
        return self._calm if self._changed else min([self._look_due, *self._fresh.values()])

    def grow(self, count: int) -> None:
        """K may have put pairs of addresses into the first places of the table, so many of them."""
        for index in range(min(count, len(self._table))):
            if index not in self._ways and self._table[index].own_address:
                self._ways[index] = Way("it is not known yet")
                self._see(index)

    def hear(self) -> None:
        """To be called when its descriptor is readable."""
        changed: Set[Neighbour] = set()
        for report in netlink.reports(self._socket, _MESSAGES):
            neighbours, others = neighbours_in(report) if report else ([], True)
            self._changed = self._changed or others
            changed.update(neighbours)
        self._see_neighbours(changed & self._fresh.keys())
        if self._changed and time.monotonic() >= self._calm:
            self._look()

    def look(self) -> None:
        """To be called when it is due."""
        now = time.monotonic()
        if now >= self._look_due or self._changed and now >= self._calm:
            self._look()
        for neighbour, due in list(self._fresh.items()):
            if now >= due:
                self._freshen(neighbour, now)

    def _look(self) -> None:
        begin = time.monotonic()
        self._changed = False
        self._resolver.forget()
        if len(self._ways) >= ROOM_FROM * len(self._table) and self._free(IDLE_S):
            self._ways = {index: way for index, way in self._ways.items() if self._table[index].own_address}
        for index in self._ways:
            self._see(index)
        now = time.monotonic()
        self._calm = now + max(CALM_S, (now - begin) / SHARE)
        self._look_due = now + max(LOOK_S, (now - begin) / SHARE)

    def _see_neighbours(self, changed: Set[Neighbour]) -> None:
        for index, way in self._ways.items() if changed else ():
            if way.neighbour in changed:
                self._see(index)

    def _see(self, index: int) -> None:
        """Asks for the way, and writes it down if it has changed."""
        link, before = self._table[index], self._ways[index]
        way = self._resolver.way(_address(link.own_address), _address(link.gwlb_address))
        if not way.reason:
            refusal = self._uplink(way.interface, way.name)
            way = way._replace(reason=refusal, lasting=True) if refusal else way
        if way == before and bool(link.valid) == (not way.reason):  # not so when K has put another pair there
            return
        self._ways[index] = way
        _write(link, way)
        if way.neighbour and (way.neighbour not in self._fresh or way.neighbour in self._patience and not way.reason):
            self._freshen(way.neighbour, time.monotonic())
        if way.lasting and way.reason not in self._told:
            self._told.add(way.reason)
            self._log.info(CORE, f"What goes to {socket.inet_ntoa(_address(link.gwlb_address))} does not take the kernel, as "
                                 f"{way.reason}: gwlbtun's threads send it.")

    def _freshen(self, neighbour: Neighbour, now: float) -> None:
        users = [way for way in self._ways.values() if way.neighbour == neighbour]
        patience = self._patience.pop(neighbour, MISSING_S)
        if not users:
            self._fresh.pop(neighbour, None)
            return
        self._fresh[neighbour] = now + FRESH_S
        if all(way.reason for way in users):
            self._fresh[neighbour] = now + patience
            self._patience[neighbour] = min(2 * patience, MISSING_MOST_S)
        freshen(neighbour)


def _address(field: int) -> bytes:
    """A field that holds an address in network byte order."""
    return bytes(ctypes.c_uint32(field))


def _write(link: Any, way: Way) -> None:
    """The programs may read it meanwhile. Whatever else they see, it is not valid until all of it is there."""
    written = bool(link.valid) and (link.ifindex, link.mtu, bytes(link.ethernet)) == (way.interface, way.mtu, way.ethernet)
    if written and not way.reason:  # by the program before: replies need not go up for it
        return
    link.valid = 0
    if not way.reason:
        link.ifindex, link.mtu = way.interface, way.mtu
        ctypes.memmove(link.ethernet, way.ethernet, len(way.ethernet))
        link.valid = 1

