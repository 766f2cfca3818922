# SPDX-License-Identifier: MIT-0
"""The programs of native/bpf/ as the compiler has made them (programs.txt), loaded into the kernel.

A line is an instruction, 8 bytes in hexadecimal digits as they lie in memory. Where the name of a map follows, the first of two
that load its descriptor. tools/bpf_programs.py writes the file.
"""
import functools
import struct
from typing import Dict, List, Mapping, NamedTuple, Tuple

from .. import installation
from . import bpf

FILE = "kernel/programs.txt"
INGRESS, EGRESS, EGRESS_PROBE = "ingress", "egress", "egress_probe"
_MAP_BY_DESCRIPTOR = 1 << 4  # BPF_PSEUDO_MAP_FD, in the source register


class Program(NamedTuple):
    """A program without descriptors."""

    instructions: bytes
    maps: Tuple[Tuple[int, str], ...]  # numbers of instructions, names of maps


def parse(file: str) -> Dict[str, Program]:
    """The programs of a file's text, by name."""
    found: Dict[str, Program] = {}
    name, code = "", b""
    maps: List[Tuple[int, str]] = []
    for line in file.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "program":
            name, code, maps = words[1], b"", []
            continue
        if words[1:]:
            maps.append((len(code) // 8, words[1]))
        code += bytes.fromhex(words[0])
        found[name] = Program(code, tuple(maps))
    return found


@functools.lru_cache(maxsize=None)
def text() -> str:
    """The file. It is read once, as another one may take its place."""
    return installation.read(FILE).decode()


@functools.lru_cache(maxsize=None)
def _programs() -> Dict[str, Program]:
    return parse(text())


def name_of(name: str) -> str:
    """What the kernel calls a program."""
    return f"gwlbtun_{name}"[:15]


def load(name: str, descriptors: Mapping[str, int]) -> int:
    """The descriptor of one of our programs, which uses those maps. Raises bpf.Refused, or OSError."""
    return load_any(_programs()[name], name, descriptors)


def load_any(program: Program, name: str, descriptors: Mapping[str, int]) -> int:
    """The same for a program from parse()."""
    code = bytearray(program.instructions)
    for number, of in program.maps:
        code[8 * number + 1] = code[8 * number + 1] & 0x0F | _MAP_BY_DESCRIPTOR
        struct.pack_into("=i", code, 8 * number + 4, descriptors[of])
    return bpf.program_load(bytes(code), name_of(name))
