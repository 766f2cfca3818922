# SPDX-License-Identifier: MIT-0
"""What Python mirrors of native/bpf/layout.h. The shim checks it when it is loaded, with all else that gwlbtun.layout lists."""
import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from typing import Dict, Type

HEADER, OUTER = 40, 68
LINKS, RECEIVERS = 1024, 256
WAY_IN, WAY_OUT = 0, 1
DETOUR_NS = 100_000_000
IN_TOTAL, IN_CARRIED, IN_UP, IN_MALFORMED, IN_OTHER = 0, 1, 2, 3, 4  # enum gw_kernel_reason
OUT_TOTAL, OUT_CARRIED, OUT_UP, OUT_NO_FLOW, OUT_NO_LINK = 5, 6, 7, 8, 9
CHANGES, DETOURS, IN_LOST, OUT_LOST, REASONS = 10, 11, 12, 13, 16

_CONSTANTS = ("HEADER", "OUTER", "LINKS", "RECEIVERS", "WAY_IN", "WAY_OUT", "DETOUR_NS", "IN_TOTAL", "IN_CARRIED", "IN_UP",
              "IN_MALFORMED", "IN_OTHER", "OUT_TOTAL", "OUT_CARRIED", "OUT_UP", "OUT_NO_FLOW", "OUT_NO_LINK", "CHANGES",
              "DETOURS", "IN_LOST", "OUT_LOST", "REASONS")


class Key(ctypes.Structure):
    """struct gw_kernel_key: the words of a flow key."""

    _fields_ = [("word", c_uint64 * 5)]


class Way(ctypes.Structure):
    """struct gw_kernel_way."""

    _fields_ = [("up_ns", c_uint64), ("left_ns", c_uint64), ("kernel", c_uint32), ("reserved", c_uint32)]


class Flow(ctypes.Structure):
    """struct gw_kernel_flow."""

    _fields_ = [("gwlb_address", c_uint32), ("own_address", c_uint32), ("gwlb_port", c_uint16), ("link", c_uint16),
                ("life", c_uint32), ("receiver", c_uint32), ("seen_s", c_uint32), ("header", c_uint8 * HEADER),
                ("way", Way * 2)]


class Endpoint(ctypes.Structure):
    """struct gw_kernel_endpoint."""

    _fields_ = [("eni", c_uint64), ("gwi", c_uint32), ("life", c_uint32), ("on", c_uint32), ("aside", c_uint32 * 2),
                ("wanted", c_uint32), ("changing", c_uint32), ("reserved", c_uint32)]


class Link(ctypes.Structure):
    """struct gw_kernel_link."""

    _fields_ = [("gwlb_address", c_uint32), ("own_address", c_uint32), ("ifindex", c_uint32), ("mtu", c_uint32),
                ("valid", c_uint32), ("ethernet", c_uint8 * 14), ("reserved", c_uint8 * 6)]


class Globals(ctypes.Structure):
    """struct gw_kernel_globals."""

    _fields_ = [("now_s", c_uint32), ("on", c_uint32), ("done_out_ns", c_uint64), ("done_in_ns", c_uint64 * RECEIVERS),
                ("cpus", c_uint32), ("reserved", c_uint32), ("lease_ns", c_uint64)]


class Tally(ctypes.Structure):
    """struct gw_kernel_tally."""

    _fields_ = [("in_packets", c_uint64), ("in_bytes", c_uint64), ("out_packets", c_uint64 * 2), ("out_bytes", c_uint64 * 2),
                ("in_s", c_uint32), ("out_s", c_uint32 * 2), ("reserved", c_uint32)]


class Reasons(ctypes.Structure):
    """struct gw_kernel_reasons."""

    _fields_ = [("count", c_uint64 * REASONS)]


STRUCTS: Dict[str, Type[ctypes.Structure]] = {
    "gw_kernel_key": Key, "gw_kernel_way": Way, "gw_kernel_flow": Flow, "gw_kernel_endpoint": Endpoint,
    "gw_kernel_link": Link, "gw_kernel_globals": Globals, "gw_kernel_tally": Tally, "gw_kernel_reasons": Reasons}


def constants() -> Dict[str, int]:
    """Under their names in C."""
    return {f"GW_KERNEL_{name}": globals()[name] for name in _CONSTANTS}
