# SPDX-License-Identifier: MIT-0
"""The command as a person or a unit file calls it."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "gwlbtun.py"


def run(*arguments, program=PROGRAM, prefix=(), **options):
    return subprocess.run([*prefix, sys.executable, str(program), *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False,
                          universal_newlines=True, **options)


def refused(done, *parts):
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def copy(tmp_path):
    """The program as if installed elsewhere, with its shim."""
    for name in "gwlbtun", "native":
        shutil.copytree(PROGRAM.parent / name, tmp_path / "there" / name)
    return Path(shutil.copy(PROGRAM, tmp_path / "there"))
