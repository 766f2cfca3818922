# SPDX-License-Identifier: MIT-0
"""What systemd is told: its notification protocol (sd_notify(3)), a datagram of variables to the socket NOTIFY_SOCKET.

Nothing here waits, and nothing that fails matters to the daemon: a message that does not get through is tried again.
"""
import collections
import errno
import os
import socket
import threading
import time
from typing import Deque, Optional

from .logs import CORE, Log

UNSENT = 16          # messages kept for another try; the oldest go first
TEXT_CHARACTERS = 500


VARIABLES = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """Tells systemd, if systemd wants to know. Any thread may use it."""

    def __init__(self, log: Log):
        """Takes its variables out of the environment: they are not for hooks."""
        self._log = log
        self.environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        self._address = _address(os.environ.pop("NOTIFY_SOCKET", ""))
        self._unsent: Deque[bytes] = collections.deque(maxlen=UNSENT)
        self._lock = threading.Lock()
        self._failed = False
        self.watchdog_s = _watchdog(os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", ""), log)
        self._socket: Optional[socket.socket] = None
        if self._address:
            try:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                log.important(CORE, f"Cannot tell systemd anything: {error.strerror}.")
        if not self._socket:
            self.watchdog_s = None

    @property
    def wanted(self) -> bool:
        """Whether systemd listens."""
        return self._socket is not None

    def tell(self, **variables: object) -> None:
        """Sends variables in one message."""
        if self._socket:
            with self._lock:
                self._unsent.append("\n".join(f"{name}={value}" for name, value in variables.items()).encode(
                    "utf-8", "backslashreplace"))
                self._send_unsent(self._socket)

    def tell_status(self, text: str, **variables: object) -> None:
        """Sends variables, and one line for people, which `systemctl status` shows."""
        self.tell(**variables, STATUS=" ".join(text.split())[:TEXT_CHARACTERS])

    def tell_reloading(self) -> None:
        """The time tells systemd that this is about its newest request."""
        self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def flush(self) -> None:
        """Tries again to send what has not got through."""
        if self._socket:
            with self._lock:
                self._send_unsent(self._socket)

    def feed(self) -> None:
        """The same, and says that the daemon is well, if there is a watchdog. That is not tried again."""
        self.flush()
        if self._socket and self.watchdog_s:
            self._try(self._socket, b"WATCHDOG=1")

    def _send_unsent(self, sender: socket.socket) -> None:
        while self._unsent and self._try(sender, self._unsent[0]):
            self._unsent.popleft()

    def _try(self, sender: socket.socket, message: bytes) -> bool:
        try:
            sender.sendto(message, self._address)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS) and not self._failed:
                self._failed = True
                self._log.important(CORE, f"Cannot reach systemd by NOTIFY_SOCKET={self._address!r} "
                                          f"({error.strerror or error}). gwlbtun goes on, and keeps trying.")
            return False


def _address(text: str) -> str:
    """The address of a socket, by its path or by the abstract name behind an @."""
    return "\0" + text[1:] if text.startswith("@") else text


def _watchdog(usec: str, pid: str, log: Log) -> Optional[float]:
    """The time after which systemd ends a daemon that it does not hear of."""
    if not usec or pid not in ("", str(os.getpid())):
        return None
    if not (usec.isascii() and usec.isdigit() and 0 < int(usec[:18]) and len(usec) <= 18):
        log.important(CORE, f"WATCHDOG_USEC={usec[:40]!r} is no number of microseconds: gwlbtun does not feed the watchdog.")
        return None
    return int(usec) / 1e6
