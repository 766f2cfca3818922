# SPDX-License-Identifier: MIT-0
"""Keeps the reverse path filter of a gwi interface off.

Packets on gwi come from addresses that Linux routes elsewhere. rp_filter exists to drop those, in silence. systemd's sysctl
pass sets it to the host's default some tens of milliseconds after an interface appears, so turning it off once is not enough:
the kernel reports every change (RTNLGRP_IPV4_NETCONF), and gwlbtun puts it back.
"""
import contextlib
import socket
from typing import Optional

from . import netlink
from .identity import Identity
from .logs import CORE, Log
from .netns import Namespace, inside

_RTNLGRP_IPV4_NETCONF, _RTNLGRP_IPV6_NETCONF = 24, 25


def watch() -> Optional[socket.socket]:
    """A socket that becomes readable when a setting of any interface changes. None: the kernel gives us none."""
    try:
        watcher = netlink.listen(socket.NETLINK_ROUTE, [_RTNLGRP_IPV4_NETCONF])
        with contextlib.suppress(OSError):  # without IPv6
            netlink.join(watcher, _RTNLGRP_IPV6_NETCONF)
        return watcher
    except OSError:
        return None


class ReversePathFilter:
    """The setting of one interface."""

    _all_told = False  # it concerns the host, so one line serves all interfaces that are not in a namespace of their own

    def __init__(self, identity: Identity, log: Log):
        self._interface = identity.gwi
        self._title = identity.title(identity.gwi)
        self._log = log
        self._namespace: Optional[Namespace] = None
        self._kept = False
        self._told = False

    def turn_off(self, namespace: Optional[Namespace] = None) -> None:
        """To be called when the interface is made. From now on check() keeps it off, also while the create hook runs."""
        self._kept = True
        self._namespace = namespace
        self._put_back()

    def check(self) -> None:
        """To be called when a setting may have changed. Does nothing before turn_off(): the interface may not be ours."""
        value = self._put_back()
        if value and self._kept and not self._told:
            self._told = True
            self._log.important(CORE, f"rp_filter of {self._title} had become {value}. gwlbtun has set it to 0 again.")

    def tell_if_overruled(self) -> None:
        """To be called after the create hook, which may have changed the setting of all interfaces."""
        every = self._read("all")
        if not every:
            return
        # The larger of the two is in force (ip-sysctl.rst).
        if self._namespace:
            self._log.important(CORE, f"net.ipv4.conf.all.rp_filter is {every} in network namespace {self._namespace.name}: "
                                      f"it may drop packets in silence. Set it to 0: ip netns exec {self._namespace.name} "
                                      "sysctl -w net.ipv4.conf.all.rp_filter=0.")
        elif not ReversePathFilter._all_told:
            ReversePathFilter._all_told = True
            self._log.important(CORE, f"net.ipv4.conf.all.rp_filter is {every} and holds for every gwi interface: "
                                      "it may drop packets in silence. Set it to 0 with sysctl.")

    def _put_back(self) -> int:
        """Returns the value that it had."""
        value = self._kept and self._read(self._interface) or 0
        if value:
            try:
                self._write(0)
            except OSError as error:
                self._kept = False  # saying it once is enough
                self._log.important(CORE, f"rp_filter of {self._title} is {value}, which drops packets, and cannot "
                                          f"be set to 0: {error}. Set net.ipv4.conf.default.rp_filter to 0 with sysctl.")
        return value

    @staticmethod
    def _path(interface: str) -> str:
        return f"/proc/sys/net/ipv4/conf/{interface}/rp_filter"

    def _read(self, interface: str) -> Optional[int]:
        try:
            with inside(self._namespace), open(self._path(interface), encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def _write(self, value: int) -> None:
        with inside(self._namespace), open(self._path(self._interface), "w", encoding="ascii") as file:
            file.write(str(value))
