# SPDX-License-Identifier: MIT-0
"""The fast path as objects: the handler and its endpoints. native/gwlbtun.h says what each function does.

The rest of the package knows the fast path by this module alone. It calls the shim through ctypes.CDLL, which releases the
GIL: a receiver or tunnel thread that is in its run function costs the interpreter nothing.
"""
import ctypes
import os
import threading
from array import array
from ctypes import c_int, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .layout import (DUMP_END, FLOW_CLASSES, FLOW_RECORD, GWI, GWO, OFFLOAD_MERGE_TCP, OFFLOAD_MERGE_UDP, OFFLOAD_UDP_GSO,
                     SIDES, SLOTS_MAX, TRACE_DUMP, TRACE_HEADERS, TRACE_IN, TRACE_OFF, TRACE_OUT, FlowCount, FlowFilter,
                     FlowRecord, TraceRecord)
from .shim import NATIVE, Row, Shim, failure, set_thread_name, signal_thread

if TYPE_CHECKING:
    from .shim import Counters

__all__ = ["FLOW_RECORD", "GWI", "GWO", "NATIVE", "OFFLOAD_MERGE_TCP", "OFFLOAD_MERGE_UDP", "OFFLOAD_UDP_GSO", "SIDES",
           "SLOTS_MAX", "TRACE_DUMP", "TRACE_HEADERS", "TRACE_IN", "TRACE_OFF", "TRACE_OUT", "FlowFilter", "Flows", "Handler",
           "NativeEndpoint", "Row", "Shim", "TraceRecord", "set_thread_name", "signal_thread"]

LISTEN_MOST = 256  # announced ENI IDs that Handler.listen() returns at most

def _check(status: int) -> None:
    if status < 0:
        raise OSError(-status, os.strerror(-status))


class Handler:
    """struct gw_handler: the flow table, the receivers and the endpoints of this process."""

    def __init__(self, shim: Shim, receivers: int, tunnel_threads: int, max_endpoints: int, max_flows: int,
                 tcp_idle_s: int, udp_idle_s: int, offloads: int, raw_fd: int = -1, flows_fd: int = -1):
        """udp_idle_s: of all protocols but TCP. flows_fd: a memory file for the flow table, or with one. Raises OSError."""
        self.shim = shim
        self.receivers = receivers
        self.tunnel_threads = tunnel_threads
        self._library = shim.library
        self._handler = self._library.gw_handler_new(receivers, tunnel_threads, max_endpoints, max_flows,
                                                     tcp_idle_s, udp_idle_s, offloads, raw_fd, flows_fd)
        if not self._handler:
            raise failure()
        self.pointer: int = self._handler  # for whoever else calls the shim about it
        self._announced = (c_uint64 * LISTEN_MOST)()

    def free(self) -> None:
        self._library.gw_handler_free(self._handler)

    def stop(self) -> None:
        self._library.gw_handler_stop(self._handler)

    def pause(self, paused: bool) -> None:
        """Receivers return at once, once they are woken, and leave all as it is; or they may run again."""
        self._library.gw_handler_pause(self._handler, paused)

    def leave(self, fd: int) -> None:
        """While no thread of the packet path runs: writes the packets that wait in memory to a memory file. Raises OSError."""
        _check(self._library.gw_handler_leave(self._handler, fd))

    def take_back(self, fd: int) -> None:
        """Before any runs: has the packets wait that another program has left in a file. Raises OSError."""
        _check(self._library.gw_handler_take_back(self._handler, fd))

    def forget_strays(self) -> int:
        """Forgets the flows of slots that no endpoint has. Returns how many."""
        return self._library.gw_handler_forget_strays(self._handler)

    def expire(self) -> int:
        return self._library.gw_handler_expire(self._handler)

    def flow_entries(self) -> int:
        return self._library.gw_handler_flow_entries(self._handler)

    def dump_flows(self, chosen: FlowFilter, most: int) -> Iterator[memoryview]:
        """Walks the flow table: yields records (layout.FLOW_RECORD) of flows, as many as one step found, at most so many.

        A step takes about a millisecond, and may find none. What it yields is overwritten by the next step.
        """
        octets = bytearray(most * ctypes.sizeof(FlowRecord))
        records = (FlowRecord * most).from_buffer(octets)
        position = c_uint32(0)
        while position.value != DUMP_END:
            found = self._library.gw_handler_dump_flows(self._handler, chosen, position, records, most)
            yield memoryview(octets)[:found * ctypes.sizeof(FlowRecord)]

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

    def add_receiver_counters(self, receiver: int, counts: Mapping[str, int]) -> None:
        """Before it runs: goes on from the counters of another program."""
        self.shim.add_counters(self._library.gw_receiver_counters(self._handler, receiver), counts)

    def receiver_stalled(self, receiver: int, fd: int) -> int:
        """For how many calls in a row, made once a second, it has left its work undone. Only one thread may call this."""
        return self._library.gw_receiver_stalled(self._handler, receiver, fd)

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

    def receive_only(self) -> None:
        """Nothing goes back to the load balancer. To be called before any thread runs."""
        self._library.gw_handler_receive_only(self._handler)

    def limit_rings(self, size: int) -> None:
        """Bounds what the rings of all endpoints hold together, in bytes."""
        self._library.gw_handler_limit_rings(self._handler, size)

    def endpoint(self, eni: int) -> "NativeEndpoint":
        """Makes and publishes an endpoint. Raises OSError, with ENOSPC when there are too many."""
        endpoint = self._library.gw_endpoint_new(self._handler, eni)
        if not endpoint:
            raise failure()
        return NativeEndpoint(self, endpoint)

    def adopt(self, eni: int, slot: int, made_ns: int) -> "NativeEndpoint":
        """As endpoint(), in the slot that it had in another program. Raises OSError."""
        endpoint = self._library.gw_endpoint_adopt(self._handler, eni, slot, made_ns)
        if not endpoint:
            raise failure()
        return NativeEndpoint(self, endpoint)

    def trace(self, level: int) -> None:
        _check(self._library.gw_trace_set(self._handler, level))

    def read_trace(self, record: TraceRecord) -> bool:
        return bool(self._library.gw_trace_read(self._handler, record))

    def trace_lost(self) -> int:
        return self._library.gw_trace_lost(self._handler)


class Flows(NamedTuple):
    """How many flows of one family and protocol an endpoint has, and how many it has lost since it was made."""

    size: int
    timed_out: int
    evicted: int


class NativeEndpoint:
    """struct gw_endpoint. Anybody may read its counters at any time: once it has been freed they read as 0."""

    def __init__(self, handler: Handler, endpoint: int):
        self._handler = handler
        self._library = handler.shim.library
        self.pointer = endpoint  # for whoever else calls the shim about it
        self._endpoint: Optional[int] = endpoint
        self._lock = threading.Lock()  # held while counters are read and while they go away
        self._mapped: List[List["Counters"]] = [[], []]  # the counters of each side's threads, once they are asked for

    def slot(self) -> int:
        return self._library.gw_endpoint_slot(self._endpoint)

    def resume(self, last_ns: int, ring_drops: int, flow_drops: int) -> None:
        """Before any thread runs: goes on from what these were in another program."""
        self._library.gw_endpoint_resume(self._endpoint, last_ns, ring_drops, flow_drops)

    def restore_counters(self, side: int, rows: Sequence[Mapping[str, int]]) -> None:
        """Likewise, from the counters of the T threads of one side. Those of threads that are no more go to the last."""
        shim, last = self._handler.shim, self._handler.tunnel_threads - 1
        for thread, row in enumerate(rows):
            shim.add_counters(self._library.gw_tunnel_counters(self._endpoint, side, min(thread, last)), row)

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

    def stalled(self, side: int, thread: int, fd: int) -> Tuple[int, int]:
        """As Handler.receiver_stalled(), for a T thread that runs; and the receiver that is on duty for it, or -1."""
        receiver = c_int(-1)
        with self._lock:
            if self._endpoint is None:
                return 0, -1
            return self._library.gw_tunnel_stalled(self._endpoint, side, thread, fd, receiver), receiver.value

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

    def count_failure(self, side: int, thread: int) -> None:
        """By a T thread, outside of run()."""
        self._handler.shim.add_counters(self._library.gw_tunnel_counters(self._endpoint, side, thread), {"failures": 1})

    def age(self) -> None:
        """Once a second: lets its T threads close sockets that have been idle for long."""
        with self._lock:
            if self._endpoint is not None:
                self._library.gw_endpoint_age(self._endpoint)

    def last_ns(self) -> int:
        return self._call("gw_endpoint_last_ns")

    def ring_drops(self) -> int:
        return self._call("gw_endpoint_ring_drops")

    def flow_drops(self) -> int:
        return self._call("gw_endpoint_flow_drops")

    def arrived(self, receiver: int) -> int:
        """The packets that a receiver has taken in for it so far, those lost on the way to its ring included."""
        return self._call("gw_endpoint_arrived", receiver)

    def shed(self, receiver: int, shed: bool) -> None:
        """Whether a receiver drops what it receives for it, before that costs much."""
        self._call("gw_endpoint_shed", receiver, shed)

    def ring_bytes(self) -> int:
        return self._call("gw_endpoint_ring_bytes")

    def flows(self) -> Sequence[Flows]:
        """Of TCP, UDP and other protocols, in IPv4, and then the same in IPv6."""
        counts = (FlowCount * FLOW_CLASSES)()
        with self._lock:
            if self._endpoint is not None:
                self._library.gw_endpoint_count_flows(self._endpoint, counts)
        return [Flows(count.size, count.timed_out, count.evicted) for count in counts]

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

    def _call(self, function: str, *arguments: int) -> int:
        with self._lock:
            return getattr(self._library, function)(self._endpoint, *arguments) if self._endpoint is not None else 0
