# SPDX-License-Identifier: MIT-0
"""The shim native/gwlbtun.so: finding it, loading it, and making sure that it is the one that this Python was written for.

native/gwlbtun.h says what each function does.
"""
import collections
import ctypes
import hashlib
import os
import struct
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import StartError
from .layout import TraceRecord, mirrored

NATIVE = Path(__file__).resolve().parent.parent / "native"
SHIM = NATIVE / "gwlbtun.so"

Row = Any  # a thread's counters: a named tuple, whose fields the shim names
if TYPE_CHECKING:
    Counters = ctypes.Array[c_uint64]  # a thread's counters where the fast path keeps them

_SIGNATURES = {
    # name: result, arguments
    "gw_build_id": (c_char_p,),
    "gw_layout": (c_char_p, c_uint, POINTER(c_uint)),
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
    "gw_trace_set": (c_int, c_void_p, c_uint),
    "gw_trace_read": (c_int, c_void_p, POINTER(TraceRecord)),
    "gw_trace_lost": (c_uint64, c_void_p),
}


class Shim:
    """The loaded shared object: its functions, and the counters it knows."""

    def __init__(self, path: Path = SHIM):
        """Raises StartError when it is missing, cannot be loaded, or does not belong to this Python."""
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
        if self.library.gw_build_id().decode() != (_source_digest() or self.library.gw_build_id().decode()):
            raise StartError(f"{path} was built from other sources than are here now: {build}")
        if self._layout() != mirrored():
            raise StartError(f"{path} does not match {NATIVE.parent / 'gwlbtun' / 'layout.py'}: install both from one "
                             f"version, and {build}")
        self.counters: Tuple[str, ...] = tuple(self._strings("gw_counter_name"))
        self._packed = struct.Struct(f"{len(self.counters)}Q")
        namedtuple: Any = collections.namedtuple  # type checkers want literal names, but the shim has these
        self._make_row: Callable[[Iterable[int]], Row] = namedtuple("Counters", self.counters)._make
        self.no_row = self._make_row([0] * len(self.counters))
        texts = self._strings("gw_counter_text")
        self.drop_texts: Dict[str, str] = {name: text for name, text in zip(self.counters, texts)
                                           if name.startswith("drop_")}

    def _layout(self) -> Dict[str, int]:
        """What the compiler made of the headers, as mirrored() lists it."""
        layout: Dict[str, int] = {}
        value = c_uint()
        while True:
            name = self.library.gw_layout(len(layout), value)
            if name is None:
                return layout
            layout[name.decode()] = value.value

    def _strings(self, function: str) -> List[str]:
        strings: List[str] = []
        while True:
            string = getattr(self.library, function)(len(strings))
            if string is None:
                return strings
            strings.append(string.decode())

    def map_counters(self, values: Any) -> "Counters":
        """The array that a pointer to a thread's counters points to, for read_row()."""
        return ctypes.cast(values, POINTER(c_uint64 * len(self.counters))).contents

    def read_row(self, mapped: "Counters") -> Row:
        """A thread's counters as they are now, by name. Cheaper than a dictionary: there may be thousands of threads."""
        return self._make_row(self._packed.unpack(mapped))

    def read_counters(self, values: Any) -> Dict[str, int]:
        return dict(zip(self.counters, values[:len(self.counters)]))


def _source_digest() -> Optional[str]:
    """What gw_build_id() of a shim built from the sources beside it would say; None where there are no sources."""
    sources = sorted([*NATIVE.glob("*.c"), *NATIVE.glob("*.h")])
    if not sources:
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
