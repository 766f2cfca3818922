# SPDX-License-Identifier: MIT-0
"""The shim native/gwlbtun.so, and the one place that knows ctypes. native/gwlbtun.h says what each function does.

Functions are called through ctypes.CDLL, which releases the GIL: a receiver or tunnel thread that is in its run
function costs the interpreter nothing.
"""
import collections
import ctypes
import functools
import hashlib
import os
import struct
import threading
from array import array
from ctypes import POINTER, c_char_p, c_int, c_uint8, c_uint16, c_uint32, c_uint64, c_uint, c_void_p
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

from . import StartError

NATIVE = Path(__file__).resolve().parent.parent / "native"
SHIM = NATIVE / "gwlbtun.so"

STOPPED = 1                                              # enum gw_status
OFFLOAD_MERGE_TCP, OFFLOAD_MERGE_UDP, OFFLOAD_UDP_GSO = 1, 2, 4  # enum gw_offload
GWI, GWO = SIDES = (0, 1)                                # enum gw_side
TRACE_OFF, TRACE_HEADERS, TRACE_DUMP = 0, 1, 2           # enum gw_trace_level
TRACE_IN, TRACE_OUT = 1, 2                               # enum gw_trace_event
TRACE_DATA = 2048

SLOTS_MAX = 65_536  # endpoints of a handler (GW_SLOTS_MAX)
LISTEN_MOST = 256  # announced ENI IDs that Handler.listen() returns at most

_PR_SET_NAME = 15


class TraceRecord(ctypes.Structure):
    """struct gw_trace_record."""

    _fields_ = [("time_ns", c_uint64), ("eni", c_uint64), ("event", c_uint32), ("counter", c_uint32),
                ("thread_id", c_uint32), ("gwlb_address", c_uint32), ("own_address", c_uint32),
                ("gwlb_port", c_uint16), ("side", c_uint16), ("cookie", c_uint32), ("length", c_uint32),
                ("captured", c_uint32), ("reserved", c_uint32), ("data", c_uint8 * TRACE_DATA)]

    @property
    def packet(self) -> bytes:
        """What was captured of the packet."""
        return bytes(memoryview(self.data)[:self.captured])


_SIGNATURES = {
    # name: result, arguments
    "gw_build_id": (c_char_p,),
    "gw_counter_name": (c_char_p, c_uint),
    "gw_counter_text": (c_char_p, c_uint),
    "gw_handler_new": (c_void_p, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_int),
    "gw_handler_free": (None, c_void_p),
    "gw_handler_stop": (None, c_void_p),
    "gw_handler_limit_rings": (None, c_void_p, c_uint64),
    "gw_handler_listen": (c_uint, c_void_p, POINTER(c_uint64), c_uint, c_int),
    "gw_handler_set_full": (None, c_void_p, c_int),
    "gw_handler_expire": (c_uint64, c_void_p),
    "gw_handler_flow_entries": (c_uint64, c_void_p),
    "gw_sources_set": (c_int, c_void_p, c_void_p, c_uint, c_void_p, c_uint, c_int, POINTER(c_void_p)),
    "gw_sources_retire": (None, c_void_p, c_void_p),
    "gw_endpoints_allow": (c_int, c_void_p, c_void_p, c_uint),
    "gw_receiver_counters": (POINTER(c_uint64), c_void_p, c_uint),
    "gw_receiver_run": (c_int, c_void_p, c_uint, c_int),
    "gw_endpoint_new": (c_void_p, c_void_p, c_uint64),
    "gw_endpoint_publish": (None, c_void_p),
    "gw_endpoint_unpublish": (None, c_void_p),
    "gw_endpoint_open": (None, c_void_p),
    "gw_endpoint_stop": (None, c_void_p),
    "gw_endpoint_close": (None, c_void_p),
    "gw_endpoint_forget": (None, c_void_p),
    "gw_endpoint_free": (None, c_void_p),
    "gw_endpoint_age": (None, c_void_p),
    "gw_endpoint_last_ns": (c_uint64, c_void_p),
    "gw_endpoint_ring_drops": (c_uint64, c_void_p),
    "gw_endpoint_ring_bytes": (c_uint64, c_void_p),
    "gw_endpoint_flows": (c_uint64, c_void_p, c_uint),
    "gw_endpoint_flows_timed_out": (c_uint64, c_void_p, c_uint),
    "gw_endpoint_flows_evicted": (c_uint64, c_void_p, c_uint),
    "gw_tunnel_counters": (POINTER(c_uint64), c_void_p, c_uint, c_uint),
    "gw_tunnel_bell": (c_int, c_void_p, c_uint, c_uint),
    "gw_tunnel_has_frames": (c_int, c_void_p, c_uint, c_uint),
    "gw_tunnel_run": (c_int, c_void_p, c_uint, c_uint, c_int),
    "gw_trace_record_size": (c_uint,),
    "gw_trace_set": (c_int, c_void_p, c_uint),
    "gw_trace_read": (c_int, c_void_p, POINTER(TraceRecord)),
    "gw_trace_lost": (c_uint64, c_void_p),
}


def set_thread_name(name: str) -> None:
    """Names the calling thread for ps, top and /proc; Linux keeps 15 bytes."""
    _libc().prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


@functools.lru_cache(maxsize=None)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (c_int, c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
    return libc


def _source_digest() -> Optional[str]:
    """What gw_build_id() of a shim built from the sources beside it would say; None where there are no sources."""
    sources = sorted([*NATIVE.glob("*.c"), *NATIVE.glob("*.h")])
    if not sources:
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class Shim:
    """The loaded shared object: its functions, and the counters it knows."""

    def __init__(self, path: Path = SHIM):
        build = f"run `make -C {NATIVE.parent}`"
        if not path.exists():
            raise StartError(f"{path} has not been built: {build}")
        try:
            self.library = ctypes.CDLL(str(path), use_errno=True)
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(self.library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            if os.statvfs(path).f_flag & os.ST_NOEXEC:
                raise StartError(f"{path} cannot be loaded, as its file system is mounted noexec: move the project to "
                                 "another one, such as /opt") from None
            raise StartError(f"{path} cannot be used ({error}): {build}") from None
        if (self.library.gw_build_id().decode() != (_source_digest() or self.library.gw_build_id().decode())
                or self.library.gw_trace_record_size() != ctypes.sizeof(TraceRecord)):
            raise StartError(f"{path} was built from other sources than are here now: {build}")
        self.counters: Tuple[str, ...] = tuple(self._strings("gw_counter_name"))
        self._layout = struct.Struct(f"{len(self.counters)}Q")
        self._row = collections.namedtuple("Counters", self.counters)
        self.no_row = self._row._make([0] * len(self.counters))
        texts = self._strings("gw_counter_text")
        self.drop_texts: Dict[str, str] = {name: text for name, text in zip(self.counters, texts)
                                           if name.startswith("drop_")}

    def _strings(self, function: str) -> List[str]:
        strings = []
        while True:
            string = getattr(self.library, function)(len(strings))
            if string is None:
                return strings
            strings.append(string.decode())

    def map_counters(self, values) -> ctypes.Array:
        """The array that a pointer to a thread's counters points to, for read_row()."""
        return ctypes.cast(values, POINTER(c_uint64 * len(self.counters))).contents

    def read_row(self, mapped: ctypes.Array):
        """A thread's counters as they are now, by name: cheaper than a dictionary, for there may be thousands of threads."""
        return self._row._make(self._layout.unpack(mapped))

    def read_counters(self, values) -> Dict[str, int]:
        return dict(zip(self.counters, values[:len(self.counters)]))


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
        """Judges datagrams by this from now on. ranges: struct gw_source_range, one after the other.

        Returns what was in force before, for retire_sources(). Raises OSError.
        """
        old = c_void_p()
        _check(self._library.gw_sources_set(self._handler, ranges.buffer_info()[0], len(ranges) // 2,
                                            interfaces.buffer_info()[0], len(interfaces), uplinks, old))
        return old.value

    def retire_sources(self, old: Optional[int]) -> None:
        """Frees it, when no receiver uses it any more."""
        self._library.gw_sources_retire(self._handler, old)

    def allow_endpoints(self, enis: Iterable[int]) -> None:
        """Refuses all other ENI IDs. To be called before a receiver runs."""
        numbers = array("Q", sorted(set(enis)))
        _check(self._library.gw_endpoints_allow(self._handler, numbers.buffer_info()[0], len(numbers)))

    def receiver_counters(self, receiver: int) -> Dict[str, int]:
        return self.shim.read_counters(self._library.gw_receiver_counters(self._handler, receiver))

    def receive(self, receiver: int, fd: int) -> None:
        """Receives until stop(). Raises OSError when the socket is of no more use."""
        status = self._library.gw_receiver_run(self._handler, receiver, fd)
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def listen(self, timeout_ms: int) -> List[int]:
        """ENI IDs without an endpoint, one for each packet that came for one. Only one thread may listen."""
        heard = self._library.gw_handler_listen(self._handler, self._announced, LISTEN_MOST, timeout_ms)
        return self._announced[:heard]

    def set_full(self, full: bool) -> None:
        """Whether there are as many endpoints as there may be, for the counters' sake."""
        self._library.gw_handler_set_full(self._handler, full)

    def limit_rings(self, size: int) -> None:
        """What the rings of all endpoints may hold together, in bytes."""
        self._library.gw_handler_limit_rings(self._handler, size)

    def endpoint(self, eni: int) -> "NativeEndpoint":
        """Makes and publishes an endpoint. Raises OSError: ENOSPC when there are too many."""
        endpoint = self._library.gw_endpoint_new(self._handler, eni)
        if not endpoint:
            raise _failure()
        return NativeEndpoint(self, endpoint)

    def trace(self, level: int) -> None:
        status = self._library.gw_trace_set(self._handler, level)
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def read_trace(self, record: TraceRecord) -> bool:
        return bool(self._library.gw_trace_read(self._handler, record))

    def trace_lost(self) -> int:
        return self._library.gw_trace_lost(self._handler)


class NativeEndpoint:
    """struct gw_endpoint. Who reads counters need not know whether it has been freed: they read as 0 then."""

    def __init__(self, handler: Handler, endpoint: int):
        self._handler = handler
        self._library = handler.shim.library
        self._endpoint: Optional[int] = endpoint
        self._lock = threading.Lock()  # held while counters are read and while they go away
        self._mapped: List[List[ctypes.Array]] = [[], []]  # the counters of each side's threads, once they are asked for

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
        """After stop(), when its T threads have ended: as before open()."""
        self._library.gw_endpoint_close(self._endpoint)

    def bell(self, side: int, thread: int) -> int:
        """The descriptor that becomes readable when that T thread is needed."""
        return self._library.gw_tunnel_bell(self._endpoint, side, thread)

    def has_frames(self, side: int, thread: int) -> bool:
        return bool(self._library.gw_tunnel_has_frames(self._endpoint, side, thread))

    def forget(self) -> None:
        """Forgets its flows, which takes a while when there are many, before free()."""
        self._library.gw_endpoint_forget(self._endpoint)

    def free(self) -> None:
        with self._lock:
            self._library.gw_endpoint_free(self._endpoint)
            self._endpoint = None

    def run(self, side: int, thread: int, fd: int) -> None:
        """Serves one queue until stop(). Raises OSError when the device is of no more use."""
        status = self._library.gw_tunnel_run(self._endpoint, side, thread, fd)
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def age(self) -> None:
        """Once a second: has sockets closed that have been idle for long."""
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

    def rows(self, side: int) -> List:
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
