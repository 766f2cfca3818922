# SPDX-License-Identifier: MIT-0
"""Thread K as an object (native/kernel_path.c): it puts flows into the map, and takes them out."""
import ctypes
from typing import Dict, Optional, Sequence

from .. import fastpath, worker
from ..layout import KernelCounts, KernelSetup
from ..shim import failure
from .layout import Tally
from .maps import Maps


class Thread:
    """struct gw_kernel. Any thread may call all methods."""

    def __init__(self, handler: fastpath.Handler, maps: Maps, links_bell: int, before: Optional[Dict[str, int]] = None):
        """links_bell: a descriptor that is written to when there is something for Links.grow().

        before: what the thread K has counted that has left these maps. Raises OSError.
        """
        self._library = handler.shim.library
        self._maps = maps
        counted = KernelCounts(**before) if before else None
        self._setup = KernelSetup(ctypes.addressof(maps.endpoints), ctypes.addressof(maps.links),
                                  ctypes.addressof(maps.globals), maps.fd["flows"], links_bell,
                                  int(worker.WAKE_S * 1e9), ctypes.addressof(counted) if counted else None)
        self._kernel = self._library.gw_kernel_new(handler.pointer, self._setup)
        if not self._kernel:
            raise failure()
        self._counts = self._library.gw_kernel_counted(self._kernel).contents

    def offer(self, on: bool) -> None:
        """Flows may take the kernel, and receivers tell of them; or not. Before any receiver runs."""
        self._library.gw_kernel_offer(self._kernel, on)

    def work(self) -> None:
        """Returns after stop() or leave()."""
        status = self._library.gw_kernel_work(self._kernel)
        if status < 0:
            raise OSError(-status, "thread K cannot work")

    def stop(self) -> None:
        self._library.gw_kernel_stop(self._kernel)

    def leave(self) -> None:
        """As stop(), but the programs go on. No receiver may run until there is a thread K again."""
        self._library.gw_kernel_leave(self._kernel)

    def free(self) -> None:
        self._library.gw_kernel_free(self._kernel)

    def counts(self) -> Dict[str, int]:
        return {field[0]: getattr(self._counts, field[0]) for field in KernelCounts._fields_}

    @property
    def links(self) -> int:
        """The places for pairs of addresses in the map that have been used so far."""
        return self._counts.links

    def free_links(self, idle_s: float) -> int:
        """Gives up the pairs that no flow has had for so long; their number. For the thread that has Links."""
        return self._library.gw_kernel_free_links(self._kernel, int(idle_s * 1e9))

    def endpoint_on(self, endpoint: fastpath.NativeEndpoint, gwi: int, queues: Sequence[int], longest: int) -> None:
        """Its flows may take the kernel. gwi: the index of the interface. longest: packets that a queue may hold.

        Raises OSError.
        """
        status = self._library.gw_kernel_endpoint_on(self._kernel, endpoint.pointer, gwi,
                                                     (ctypes.c_int * len(queues))(*queues), longest)
        if status < 0:
            raise OSError(-status, "thread K does not take the endpoint")

    def endpoint_off(self, endpoint: fastpath.NativeEndpoint) -> None:
        """All its packets go the threads' way. Returns when K looks at it no more."""
        self._library.gw_kernel_endpoint_off(self._kernel, endpoint.pointer)

    def endpoint_aside(self, endpoint: fastpath.NativeEndpoint, side: int, aside: bool) -> None:
        self._library.gw_kernel_endpoint_aside(self._kernel, endpoint.pointer, side, aside)

    def sweep(self) -> bool:
        """Before the flow table forgets flows: tells it which of them the kernel has carried. False: it does not say."""
        return self._library.gw_kernel_sweep(self._kernel) == 0

    def tally(self, slot: int) -> Tally:
        """What the programs have counted for a slot since the map was made."""
        tally = Tally()
        self._library.gw_kernel_tallied(ctypes.addressof(self._maps.tallies), slot, self._maps.cpus, ctypes.byref(tally))
        return tally
