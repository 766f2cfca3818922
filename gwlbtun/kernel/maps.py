# SPDX-License-Identifier: MIT-0
"""The maps of native/bpf/layout.h, and their arrays as memory that programs, C and Python share.

Nothing here takes a lock. Each field has one writer, which layout.h names.
"""
import ctypes
import errno
import mmap
import os
from typing import AbstractSet, Any, Dict, Iterator, Mapping, Optional, Type, TypeVar

from . import bpf, layout

_POSSIBLE = "/sys/devices/system/cpu/possible"
_Struct = TypeVar("_Struct", bound=ctypes.Structure)


def possible_cpus() -> int:
    """How many CPUs the kernel may ever number. Raises OSError."""
    with open(_POSSIBLE, encoding="ascii") as file:
        return int(file.read().strip().replace(",", "-").split("-")[-1]) + 1


class Maps:
    """All maps. The arrays are at hand as ctypes arrays: endpoints[slot], links[number], tallies[slot * cpus + cpu],
    reasons[cpu]; globals is one struct."""

    def __init__(self, flows: int, slots: int, given: Optional[Mapping[str, int]] = None):
        """flows: the most flows; slots: the most endpoints. given: descriptors of maps that another program has made like that.

        Raises OSError, and those that were given stay open then.
        """
        self.cpus = possible_cpus()
        self.slots = slots
        self._given = given
        self.fd: Dict[str, int] = {}  # by the names that the programs use
        try:
            self._add_hash("flows", layout.Key, ctypes.sizeof(layout.Flow), flows)
            self._add_hash("enis", ctypes.c_uint64, 4, slots)
            self._add_hash("interfaces", ctypes.c_uint32, 4, 2 * slots)
            self.endpoints = self._add_array("endpoints", layout.Endpoint, slots)
            self.links = self._add_array("links", layout.Link, layout.LINKS)
            self.tallies = self._add_array("tallies", layout.Tally, slots * self.cpus)
            self.reasons = self._add_array("reasons", layout.Reasons, self.cpus)
            self.globals: layout.Globals = self._add_array("globals", layout.Globals, 1)[0]
        except OSError:
            if not given:
                self.close()
            raise
        self.globals.cpus = self.cpus

    def _add_hash(self, name: str, key: Any, value: int, entries: int) -> None:
        self._open(name, bpf.Shape(bpf.HASH, ctypes.sizeof(key), value, entries, f"gwlbtun_{name}"[:15]), bpf.NO_PREALLOC)

    def _add_array(self, name: str, struct: Type[_Struct], entries: int) -> Any:
        size = ctypes.sizeof(struct)
        assert size % 8 == 0  # so the kernel leaves no gaps
        self._open(name, bpf.Shape(bpf.ARRAY, 4, size, entries, f"gwlbtun_{name}"[:15]), bpf.MMAPABLE)
        length = size * entries
        memory = mmap.mmap(self.fd[name], length + -length % mmap.PAGESIZE, mmap.MAP_SHARED)
        return (struct * entries).from_buffer(memory)  # which keeps the memory mapped

    def _open(self, name: str, shape: bpf.Shape, flags: int) -> None:
        if not self._given:
            self.fd[name] = bpf.map_create(*shape[:4], flags, shape.name)
            return
        self.fd[name] = self._given.get(name, -1)
        if bpf.map_shape(self.fd[name]) != shape:
            raise OSError(errno.EINVAL, f"the map {name} is another one")

    # ---- Endpoints

    def set_eni(self, eni: int, slot: int) -> None:
        """From now on packets of the ENI ID belong to the slot. Raises OSError."""
        bpf.map_update(self.fd["enis"], eni.to_bytes(8, "big"), slot.to_bytes(4, "little"))

    def forget_eni(self, eni: int) -> None:
        """Raises OSError."""
        bpf.map_delete(self.fd["enis"], eni.to_bytes(8, "big"))

    def set_interface(self, index: int, slot: int, side: int) -> None:
        """Says whose an interface is; side: layout.GWI or GWO of the package. Raises OSError."""
        bpf.map_update(self.fd["interfaces"], index.to_bytes(4, "little"), (slot << 1 | side).to_bytes(4, "little"))

    def forget_interface(self, index: int) -> None:
        """Raises OSError."""
        bpf.map_delete(self.fd["interfaces"], index.to_bytes(4, "little"))

    def keep(self, enis: AbstractSet[int], indices: AbstractSet[int]) -> None:
        """Forgets all other ENI IDs and interfaces. Raises OSError."""
        for key in list(bpf.map_keys(self.fd["enis"], 8)):
            if int.from_bytes(key, "big") not in enis:
                bpf.map_delete(self.fd["enis"], key)
        for key in list(bpf.map_keys(self.fd["interfaces"], 4)):
            if int.from_bytes(key, "little") not in indices:
                bpf.map_delete(self.fd["interfaces"], key)

    # ---- Flows

    def flow(self, key: bytes) -> Optional[layout.Flow]:
        """What the map holds for the words of a flow key, as a copy. Raises OSError."""
        value = bpf.map_lookup(self.fd["flows"], key, ctypes.sizeof(layout.Flow))
        return layout.Flow.from_buffer_copy(value) if value is not None else None

    def set_flow(self, key: bytes, flow: layout.Flow) -> None:
        """Raises OSError."""
        bpf.map_update(self.fd["flows"], key, bytes(flow))

    def forget_flow(self, key: bytes) -> bool:
        """Whether it was there. Raises OSError."""
        return bpf.map_delete(self.fd["flows"], key)

    def flow_keys(self) -> Iterator[bytes]:
        """Raises OSError."""
        return bpf.map_keys(self.fd["flows"], ctypes.sizeof(layout.Key))

    # ---- The whole

    def close(self) -> None:
        """Closes the descriptors. Programs keep the maps that they use, and arrays stay mapped while they are referred to."""
        while self.fd:
            os.close(self.fd.popitem()[1])
