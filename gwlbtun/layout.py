# SPDX-License-Identifier: MIT-0
"""What Python mirrors of the fast path's headers: constants, and the structs that both sides use.

mirrored() lists all of it. The shim checks it, when it is loaded, against what the compiler made of the headers
(native/layout.c).
"""
import ctypes
import struct
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Dict, Type

from .kernel import layout as kernel

STOPPED = 1                                                      # enum gw_status
OFFLOAD_MERGE_TCP, OFFLOAD_MERGE_UDP, OFFLOAD_UDP_GSO = 1, 2, 4  # enum gw_offload
GWI, GWO = SIDES = (0, 1)                                        # enum gw_side
TRACE_OFF, TRACE_HEADERS, TRACE_DUMP = 0, 1, 2                   # enum gw_trace_level
TRACE_IN, TRACE_OUT = 1, 2                                       # enum gw_trace_event
TRACE_DATA = 2048
SLOTS_MAX = 65_536  # endpoints of a handler
FLOW_CLASSES = 6    # enum gw_flow_class: TCP, UDP, other, of IPv4 and then of IPv6
KEY_FLOW, KEY_FRAGMENT, KEY_ICMP_ERROR = 0, 1, 2                 # enum gw_key_kind
DUMP_END = 0xFFFFFFFF

_CONSTANTS = ("STOPPED", "OFFLOAD_MERGE_TCP", "OFFLOAD_MERGE_UDP", "OFFLOAD_UDP_GSO", "GWI", "GWO", "TRACE_OFF",
              "TRACE_HEADERS", "TRACE_DUMP", "TRACE_IN", "TRACE_OUT", "TRACE_DATA", "SLOTS_MAX", "FLOW_CLASSES", "KEY_FLOW",
              "KEY_FRAGMENT", "KEY_ICMP_ERROR", "DUMP_END")


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


class FlowCount(ctypes.Structure):
    """struct gw_flow_count."""

    _fields_ = [("size", c_uint64), ("timed_out", c_uint64), ("evicted", c_uint64)]


class FlowFilter(ctypes.Structure):
    """struct gw_flow_filter."""

    _fields_ = [("eni", c_uint64), ("address", c_uint8 * 16), ("mask", c_uint8 * 16), ("port", c_uint16),
                ("family", c_uint8), ("protocol", c_uint8), ("by_eni", c_uint8), ("by_port", c_uint8),
                ("by_protocol", c_uint8), ("fragments", c_uint8)]


class FlowRecord(ctypes.Structure):
    """struct gw_flow_record. FLOW_RECORD unpacks the same fields, many times faster."""

    _fields_ = [("address", c_uint8 * 16 * 2), ("eni", c_uint64), ("attachment", c_uint64), ("ports", c_uint32),
                ("cookie", c_uint32), ("gwlb_address", c_uint32), ("own_address", c_uint32), ("idle_s", c_uint32),
                ("gwlb_port", c_uint16), ("family", c_uint8), ("protocol", c_uint8), ("kind", c_uint8),
                ("reserved", c_uint8 * 7)]


class KernelSetup(ctypes.Structure):
    """struct gw_kernel_setup."""

    _fields_ = [("endpoints", c_void_p), ("links", c_void_p), ("globals", c_void_p), ("flows_fd", c_int32),
                ("links_bell", c_int32), ("wake_ns", c_uint64), ("before", c_void_p)]


class KernelCounts(ctypes.Structure):
    """struct gw_kernel_counts."""

    _fields_ = [(name, c_uint64) for name in (
        "entries", "links", "requests", "promoted", "replaced", "stale", "full", "refused", "changed", "swept", "sweeps",
        "fences", "unfenced", "resets", "lost")]


# address 1, address 2, ENI ID, attachment, ports, cookie, GWLB address, own address, idle seconds, GWLB port, family,
# protocol, kind.
FLOW_RECORD = struct.Struct("=16s16s2Q2I4s4sIH3B7x")

_STRUCTS: Dict[str, Type[ctypes.Structure]] = {
    "gw_trace_record": TraceRecord, "gw_flow_count": FlowCount, "gw_flow_filter": FlowFilter, "gw_flow_record": FlowRecord,
    "gw_kernel_setup": KernelSetup, "gw_kernel_counts": KernelCounts, **kernel.STRUCTS}


def mirrored() -> Dict[str, int]:
    """Each constant, and each struct's size and offsets, under its name in C."""
    layout = {f"GW_{name}": globals()[name] for name in _CONSTANTS}
    layout.update(kernel.constants())
    for name, mirror in _STRUCTS.items():
        layout.update({f"{name}.{field[0]}": getattr(mirror, field[0]).offset for field in mirror._fields_})
        layout[name] = ctypes.sizeof(mirror)
    return layout
