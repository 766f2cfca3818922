# SPDX-License-Identifier: MIT-0
"""The committed programs: how they read. `make lint-bpf` proves that they are what clang makes of native/bpf/."""
import subprocess
import sys
from pathlib import Path

from gwlbtun import installation
from gwlbtun.kernel import programs

ROOT = Path(__file__).resolve().parents[2]


def test_lines_are_instructions():
    found = programs.parse("# said\n\nprogram one\n1811000000000000 flows\n0000000000000000\n\nprogram two\n9500000000000000\n")
    assert found == {"one": programs.Program(bytes.fromhex("1811") + bytes(14), ((0, "flows"),)),
                     "two": programs.Program(bytes.fromhex("95") + bytes(7), ())}


def test_all_programs_are_there():
    found = programs.parse(installation.read(programs.FILE).decode())
    assert list(found) == [programs.INGRESS, programs.EGRESS, programs.EGRESS_PROBE]
    maps = {"flows", "enis", "interfaces", "endpoints", "links", "globals", "tallies", "reasons"}
    for program in found.values():
        assert {name for _, name in program.maps} < maps
        assert len(program.instructions) // 8 < 4096


def test_what_is_no_object_is_refused(tmp_path):
    (tmp_path / "other").write_bytes(b"\x7fELF" + bytes(100))
    done = subprocess.run([sys.executable, ROOT / "tools" / "bpf_programs.py", f"one={tmp_path / 'other'}"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("not a little-endian object for BPF\n")
