# SPDX-License-Identifier: MIT-0
"""The shim native/gwlbtun.so: finding it, loading it, and making sure that it is the one that this Python was written for.

native/gwlbtun.h says what each function does.
"""
import collections
import contextlib
import ctypes
import functools
import hashlib
import os
import struct
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from . import StartError, image, installation
from .layout import FlowCount, FlowFilter, FlowRecord, KernelCounts, KernelSetup, TraceRecord, mirrored

NATIVE = Path(__file__).resolve().parent.parent / "native"
SHIM = NATIVE / "gwlbtun.so"
BUILD = f"run `make -C {NATIVE.parent}`"

Row = Any  # a thread's counters: a named tuple, whose fields the shim names
if TYPE_CHECKING:
    Counters = ctypes.Array[c_uint64]  # a thread's counters where the fast path keeps them

_SIGNATURES = {
    # name: result, arguments
    "gw_build_id": (c_char_p,),
    "gw_layout": (c_char_p, c_uint, POINTER(c_uint)),
    "gw_use_capabilities": (c_int, c_uint64),
    "gw_confine": (c_int, c_uint64, c_int),
    "gw_refused_call": (c_int, POINTER(c_uint32)),
    "gw_counter_name": (c_char_p, c_uint),
    "gw_counter_text": (c_char_p, c_uint),
    "gw_handler_new": (c_void_p, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_int, c_int),
    "gw_flow_layout": (c_uint64,),
    "gw_handler_pause": (None, c_void_p, c_int),
    "gw_handler_leave": (c_int, c_void_p, c_int),
    "gw_handler_take_back": (c_int, c_void_p, c_int),
    "gw_handler_forget_strays": (c_uint64, c_void_p),
    "gw_handler_free": (None, c_void_p),
    "gw_handler_stop": (None, c_void_p),
    "gw_handler_receive_only": (None, c_void_p),
    "gw_handler_limit_rings": (None, c_void_p, c_uint64),
    "gw_handler_listen": (c_uint, c_void_p, POINTER(c_uint64), c_uint, c_int),
    "gw_handler_set_full": (None, c_void_p, c_int),
    "gw_handler_expire": (c_uint64, c_void_p),
    "gw_handler_flow_entries": (c_uint64, c_void_p),
    "gw_handler_dump_flows": (c_uint, c_void_p, POINTER(FlowFilter), POINTER(c_uint32), POINTER(FlowRecord), c_uint),
    "gw_sources_set": (c_int, c_void_p, c_void_p, c_uint, c_void_p, c_uint, c_int, POINTER(c_void_p)),
    "gw_sources_retire": (None, c_void_p, c_void_p),
    "gw_endpoints_allow": (c_int, c_void_p, c_void_p, c_uint),
    "gw_receiver_counters": (POINTER(c_uint64), c_void_p, c_uint),
    "gw_receiver_stalled": (c_uint, c_void_p, c_uint, c_int),
    "gw_receiver_run": (c_int, c_void_p, c_uint, c_int),
    "gw_endpoint_new": (c_void_p, c_void_p, c_uint64),
    "gw_endpoint_adopt": (c_void_p, c_void_p, c_uint64, c_uint, c_uint64),
    "gw_endpoint_resume": (None, c_void_p, c_uint64, c_uint64, c_uint64),
    "gw_endpoint_slot": (c_uint, c_void_p),
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
    "gw_endpoint_flow_drops": (c_uint64, c_void_p),
    "gw_endpoint_arrived": (c_uint64, c_void_p, c_uint),
    "gw_endpoint_shed": (None, c_void_p, c_uint, c_int),
    "gw_endpoint_ring_bytes": (c_uint64, c_void_p),
    "gw_endpoint_count_flows": (None, c_void_p, POINTER(FlowCount)),
    "gw_tunnel_counters": (POINTER(c_uint64), c_void_p, c_uint, c_uint),
    "gw_tunnel_bell": (c_int, c_void_p, c_uint, c_uint),
    "gw_tunnel_has_frames": (c_int, c_void_p, c_uint, c_uint),
    "gw_tunnel_stalled": (c_uint, c_void_p, c_uint, c_uint, c_int, POINTER(c_int)),
    "gw_tunnel_run": (c_int, c_void_p, c_uint, c_uint, c_int),
    "gw_kernel_new": (c_void_p, c_void_p, POINTER(KernelSetup)),
    "gw_kernel_offer": (None, c_void_p, c_int),
    "gw_kernel_work": (c_int, c_void_p),
    "gw_kernel_stop": (None, c_void_p),
    "gw_kernel_leave": (None, c_void_p),
    "gw_kernel_free": (None, c_void_p),
    "gw_kernel_counted": (POINTER(KernelCounts), c_void_p),
    "gw_kernel_endpoint_on": (c_int, c_void_p, c_void_p, c_uint32, POINTER(c_int), c_uint32),
    "gw_kernel_endpoint_off": (None, c_void_p, c_void_p),
    "gw_kernel_endpoint_aside": (None, c_void_p, c_void_p, c_uint, c_int),
    "gw_kernel_sweep": (c_int, c_void_p),
    "gw_kernel_free_links": (c_uint, c_void_p, c_uint64),
    "gw_kernel_tallied": (None, c_void_p, c_uint, c_uint, c_void_p),
    "gw_trace_set": (c_int, c_void_p, c_uint),
    "gw_trace_read": (c_int, c_void_p, POINTER(TraceRecord)),
    "gw_trace_lost": (c_uint64, c_void_p),
}


_PR_SET_NAME = 15


def set_thread_name(name: str) -> None:
    """Names the calling thread for ps, top and /proc; Linux keeps 15 bytes."""
    _libc().prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def signal_thread(process: int, thread: int, number: int) -> None:
    """As tgkill(2). Raises OSError; without a libc that has it, does nothing."""
    tgkill = getattr(_libc(), "tgkill", None)  # glibc 2.30
    if tgkill and tgkill(process, thread, number):
        raise failure()


@functools.lru_cache(maxsize=None)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError):  # pthread_exit() would load it, and abort where it cannot
        ctypes.CDLL("libgcc_s.so.1")
    libc.prctl.argtypes = (c_int, c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
    return libc


def failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class Shim:
    """The loaded shared object: its functions, and the counters it knows."""

    def __init__(self, path: Path = SHIM):
        """Raises StartError when it is missing, cannot be loaded, or does not belong to this Python."""
        self.library = image.load(installation.read("gwlbtun.so")) if installation.ARCHIVE else _load(path)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        if self._layout() != mirrored():
            raise StartError(f"{path} does not match {NATIVE.parent / 'gwlbtun' / 'layout.py'}: install both from one "
                             f"version, and {BUILD}")
        self.counters: Tuple[str, ...] = tuple(self._strings("gw_counter_name"))
        self._numbers = {name: number for number, name in enumerate(self.counters)}
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

    def add_counters(self, values: Any, counts: Mapping[str, int]) -> None:
        """Adds counts to a thread's counters, by name, before the thread runs. Of times the later one stays."""
        for name, count in counts.items():
            number = self._numbers.get(name)
            if number is not None:  # a counter that another version has
                values[number] = max(values[number], int(count)) if name.endswith("_ns") else values[number] + int(count)

    def flow_layout(self) -> int:
        """What flow tables in memory files must have in common with this shim's."""
        return self.library.gw_flow_layout()

    def read_counters(self, values: Any) -> Dict[str, int]:
        return dict(zip(self.counters, values[:len(self.counters)]))


def _load(path: Path) -> ctypes.CDLL:
    """The shim of a clone, where sources may have changed since."""
    if not path.exists():
        raise StartError(f"{path} has not been built: {BUILD}")
    try:
        library = ctypes.CDLL(str(path), use_errno=True)
        library.gw_build_id.restype = c_char_p
        for name in _SIGNATURES:
            getattr(library, name)
    except (OSError, AttributeError) as error:
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            raise StartError(f"{path} cannot be loaded, as its file system is mounted noexec: move the project to "
                             "another one, such as /opt, or use the one file that `make dist` builds") from None
        raise StartError(f"{path} cannot be used ({error}): {BUILD}") from None
    if library.gw_build_id().decode() != (_source_digest() or library.gw_build_id().decode()):
        raise StartError(f"{path} was built from other sources than are here now: {BUILD}")
    return library


def _source_digest() -> Optional[str]:
    """What gw_build_id() of a shim built from the sources beside it would say; None where there are no sources."""
    sources = sorted([*NATIVE.glob("*.c"), *NATIVE.glob("*.h"), *NATIVE.glob("bpf/layout.h")])
    if not sources:
        return None
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
