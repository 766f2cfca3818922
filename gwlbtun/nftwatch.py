# SPDX-License-Identifier: MIT-0
"""Notices when the nftables table of an endpoint is gone.

The hooks that ship put an endpoint's rules into a table `inet gwlbtun-X`, and no packet passes without it. A reload of the
host's own rules commonly begins with `nft flush ruleset`, which deletes that table as well. The kernel reports every change
to tables (NFNLGRP_NFTABLES). This module keeps track of the tables, and says once when one is gone for good. A hook that
makes its table anew deletes it for a moment, and its DESTROY deletes it before the endpoint goes. So the watch waits for
GRACE_S, and looks only at the tables of endpoints that are up.
"""
import errno
import os
import socket
import struct
import time
from typing import Callable, Dict, Iterable, Iterator, Optional, Set, Tuple

from .logs import CORE, Log
from .tun import base60

GRACE_S = 1.0
BATCH = 256          # datagrams heard at a time: a host may keep changing its rules
ANSWER_S = 0.1       # for the kernel to say whether a table exists; it answers at once
PREFIX = "gwlbtun-"  # as example-scripts/common.sh names tables, with the suffix of the interfaces

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNLGRP_NFTABLES = 7
_NFPROTO_INET = 1
_NEWTABLE, _GETTABLE, _DELTABLE = (10 << 8 | message for message in (0, 1, 2))
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_TABLE_NAME = 1
_HEADER = struct.Struct("=IHHII")     # length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")       # nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")     # length, type
_ERROR = struct.Struct("=i")


class TableWatch:
    """To be registered with poll. hear() is for when it is readable, look() for every second."""

    def __init__(self, source: socket.socket, log: Log, create_hook: Optional[str]):
        self._source = source
        self._log = log
        self._hook = create_hook or "the create hook"
        self._there: Set[str] = set()
        self._gone: Dict[str, float] = {}  # since when

    def fileno(self) -> int:
        return self._source.fileno()

    def hear(self) -> None:
        now = time.monotonic()
        for _ in range(BATCH):
            try:
                data, (port, _) = self._source.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return
                self._gone.update((name, now) for name in self._there)  # some reports were lost: look() asks for each table
                continue
            if port == 0:  # the kernel
                self._note(data, now)

    def look(self, endpoints: Callable[[], Iterable[Tuple[str, str, int]]]) -> None:
        """endpoints(): the gwi, gwo and ENI ID of each endpoint that is up. Called only when a table is gone."""
        now = time.monotonic()
        due = [name for name, since in self._gone.items() if now - since >= GRACE_S]
        if not due:
            return
        up = {PREFIX + base60(eni): (gwi, gwo, eni) for gwi, gwo, eni in endpoints()}
        for name in due:
            del self._gone[name]
            if _exists(name):
                continue
            self._there.discard(name)
            if name in up:
                gwi, gwo, eni = up[name]
                self._log.important(
                    CORE, f"The nftables table inet {name} has been deleted, as by `nft flush ruleset`: the hooks that ship "
                          f"let nothing from {gwi} pass without it. Run: {self._hook} CREATE {gwi} {gwo} {eni:017x}")

    def _note(self, data: bytes, now: float) -> None:
        for kind, name in _tables(data):
            if kind == _NEWTABLE:
                self._there.add(name)
                self._gone.pop(name, None)
            else:
                self._gone[name] = now


def watch(log: Log, create_hook: Optional[str]) -> Optional[TableWatch]:
    """Returns None where the kernel has no nftables, or does not report changes to this process."""
    source = None
    try:
        source = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        source.bind((0, 0))
        source.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    except OSError:
        if source:
            source.close()
        return None
    return TableWatch(source, log, create_hook)


def _tables(data: bytes) -> Iterator[Tuple[int, str]]:
    """Yields what a datagram says about endpoints' tables: the kind of each message, and the name."""
    for kind, payload in _messages(data):
        if kind in (_NEWTABLE, _DELTABLE) and payload[:1] == bytes([_NFPROTO_INET]):
            for attribute, value in _attributes(payload[_FAMILY.size:]):
                name = os.fsdecode(value.rstrip(b"\0"))
                if attribute == _TABLE_NAME and name.startswith(PREFIX):
                    yield kind, name


def _messages(data: bytes) -> Iterator[Tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size:length]
        data = data[length + -length % 4:]


def _attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind, data[_ATTRIBUTE.size:length]
        data = data[length + -length % 4:]


def _exists(name: str) -> bool:
    """Whether there is such a table. When in doubt, there is."""
    value = os.fsencode(name) + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _TABLE_NAME) + value + bytes(-len(value) % 4)
    body = _FAMILY.pack(_NFPROTO_INET, 0, 0) + attribute
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
            asking.settimeout(ANSWER_S)
            asking.sendto(_HEADER.pack(_HEADER.size + len(body), _GETTABLE, _NLM_F_REQUEST, 1, 0) + body, (0, 0))
            for kind, payload in _messages(asking.recv(65536)):
                if kind == _NLMSG_ERROR:
                    return _ERROR.unpack_from(payload)[0] != -errno.ENOENT
    except OSError:
        pass
    return True
