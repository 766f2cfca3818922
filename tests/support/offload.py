# SPDX-License-Identifier: MIT-0
"""The rooms that merge and split (native/checksum.c, merge.c, split.c, and packet.c below them), to be called from Python."""
import ctypes
import functools
import itertools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import pytest

TESTS = Path(__file__).resolve().parent.parent
ROOMS = [TESTS.parent / "native" / name for name in ("checksum.c", "merge.c", "packet.c", "split.c")]
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]


class VnetHeader(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint8), ("gso_type", ctypes.c_uint8), ("hdr_len", ctypes.c_uint16),
                ("gso_size", ctypes.c_uint16), ("csum_start", ctypes.c_uint16), ("csum_offset", ctypes.c_uint16)]


class Packet(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("len", ctypes.c_uint32), ("fragment_id", ctypes.c_uint32),
                ("l4_offset", ctypes.c_uint16), ("payload_offset", ctypes.c_uint16), ("family", ctypes.c_uint8),
                ("protocol", ctypes.c_uint8), ("fragment", ctypes.c_bool), ("later_fragment", ctypes.c_bool),
                ("mergeable", ctypes.c_bool)]

    def found(self) -> Dict[str, int]:
        """All that is known of it, wherever it lies."""
        return {name: getattr(self, name) for name, _ in self._fields_ if name != "data"}


class Segment(ctypes.Structure):
    _fields_ = [("packet", ctypes.POINTER(Packet)), ("mergeable", ctypes.c_bool), ("verified", ctypes.c_bool)]


class Merge(ctypes.Structure):
    _fields_ = [("segment", ctypes.POINTER(Segment) * 64), ("count", ctypes.c_uint), ("length", ctypes.c_uint32),
                ("ended", ctypes.c_bool)]


class Split(ctypes.Structure):
    _fields_ = [("packet", ctypes.c_void_p), ("len", ctypes.c_uint32), ("count", ctypes.c_uint32),
                ("header_len", ctypes.c_uint16), ("l4_offset", ctypes.c_uint16), ("gso_size", ctypes.c_uint16),
                ("family", ctypes.c_uint8), ("protocol", ctypes.c_uint8), ("ip_sum", ctypes.c_uint16),
                ("l4_sum", ctypes.c_uint16)]


MIRRORS = {"gw_vnet_header": VnetHeader, "gw_packet": Packet, "gw_segment": Segment, "gw_merge": Merge, "gw_split": Split}


class Extent(ctypes.Structure):
    """struct extent of native/layouts.c."""

    _fields_ = [("name", ctypes.c_char_p), ("offset", ctypes.c_size_t), ("size", ctypes.c_size_t)]


class Super(NamedTuple):
    """A run as it was written: count packets in data, behind vnet."""

    vnet: VnetHeader
    data: bytes
    count: int


class Offload:
    """native/checksum.c, merge.c, split.c and packet.c, taking and giving bytes."""

    def __init__(self, path: Path):
        self.library = library = ctypes.CDLL(str(path))
        library.layout.argtypes = ctypes.c_uint,
        library.layout.restype = ctypes.POINTER(Extent)
        assert self.layouts() == mirrored(), "the structures here are not those of native/"
        library.gw_packet_parse.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.POINTER(Packet)
        library.gw_packet_follows.argtypes = (ctypes.POINTER(Packet), ctypes.c_void_p, ctypes.c_size_t,
                                              ctypes.POINTER(Packet))
        library.gw_packet_follows.restype = ctypes.c_bool
        library.gw_sum.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        library.gw_sum.restype = ctypes.c_uint64
        library.gw_sum_copy.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        library.gw_sum_copy.restype = ctypes.c_uint64
        library.gw_fold.argtypes = ctypes.c_uint64,
        library.gw_fold.restype = ctypes.c_uint16
        library.gw_pseudo_sum.argtypes = ctypes.c_char_p, ctypes.c_uint8, ctypes.c_uint32
        library.gw_pseudo_sum.restype = ctypes.c_uint64
        library.gw_merge_start.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(Segment)
        library.gw_merge_start.restype = None
        library.gw_merge_join.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(Segment)
        library.gw_merge_join.restype = ctypes.c_bool
        library.gw_merge_write.argtypes = ctypes.POINTER(Merge), ctypes.POINTER(VnetHeader), ctypes.c_void_p
        library.gw_merge_write.restype = None
        library.gw_split_begin.argtypes = (ctypes.POINTER(Split), ctypes.POINTER(VnetHeader), ctypes.POINTER(Packet),
                                           ctypes.c_void_p)
        library.gw_split_write.argtypes = ctypes.POINTER(Split), ctypes.c_uint, ctypes.c_void_p
        library.gw_split_write.restype = None
        library.gw_split_segment.argtypes = (ctypes.POINTER(Split), ctypes.c_uint, ctypes.c_void_p,
                                             ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint32))
        library.gw_split_segment.restype = None

    def layouts(self) -> Dict[str, Tuple[int, int]]:
        """Offset and size of each structure and each of its fields, as the compiler has them."""
        found = {}
        for i in itertools.count():
            extent = self.library.layout(i)
            if not extent:
                return found
            found[extent[0].name.decode()] = extent[0].offset, extent[0].size

    def checksum(self, *parts: bytes) -> int:
        """The Internet checksum, taken part by part."""
        total = 0
        for part in parts:
            total = self.library.gw_sum(part, len(part), total)
        return int.from_bytes(struct.pack("=H", self.library.gw_fold(total) ^ 0xFFFF), "big")

    def parse(self, memory: ctypes.Array, length: int) -> Packet:
        """The packet in memory; where IP does not give it that length, one of which nothing is known."""
        packet, version = Packet(), memory.raw[0] >> 4
        if version in (4, 6) and not self.library.gw_packet_parse(memory, length, version, packet) and packet.len == length:
            return packet
        return Packet(data=ctypes.addressof(memory), len=length)

    def inspect(self, packet: bytes) -> Tuple[Segment, object]:
        """The segment, and what it points to."""
        memory = in_memory(packet)
        parsed = self.parse(memory, len(packet))
        return Segment(ctypes.pointer(parsed), parsed.mergeable), (parsed, memory)

    def merge(self, stream: List[bytes]) -> List[Super]:
        """As a receiver does with the packets of one flow."""
        inspected = [self.inspect(packet) for packet in stream]
        merge, runs, done = Merge(), [], 0
        while done < len(inspected):
            self.library.gw_merge_start(merge, inspected[done][0])
            for segment, _ in inspected[done + 1:]:
                if not self.library.gw_merge_join(merge, segment):
                    break
            runs.append(self.write(merge))
            done += runs[-1].count
        return runs

    def write(self, merge: Merge) -> Super:
        """As many packets of the run as can be one."""
        vnet, guard, room = VnetHeader(), b"\xa5" * 16, merge.length
        out = ctypes.create_string_buffer(b"\x5a" * room + guard, room + len(guard))
        self.library.gw_merge_write(merge, vnet, out)
        assert out.raw[room:] == guard and merge.length <= room
        return Super(vnet, out.raw[:merge.length], merge.count)

    def split(self, vnet: VnetHeader, data: bytes) -> Optional[List[bytes]]:
        """The packets of a super-packet; None where it is refused."""
        memory = in_memory(data)
        packet = self.parse(memory, len(data))
        split, payload, size = Split(), ctypes.c_void_p(), ctypes.c_uint32()
        count = self.library.gw_split_begin(split, vnet, packet, memory)
        if count < 0:
            return None
        assert count == split.count >= 1
        made = []
        for i in range(count):
            header = ctypes.create_string_buffer(b"\xa5" * (split.header_len + 1), split.header_len + 1)
            self.library.gw_split_segment(split, i, header, payload, size)
            assert header.raw[split.header_len:] == b"\xa5"
            made.append(header.raw[:split.header_len] + ctypes.string_at(payload.value, size.value))
            whole = ctypes.create_string_buffer(b"\xa5" * (len(made[-1]) + 1), len(made[-1]) + 1)
            self.library.gw_split_write(split, i, whole)
            assert whole.raw == made[-1] + b"\xa5"
        return made


def mirrored() -> Dict[str, Tuple[int, int]]:
    """What layouts() must be for the structures here to be right."""
    made = {name: (0, ctypes.sizeof(mirror)) for name, mirror in MIRRORS.items()}
    for name, mirror in MIRRORS.items():
        for field, _ in mirror._fields_:
            made[f"{name}.{field}"] = getattr(mirror, field).offset, getattr(mirror, field).size
    return made


def in_memory(data: bytes) -> ctypes.Array:
    return (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")


def compile_rooms(target: Path, *options: object) -> None:
    """Compiles the rooms under test, and what is among the options."""
    subprocess.run(["gcc", "-std=gnu11", *STRICT, "-o", target, *options, *ROOMS], check=True)


@functools.lru_cache(maxsize=None)
def load() -> Offload:
    with tempfile.TemporaryDirectory() as directory:
        shared_object = Path(directory) / "offload.so"
        compile_rooms(shared_object, "-O3", "-fPIC", "-shared", TESTS / "native" / "layouts.c")
        return Offload(shared_object)


@pytest.fixture(name="offload", scope="module")
def offload_fixture() -> Offload:
    return load()
