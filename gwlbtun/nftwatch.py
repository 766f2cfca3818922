# SPDX-License-Identifier: MIT-0
"""Notices when the nftables table of an endpoint is gone.

The hooks that ship put an endpoint's rules into a table `inet gwlbtun-X`, and no packet passes without it. A reload of the
host's own rules commonly begins with `nft flush ruleset`, which deletes that table as well. The kernel reports every change
to tables (NFNLGRP_NFTABLES). This module keeps track of the tables, and says once when one is gone for good. A hook that
makes its table anew deletes it for a moment, and its DESTROY deletes it before the endpoint goes. So the watch waits for
GRACE_S, and looks only at the tables of endpoints that are up.
"""
import contextlib
import socket
import time
from typing import Callable, Dict, Iterable, Iterator, Optional, Set, Tuple

from . import netlink, nfnetlink
from .identity import Identity
from .logs import CORE, Log
from .netns import Namespace, inside

GRACE_S = 1.0
BATCH = 256          # datagrams heard at a time: a host may keep changing its rules
PREFIX = "gwlbtun-"  # as example-scripts/common.sh names tables, with the suffix of the interfaces

_TABLE_NAME = 1
_CHAINS = (nfnetlink.NEWCHAIN, nfnetlink.DELCHAIN)


class TableWatch:
    """To be registered with poll. hear() is for when it is readable, look() for every second."""

    def __init__(self, source: socket.socket, log: Log, create_hook: Optional[str], namespace: Optional[Namespace],
                 chains_changed: Callable[[], None]):
        self.missing: Set[str] = set()  # the tables of endpoints that are gone for good
        self._chains_changed = chains_changed
        self._source = source
        self._namespace = namespace
        self._log = log
        self._hook = create_hook or "the create hook"
        self._there: Set[str] = set()
        self._gone: Dict[str, float] = {}  # since when
        self._lost: Optional[float] = None  # when some reports were, so what is there has to be read afresh

    def fileno(self) -> int:
        return self._source.fileno()

    def close(self) -> None:
        self._source.close()

    def hear(self) -> None:
        now = time.monotonic()
        for report in netlink.reports(self._source, BATCH):
            if report is None:
                self._lost = now
                self._chains_changed()
            else:
                self._note(report, now)

    def look(self, endpoints: Callable[[], Iterable[Identity]]) -> None:
        """endpoints(): each endpoint that is up. Called only when a table is gone."""
        now = time.monotonic()
        if self._lost is not None:
            self._read_afresh(self._lost)
        due = [name for name, since in self._gone.items() if now - since >= GRACE_S]
        if not due:
            return
        up = {PREFIX + identity.gwi.removeprefix("gwi-"): identity for identity in endpoints()}
        self.missing.intersection_update(up)
        for name in due:
            del self._gone[name]
            if self._exists(name):
                continue
            self._there.discard(name)
            if name in up:
                self.missing.add(name)
                self._log.important(
                    CORE, f"The nftables table inet {name} has been deleted, as by `nft flush ruleset`: the hooks that ship "
                          f"let nothing from {up[name].title(up[name].gwi)} pass without it. "
                          f"Run: {up[name].command(self._hook, 'CREATE')}")

    def _read_afresh(self, since: float) -> None:
        with contextlib.suppress(OSError), inside(self._namespace):  # tables changed meanwhile: the next look tries again
            there = {name for _, data in nfnetlink.dump(nfnetlink.GETTABLE, nfnetlink.NFPROTO_INET) for name in _names(data)}
            self._gone = {**{name: since for name in self._there - there}, **self._gone}
            self._there |= there
            self.missing -= there
            self._lost = None

    def _exists(self, name: str) -> bool:
        """Whether there is such a table. When in doubt, there is."""
        try:
            with inside(self._namespace):
                return nfnetlink.exists(nfnetlink.GETTABLE, nfnetlink.NFPROTO_INET,
                                        nfnetlink.text_attribute(_TABLE_NAME, name))
        except OSError:
            return True

    def _note(self, data: bytes, now: float) -> None:
        if any(kind in _CHAINS for kind, *_ in netlink.messages(data)):
            self._chains_changed()
        for kind, name in _tables(data):
            if kind == nfnetlink.NEWTABLE:
                self._there.add(name)
                self.missing.discard(name)
                self._gone.pop(name, None)
            else:
                self._gone[name] = now


def watch(log: Log, create_hook: Optional[str], namespace: Optional[Namespace] = None,
          chains_changed: Callable[[], None] = lambda: None) -> Optional[TableWatch]:
    """Returns None where the kernel has no nftables, or does not report changes to this process.

    With a namespace, the caller is inside. chains_changed() is called when chains come, go, or get another policy."""
    try:
        source = netlink.listen(nfnetlink.NETLINK_NETFILTER, [nfnetlink.NFNLGRP_NFTABLES])
    except OSError:
        return None
    return TableWatch(source, log, create_hook, namespace, chains_changed)


def _tables(data: bytes) -> Iterator[Tuple[int, str]]:
    """Yields what a datagram says about endpoints' tables: the kind of each message, and the name."""
    for kind, _, body in netlink.messages(data):
        if kind in (nfnetlink.NEWTABLE, nfnetlink.DELTABLE) and body[:1] == bytes([nfnetlink.NFPROTO_INET]):
            for name in _names(body[nfnetlink.FAMILY.size:]):
                yield kind, name


def _names(data: bytes) -> Iterator[str]:
    """The name of the endpoint's table that the attributes of a table are about, if it is one."""
    for attribute, value in netlink.attributes(data):
        name = nfnetlink.text_of(value)
        if attribute == _TABLE_NAME and name.startswith(PREFIX):
            yield name
