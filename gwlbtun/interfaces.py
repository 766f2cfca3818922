# SPDX-License-Identifier: MIT-0
"""The two interfaces of one endpoint, and the network namespace that they are in if it has one of its own (--netns).

In a namespace of its own, the reports of the kernel about it come by sockets of its own as well (lookout.py).
"""
import socket
import time
from typing import Any, Callable, Dict, Optional

from . import fastpath, nftwatch, removal, rpfilter
from .identity import Identity
from .link import Link, Links
from .logs import CORE, Log
from .lookout import Lookout, drain
from .netns import Namespace
from .settings import Settings
from .sources import Sources
from .starter import Starter
from .surroundings import Surroundings
from .tunnel import Tunnel

AGAIN_S = 60.0  # between two times that they are made again because one has been down: something may do that ever again


class Interfaces:
    """Both interfaces, made and deleted together."""

    def __init__(self, identity: Identity, native: fastpath.NativeEndpoint, settings: Settings, offloads: int,
                 sources: Sources, starter: Starter, lookout: Lookout, deleted: Callable[[str], None], log: Log):
        """deleted(text) is called when somebody has deleted one of them, or the namespace."""
        self.inward = Tunnel(fastpath.GWI, identity, native, settings.tunnel_places, sources, starter, deleted, log)
        self.outward = Tunnel(fastpath.GWO, identity, native, settings.tunnel_places, sources, starter, deleted, log)
        self.both = (self.inward, self.outward)
        self.namespace: Optional[Namespace] = None
        self.surroundings: Optional[Surroundings] = None  # those of the namespace
        self._identity = identity
        self._create_hook = settings.create_hook
        self._offloads = offloads
        self._lookout = lookout
        self._deleted = deleted
        self._log = log
        self._filter = rpfilter.ReversePathFilter(identity, log)
        self._filter_watch: Optional[socket.socket] = None
        self._table_watch: Optional[nftwatch.TableWatch] = None
        self._links: Optional[Links] = None  # of the namespace
        self._again_due = 0.0

    def create(self) -> None:
        """Makes them, up. Raises OSError, and none is there then."""
        try:
            if self._identity.netns:
                self.namespace = Namespace(self._identity.namespace)
            for tunnel in self.both:
                tunnel.create(self._offloads, self.namespace)
            self._filter.turn_off(self.namespace)
            self._watch()
            for tunnel in self.both:
                tunnel.up()
        except OSError:
            self.close()
            raise

    def record(self) -> Dict[str, Any]:
        """What adopt() needs."""
        return {"made_namespace": self.namespace.made if self.namespace else False,
                "surroundings": self.surroundings.record() if self.surroundings else None,
                "tunnels": [tunnel.record() for tunnel in self.both]}

    def adopt(self, record: Dict[str, Any]) -> None:
        """Takes them over from another program. Raises OSError, and none is there then."""
        try:
            if self._identity.netns:
                self.namespace = Namespace(self._identity.namespace, adopted=True)
                self.namespace.made = bool(record["made_namespace"])
            for tunnel, own in zip(self.both, record["tunnels"]):
                tunnel.adopt(own, self._offloads, self.namespace)
            self._filter.turn_off(self.namespace)
            self._watch()
            for tunnel, own in zip(self.both, record["tunnels"]):
                tunnel.go_on_watching(own, self._links or self._lookout.links)
            if self.surroundings and record.get("surroundings"):
                self.surroundings.resume(record["surroundings"])
        except (OSError, KeyError, TypeError, ValueError):
            self.close()
            raise

    def settle(self) -> None:
        """To be called after the create hook."""
        for tunnel in self.both:
            tunnel.settle(self._links or self._lookout.links)
        self._filter.tell_if_overruled()

    def check_filter(self) -> None:
        """To be called when a setting of an interface may have changed."""
        self._filter.check()

    def tick(self) -> None:
        """Once a second, while the endpoint is up: looks after them and the namespace."""
        if self.namespace:
            self._look_after_namespace(self.namespace)
        for tunnel in self.both:
            if tunnel.link.look():
                self._restore(tunnel.link)

    def _restore(self, link: Link) -> None:
        """It has been down, so Linux has removed its routes. The create hook knows them."""
        if self._create_hook and link.in_place and time.monotonic() >= self._again_due:
            self._again_due = time.monotonic() + AGAIN_S
            self._deleted(f"the interface {link.title} has been down, so Linux has removed its routes")
        else:
            self._log.important(CORE, f"{link.title} is up again. Linux has removed its routes meanwhile: set them again, or "
                                      "delete the interface, and gwlbtun makes it again with its create hook.")

    def _look_after_namespace(self, namespace: Namespace) -> None:
        if not namespace.is_here():
            self._deleted(f"the network namespace {namespace.name} has been deleted")
            return
        if not self._filter_watch:
            self._filter.check()
        if self._table_watch:
            self._table_watch.look(lambda: [self._identity])

    def close(self) -> None:
        """Deletes them, and the namespace if gwlbtun has made it. The T threads must have ended."""
        self._stop_watching()
        removal.remove([index for tunnel in self.both for index in tunnel.about_to_go()], self.namespace)
        for tunnel in self.both:
            tunnel.close()
        if self.namespace:
            self.namespace.close()
            self.namespace = None

    def _watch(self) -> None:
        if not self.namespace:
            return
        surroundings = Surroundings(self.namespace)
        with self.namespace.entered():
            filter_watch = rpfilter.watch()
            table_watch = nftwatch.watch(self._log, self._create_hook, self.namespace, surroundings.stir_chains)
            self._links = Links(self._log)
        surroundings.hears, surroundings.table_watch = filter_watch is not None, table_watch
        if self._links.fileno() >= 0:
            self._lookout.add(self._links.fileno(), self._links.hear)
        if filter_watch:
            self._filter_watch = filter_watch
            self._lookout.add(filter_watch.fileno(), self._hear_of_filters)
        if table_watch:
            self._table_watch = table_watch
            self._lookout.add(table_watch.fileno(), table_watch.hear)
        self.surroundings = surroundings

    def _hear_of_filters(self) -> None:
        watch, surroundings = self._filter_watch, self.surroundings
        if watch:
            drain(watch)
            self._filter.check()
        if surroundings:
            surroundings.stir()

    def _stop_watching(self) -> None:
        for watch in (self._filter_watch, self._table_watch, self._links):
            if watch and watch.fileno() >= 0:
                self._lookout.remove(watch.fileno())
                watch.close()
        self._filter_watch = self._table_watch = self._links = self.surroundings = None
