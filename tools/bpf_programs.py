#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Writes what clang has made of the programs in native/bpf/ as text: gwlbtun/kernel/programs.py says how it reads.

A program is a section of code in an object. Its relocations tell the places where it loads descriptors of maps.

Usage: tools/bpf_programs.py NAME=OBJECT... >programs.txt
"""
import struct
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

HEAD = """\
# The programs of native/bpf/, as `make bpf` has them compiled: an instruction a line, and the map whose descriptor it loads.
"""

# <elf.h>, and the relocation that clang emits for the address of a map
_FILE = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_EM_BPF, _SHT_REL, _SHF_EXECINSTR, _R_BPF_64_64 = 247, 9, 4, 1
_LOAD_IMMEDIATE = 0x18


class Section(NamedTuple):
    """A section of an object."""

    name: str
    kind: int
    flags: int
    link: int
    info: int
    data: bytes


def _text(table: bytes, at: int) -> str:
    return table[at:table.index(b"\0", at)].decode()


def sections(data: bytes) -> List[Section]:
    """The sections of a 64-bit object for BPF. Raises ValueError."""
    ident, _, machine, _, _, _, place, _, _, _, _, size, count, names = _FILE.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01" or machine != _EM_BPF or size != _SECTION.size:
        raise ValueError("not a little-endian object for BPF")
    rows = [_SECTION.unpack_from(data, place + number * size) for number in range(count)]
    contents = [data[row[4]:row[4] + row[5]] for row in rows]
    return [Section(_text(contents[names], row[0]), row[1], row[2], row[6], row[7], content)
            for row, content in zip(rows, contents)]


def maps_of(found: List[Section], code: int) -> Dict[int, str]:
    """By the number of the instruction in a section of code, the map that it loads. Raises ValueError."""
    places: Dict[int, str] = {}
    for relocations in (section for section in found if section.kind == _SHT_REL and section.info == code):
        symbols = found[relocations.link]
        for at, info in _RELOCATION.iter_unpack(relocations.data):
            name = _text(found[symbols.link].data, _SYMBOL.unpack_from(symbols.data, (info >> 32) * _SYMBOL.size)[0])
            if info & 0xFFFFFFFF != _R_BPF_64_64 or at % 8 or found[code].data[at] != _LOAD_IMMEDIATE or not name:
                raise ValueError(f"a relocation at {at:#x} that is not for the descriptor of a map")
            places[at // 8] = name
    return places


def lines(name: str, data: bytes) -> Iterator[str]:
    """The program in an object. Raises ValueError."""
    found = sections(data)
    codes = [number for number, section in enumerate(found) if section.flags & _SHF_EXECINSTR and section.data]
    if len(codes) != 1:
        raise ValueError(f"{len(codes)} sections of code; a program has one")
    places = maps_of(found, codes[0])
    yield f"\nprogram {name}\n"
    for number, at in enumerate(range(0, len(found[codes[0]].data), 8)):
        yield " ".join(filter(None, (found[codes[0]].data[at:at + 8].hex(), places.get(number, "")))) + "\n"


def main(arguments: List[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    text = HEAD
    for argument in arguments:
        name, _, path = argument.partition("=")
        try:
            text += "".join(lines(name, Path(path).read_bytes()))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
