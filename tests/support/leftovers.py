# SPDX-License-Identifier: MIT-0
"""No module of tests may leave processes, network namespaces or interfaces behind. Temporary files are pytest's to remove."""
import os
import time
from pathlib import Path
from typing import Set

import pytest

import netns

MARK = "GWLBTUN_TESTS"  # what every process that a test starts has in its environment, unless it clears that
PATIENCE_S = float(os.environ.get(f"{MARK}_PATIENCE_S", 60))  # for what is about to end


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left():
    """Is there before all fixtures of the module, and so is undone after them."""
    mine = str(os.getpid())
    os.environ[MARK] = mine
    before = _all(mine)
    yield
    end = time.monotonic() + PATIENCE_S
    while True:
        left = _all(mine) - before
        if not left or time.monotonic() > end:
            break
        time.sleep(0.02)
    assert not left, f"the tests of this module have left behind: {', '.join(sorted(left))}"


def _all(mine: str) -> Set[str]:
    return _processes(mine) | _namespaces(mine) | {f"interface {name}" for name in os.listdir("/sys/class/net")}


def _processes(mine: str) -> Set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            if f"{MARK}={mine}".encode() in environment and path.name != mine:
                words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found.add(f"process {path.name} {' '.join(words)}")
        except OSError:  # it has ended, or is another's
            pass
    return found


def _namespaces(mine: str) -> Set[str]:
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    return {f"namespace {name}" for name in names if name.startswith(f"{netns.PREFIX}-{mine}-")}
