# SPDX-License-Identifier: MIT-0
"""Keeps the reverse path filter of a gwi interface off.

Packets on gwi come from addresses that Linux routes elsewhere. rp_filter exists to drop those, in silence. systemd's sysctl
pass sets it to the host's default some tens of milliseconds after an interface appears, so turning it off once is not enough:
the kernel reports every change (RTNLGRP_IPV4_NETCONF), and gwlbtun puts it back.
"""
import socket
from typing import Optional

from .logs import CORE, Log

_RTNLGRP_IPV4_NETCONF = 24
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1


def watch() -> Optional[socket.socket]:
    """A socket that becomes readable when a setting of any interface changes. None: the kernel gives us none."""
    try:
        watcher = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        watcher.bind((0, 0))
        watcher.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _RTNLGRP_IPV4_NETCONF)
        return watcher
    except OSError:
        return None


class ReversePathFilter:
    """The setting of one interface."""

    _all_told = False  # it concerns the host, so one line serves all interfaces

    def __init__(self, interface: str, log: Log):
        self._interface = interface
        self._log = log
        self._kept = False
        self._told = False

    def turn_off(self) -> None:
        """To be called when the interface is made. From now on check() keeps it off, also while the create hook runs."""
        self._kept = True
        self._put_back()

    def check(self) -> None:
        """To be called when a setting may have changed. Does nothing before turn_off(): the interface may not be ours."""
        value = self._put_back()
        if value and self._kept and not self._told:
            self._told = True
            self._log.important(CORE, f"rp_filter of {self._interface} had become {value}. gwlbtun has set it to 0 again.")

    def tell_if_overruled(self) -> None:
        """To be called after the create hook, which may have changed the setting of all interfaces."""
        every = self._read("all")
        if every and not ReversePathFilter._all_told:  # the larger of the two is in force (ip-sysctl.rst)
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
                self._log.important(CORE, f"rp_filter of {self._interface} is {value}, which drops packets, and cannot "
                                          f"be set to 0: {error}. Set net.ipv4.conf.default.rp_filter to 0 with sysctl.")
        return value

    @staticmethod
    def _path(interface: str) -> str:
        return f"/proc/sys/net/ipv4/conf/{interface}/rp_filter"

    def _read(self, interface: str) -> Optional[int]:
        try:
            with open(self._path(interface), encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None

    def _write(self, value: int) -> None:
        with open(self._path(self._interface), "w", encoding="ascii") as file:
            file.write(str(value))
