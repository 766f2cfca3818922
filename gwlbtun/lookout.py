# SPDX-License-Identifier: MIT-0
"""Sources of reports that come and go, as the namespaces of endpoints do. One descriptor stands for all of them."""
import contextlib
import select
import socket
from typing import Callable, Dict

from .link import Links
from .logs import Log

AT_A_TIME = 64


class Lookout:
    """To be registered with poll. Any thread may call add() and remove(); hear() is for the one that polls."""

    def __init__(self, log: Log) -> None:
        self._epoll = select.epoll()
        self._heard: Dict[int, Callable[[], object]] = {}
        self.links = Links(log)  # of the namespace that gwlbtun is in
        if self.links.fileno() >= 0:
            self.add(self.links.fileno(), self.links.hear)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, descriptor: int, heard: Callable[[], object]) -> None:
        """Has heard() called whenever the descriptor is readable. Raises OSError."""
        self._heard[descriptor] = heard
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """To be called before it is closed. A heard() may be under way still."""
        if self._heard.pop(descriptor, None):
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def hear(self) -> None:
        for descriptor, _ in self._epoll.poll(0, AT_A_TIME):
            heard = self._heard.get(descriptor)
            if heard:
                heard()


def drain(source: socket.socket) -> bytes:
    """Empties a non-blocking socket. Netlink's ENOBUFS means too many changes to tell, which the caller takes as one."""
    data = b""
    try:
        while True:
            more = source.recv(65536)
            if not more:
                return data
            data += more
    except OSError:
        return data
