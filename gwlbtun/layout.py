# SPDX-License-Identifier: MIT-0
"""What Python mirrors of the fast path's headers: constants, and the structs that both sides use.

mirrored() lists all of it. The shim checks it, when it is loaded, against what the compiler made of the headers
(native/layout.c).
"""
import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from typing import Dict

STOPPED = 1                                                      # enum gw_status
OFFLOAD_MERGE_TCP, OFFLOAD_MERGE_UDP, OFFLOAD_UDP_GSO = 1, 2, 4  # enum gw_offload
GWI, GWO = SIDES = (0, 1)                                        # enum gw_side
TRACE_OFF, TRACE_HEADERS, TRACE_DUMP = 0, 1, 2                   # enum gw_trace_level
TRACE_IN, TRACE_OUT = 1, 2                                       # enum gw_trace_event
TRACE_DATA = 2048
SLOTS_MAX = 65_536  # endpoints of a handler

_CONSTANTS = ("STOPPED", "OFFLOAD_MERGE_TCP", "OFFLOAD_MERGE_UDP", "OFFLOAD_UDP_GSO", "GWI", "GWO", "TRACE_OFF",
              "TRACE_HEADERS", "TRACE_DUMP", "TRACE_IN", "TRACE_OUT", "TRACE_DATA", "SLOTS_MAX")


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


def mirrored() -> Dict[str, int]:
    """Each constant, and each struct's size and offsets, under its name in C."""
    return {**{f"GW_{name}": globals()[name] for name in _CONSTANTS},
            **{f"gw_trace_record.{name}": getattr(TraceRecord, name).offset for name, *_ in TraceRecord._fields_},
            "gw_trace_record": ctypes.sizeof(TraceRecord)}
