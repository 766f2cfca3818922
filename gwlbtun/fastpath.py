# SPDX-License-Identifier: MIT-0
"""The fast path as objects: the handler and its endpoints. native/gwlbtun.h says what each function does.

The rest of the package knows the fast path by this module alone. It calls the shim through ctypes.CDLL, which releases the
GIL: a receiver or tunnel thread that is in its run function costs the interpreter nothing.
"""
import ctypes
import functools
import os
import threading
from array import array
from ctypes import c_char_p, c_int, c_uint64, c_void_p
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional

from .layout import (GWI, GWO, OFFLOAD_MERGE_TCP, OFFLOAD_MERGE_UDP, OFFLOAD_UDP_GSO, SIDES, SLOTS_MAX, TRACE_DUMP,
                     TRACE_HEADERS, TRACE_IN, TRACE_OFF, TRACE_OUT, TraceRecord)
from .shim import NATIVE, Row, Shim

if TYPE_CHECKING:
    from .shim import Counters

__all__ = ["GWI", "GWO", "NATIVE", "OFFLOAD_MERGE_TCP", "OFFLOAD_MERGE_UDP", "OFFLOAD_UDP_GSO", "SIDES", "SLOTS_MAX",
           "TRACE_DUMP", "TRACE_HEADERS", "TRACE_IN", "TRACE_OFF", "TRACE_OUT", "Handler", "NativeEndpoint", "Row", "Shim",
           "TraceRecord", "set_thread_name"]

LISTEN_MOST = 256  # announced ENI IDs that Handler.listen() returns at most

_PR_SET_NAME = 15


def set_thread_name(name: str) -> None:
    """Names the calling thread for ps, top and /proc; Linux keeps 15 bytes."""
    _libc().prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


@functools.lru_cache(maxsize=None)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (c_int, c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
    return libc


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _check(status: int) -> None:
    if status < 0:
        raise OSError(-status, os.strerror(-status))


class Handler:
    """struct gw_handler: the flow table, the receivers and the endpoints of this process."""

    def __init__(self, shim: Shim, receivers: int, tunnel_threads: int, max_endpoints: int, max_flows: int, idle_s: int,
                 offloads: int, raw_fd: int = -1):
        self.shim = shim
        self.receivers = receivers
        self.tunnel_threads = tunnel_threads
        self._library = shim.library
        self._handler = self._library.gw_handler_new(receivers, tunnel_threads, max_endpoints, max_flows, idle_s,
                                                     offloads, raw_fd)
        if not self._handler:
            raise _failure()
        self._announced = (c_uint64 * LISTEN_MOST)()

    def free(self) -> None:
        self._library.gw_handler_free(self._handler)

    def stop(self) -> None:
        self._library.gw_handler_stop(self._handler)

    def expire(self) -> int:
        return self._library.gw_handler_expire(self._handler)

    def flow_entries(self) -> int:
        return self._library.gw_handler_flow_entries(self._handler)

    def set_sources(self, ranges: "array[int]", interfaces: "array[int]", uplinks: bool) -> Optional[int]:
        """Judges datagrams by this table from now on. ranges: struct gw_source_range, one after the other.

        Returns the table that was in force before, for retire_sources(). Raises OSError.
        """
        old = c_void_p()
        _check(self._library.gw_sources_set(self._handler, ranges.buffer_info()[0], len(ranges) // 2,
                                            interfaces.buffer_info()[0], len(interfaces), uplinks, old))
        return old.value

    def retire_sources(self, old: Optional[int]) -> None:
        """Frees the old table once no receiver uses it."""
        self._library.gw_sources_retire(self._handler, old)

    def allow_endpoints(self, enis: Iterable[int]) -> None:
        """Refuses all other ENI IDs. To be called before any receiver runs."""
        numbers = array("Q", sorted(set(enis)))
        _check(self._library.gw_endpoints_allow(self._handler, numbers.buffer_info()[0], len(numbers)))

    def receiver_counters(self, receiver: int) -> Dict[str, int]:
        return self.shim.read_counters(self._library.gw_receiver_counters(self._handler, receiver))

    def receive(self, receiver: int, fd: int) -> None:
        """Receives until stop(). Raises OSError when the socket has become useless."""
        _check(self._library.gw_receiver_run(self._handler, receiver, fd))

    def listen(self, timeout_ms: int) -> List[int]:
        """ENI IDs without an endpoint, one for each packet that came for one. Only one thread may listen."""
        heard = self._library.gw_handler_listen(self._handler, self._announced, LISTEN_MOST, timeout_ms)
        return self._announced[:heard]

    def set_full(self, full: bool) -> None:
        """Says whether another endpoint can be made: the counters tell drops for that reason apart."""
        self._library.gw_handler_set_full(self._handler, full)

    def limit_rings(self, size: int) -> None:
        """Bounds what the rings of all endpoints hold together, in bytes."""
        self._library.gw_handler_limit_rings(self._handler, size)

    def endpoint(self, eni: int) -> "NativeEndpoint":
        """Makes and publishes an endpoint. Raises OSError, with ENOSPC when there are too many."""
        endpoint = self._library.gw_endpoint_new(self._handler, eni)
        if not endpoint:
            raise _failure()
        return NativeEndpoint(self, endpoint)

    def trace(self, level: int) -> None:
        _check(self._library.gw_trace_set(self._handler, level))

    def read_trace(self, record: TraceRecord) -> bool:
        return bool(self._library.gw_trace_read(self._handler, record))

    def trace_lost(self) -> int:
        return self._library.gw_trace_lost(self._handler)


class NativeEndpoint:
    """struct gw_endpoint. Anybody may read its counters at any time: once it has been freed they read as 0."""

    def __init__(self, handler: Handler, endpoint: int):
        self._handler = handler
        self._library = handler.shim.library
        self._endpoint: Optional[int] = endpoint
        self._lock = threading.Lock()  # held while counters are read and while they go away
        self._mapped: List[List["Counters"]] = [[], []]  # the counters of each side's threads, once they are asked for

    def publish(self) -> None:
        self._library.gw_endpoint_publish(self._endpoint)

    def unpublish(self) -> None:
        self._library.gw_endpoint_unpublish(self._endpoint)

    def open(self) -> None:
        """Lets its frames go to Linux."""
        self._library.gw_endpoint_open(self._endpoint)

    def stop(self) -> None:
        self._library.gw_endpoint_stop(self._endpoint)

    def close(self) -> None:
        """After stop(), when its T threads have ended: takes it back to where it was before open()."""
        self._library.gw_endpoint_close(self._endpoint)

    def bell(self, side: int, thread: int) -> int:
        """Returns the descriptor that becomes readable when that T thread is needed."""
        return self._library.gw_tunnel_bell(self._endpoint, side, thread)

    def has_frames(self, side: int, thread: int) -> bool:
        return bool(self._library.gw_tunnel_has_frames(self._endpoint, side, thread))

    def forget(self) -> None:
        """Before free(): forgets its flows. With a large flow table it takes a while."""
        self._library.gw_endpoint_forget(self._endpoint)

    def free(self) -> None:
        with self._lock:
            self._library.gw_endpoint_free(self._endpoint)
            self._endpoint = None

    def run(self, side: int, thread: int, fd: int) -> None:
        """Serves one queue until stop(). Raises OSError when the device has become useless."""
        _check(self._library.gw_tunnel_run(self._endpoint, side, thread, fd))

    def age(self) -> None:
        """Once a second: lets its T threads close sockets that have been idle for long."""
        with self._lock:
            if self._endpoint is not None:
                self._library.gw_endpoint_age(self._endpoint)

    def last_ns(self) -> int:
        return self._read("gw_endpoint_last_ns")

    def ring_drops(self) -> int:
        return self._read("gw_endpoint_ring_drops")

    def ring_bytes(self) -> int:
        return self._read("gw_endpoint_ring_bytes")

    def flows(self, family: int) -> int:
        return self._read("gw_endpoint_flows", family)

    def flows_timed_out(self, family: int) -> int:
        return self._read("gw_endpoint_flows_timed_out", family)

    def flows_evicted(self, family: int) -> int:
        return self._read("gw_endpoint_flows_evicted", family)

    def rows(self, side: int) -> List[Row]:
        """The counters of each thread of one side, by name."""
        shim, threads = self._handler.shim, self._handler.tunnel_threads
        with self._lock:
            if self._endpoint is None:
                return [shim.no_row] * threads
            mapped = self._mapped[side]
            while len(mapped) < threads:
                mapped.append(shim.map_counters(self._library.gw_tunnel_counters(self._endpoint, side, len(mapped))))
            return list(map(shim.read_row, mapped))

    def counters(self, side: int, thread: int) -> Dict[str, int]:
        return self.rows(side)[thread]._asdict()

    def _read(self, function: str, *arguments: int) -> int:
        with self._lock:
            return getattr(self._library, function)(self._endpoint, *arguments) if self._endpoint is not None else 0
