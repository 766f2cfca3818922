# SPDX-License-Identifier: MIT-0
"""The endpoints that the programs work for: attached to their interfaces, and switched on while these are up."""
import contextlib
import errno
import threading
import time
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Optional, Set

from .. import fastpath
from ..logs import CORE, Log
from ..tun import TX_QUEUE_RESTART
from . import attach, traffic
from .aside import Aside, Place
from .loaded import Loaded
from .thread import Thread

if TYPE_CHECKING:
    from ..endpoint import Endpoint

TELL_S = 10.0  # between two lines of the same kind


class _Held(NamedTuple):
    """One of them."""

    slot: int
    indices: List[int]                 # of its interfaces, by side
    attached: List[attach.Attachment]  # the programs there
    down: Dict[int, Optional[bool]]    # by side. False: the interface is down; None: it is gone


class Served:
    """Any thread may call all methods. False while there is none."""

    def __init__(self, loaded: Loaded, thread: Thread, aside: Aside, lock: threading.RLock, log: Log):
        """lock: held while what the programs work with is changed."""
        self._loaded = loaded
        self._maps = loaded.maps
        self._thread = thread
        self._aside = aside
        self._lock = lock
        self._log = log
        self._held: "Dict[Endpoint, _Held]" = {}
        self._failure_due = 0.0

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def enis(self) -> Set[int]:
        return {endpoint.eni for endpoint in self._held}

    @property
    def indices(self) -> Set[int]:
        """Of their interfaces."""
        return {index for held in self._held.values() for index in held.indices}

    @property
    def links(self) -> List[int]:
        """The descriptors of what is attached."""
        return [attached.link for held in self._held.values() for attached in held.attached if attached.link is not None]

    def up(self, endpoint: "Endpoint") -> None:
        """Its packets are about to pass: those of known flows may take the kernel from now on."""
        with self._lock:
            if endpoint in self._held:
                return
            try:
                self._hold(endpoint)
            except OSError as error:
                self._release(endpoint)
                if error.errno != errno.ENODEV and time.monotonic() >= self._failure_due:  # ENODEV: it has been deleted
                    self._failure_due = time.monotonic() + TELL_S
                    self._log.important(CORE, f"The packets of {endpoint.identity.interfaces} do not take the kernel, as it "
                                              f"refuses that ({error.strerror or error}): gwlbtun's threads carry them.")

    def _hold(self, endpoint: "Endpoint") -> None:
        slot = endpoint.native.slot()
        held = self._held[endpoint] = _Held(slot, [], [], {})
        for side, tunnel in enumerate(endpoint.tunnels):
            held.indices.append(tunnel.index)
            held.attached.append(self._loaded.at_egress(tunnel.index))
            self._maps.set_interface(tunnel.index, slot, side)
        self._maps.set_eni(endpoint.eni, slot)
        for side, tunnel in enumerate(endpoint.tunnels):
            self._aside.add((slot, side), Place(tunnel.index, tunnel.title, self._putter(endpoint, side),
                                                self._stander(endpoint, side)))
        self._switch(endpoint, held)

    def _switch(self, endpoint: "Endpoint", held: _Held) -> None:
        """Has it as it should be: on while both interfaces are up."""
        if held.down:
            self._thread.endpoint_off(endpoint.native)
        else:
            queues = [fd for tunnel in endpoint.tunnels for fd in tunnel.fds]
            longest = max(TX_QUEUE_RESTART, *(traffic.state(index).queue_length for index in held.indices))
            self._thread.endpoint_on(endpoint.native, held.indices[fastpath.GWI], queues, longest)

    def _putter(self, endpoint: "Endpoint", side: int) -> Callable[[bool], None]:
        return lambda aside: self._thread.endpoint_aside(endpoint.native, side, aside)

    def _stander(self, endpoint: "Endpoint", side: int) -> Callable[[Optional[bool]], None]:
        def stand(up: Optional[bool]) -> None:
            held = self._held.get(endpoint)
            if not held or held.down.get(side, True) is None:
                return
            if up:
                held.down.pop(side, None)
            else:
                held.down[side] = up
            with contextlib.suppress(OSError):
                self._switch(endpoint, held)
            if up is None:
                self._detach(held)
        return stand

    def down(self, endpoint: "Endpoint") -> None:
        """Before its threads stop: all its packets go their way again."""
        with self._lock:
            self._release(endpoint)

    def _release(self, endpoint: "Endpoint") -> None:
        held = self._held.pop(endpoint, None)
        if not held:
            return
        for side in fastpath.SIDES:
            self._aside.remove((held.slot, side))
        self._thread.endpoint_off(endpoint.native)
        with contextlib.suppress(OSError):
            self._maps.forget_eni(endpoint.eni)
        self._detach(held)

    def _detach(self, held: _Held) -> None:
        for index in held.indices:
            with contextlib.suppress(OSError):
                self._maps.forget_interface(index)
        while held.attached:
            held.attached.pop().detach()
