#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Builds gwlbtun as one file: onefile_head.py, and behind it an archive of the package and the shim.

The same sources and the same shim give the same bytes, wherever they are and whenever they are put together.

Usage: tools/onefile.py SHIM TARGET
"""
import base64
import io
import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
HEAD = Path(__file__).resolve().parent / "onefile_head.py"
MARK = b"# ---- The archive\n"
LINE = 120  # characters


def package_files(root: Path) -> Dict[str, Path]:
    """What belongs to the package, by its name in the archive: all but what Python and editors leave there."""
    files = {path.relative_to(root).as_posix(): path for path in (root / "gwlbtun").rglob("*") if path.is_file()}
    return {name: path for name, path in files.items()
            if not any(part.startswith((".", "__pycache__")) or part.endswith(("~", ".pyc")) for part in name.split("/"))}


def pack(files: Dict[str, Path]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def main(arguments: List[str]) -> int:
    if len(arguments) != 2:
        print("usage: tools/onefile.py SHIM TARGET", file=sys.stderr)
        return 2
    shim, target = map(Path, arguments)
    packed = pack({**package_files(ROOT), "gwlbtun/gwlbtun.so": shim})
    text = base64.b64encode(packed)
    lines = [b"#" + text[begin:begin + LINE] + b"\n" for begin in range(0, len(text), LINE)]
    target.parent.mkdir(exist_ok=True)
    beside = target.with_name(target.name + ".new")
    beside.write_bytes(HEAD.read_bytes() + b"\n# CRC-32 of it: %08x\n" % zlib.crc32(packed) + MARK + b"".join(lines))
    beside.chmod(0o755)
    os.replace(beside, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
