# SPDX-License-Identifier: MIT-0
"""The C programs of the bench: how they are compiled, and the one that is neither handler nor generator."""
import json
import os
from typing import Dict

from processes import BUILD, NICE, ROOT, run

FLAGS = ["-O3", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-pthread",
         '-DGW_BUILD_ID="bench"']

# By program, its sources. A program that needs parts of the shim gets all of it.
SOURCES = {
    "generator": ["bench/generator/*.c", "bench/failure.c"],
    "baseline": ["bench/baseline.c", "bench/devices.c", "bench/failure.c"],
    "floor": ["bench/floor.c", "bench/devices.c", "bench/failure.c", "native/*.c"],
    "remainder": ["bench/remainder.c", "bench/failure.c"],
    "expiry": ["bench/expiry.c", "native/*.c"],
}


def build() -> None:
    """Compiles them into build/."""
    BUILD.mkdir(exist_ok=True)
    for name, patterns in SOURCES.items():
        sources = [str(path) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        run(os.environ.get("CC", "cc"), *FLAGS, "-o", str(BUILD / f"bench-{name}"), *sources)


def build_path_floor() -> str:
    """Compiles what path_floor.py loads. Returns its path."""
    run("make", "-s", "-C", str(ROOT), "path-floor")
    return str(BUILD / "bpf" / "path_floor.txt")


def expiry(flows: int, rounds: int, core: int, other_core: int) -> Dict:
    """Returns what expiry.c prints."""
    command = str(BUILD / "bench-expiry"), str(flows), str(rounds), str(core), str(other_core)
    return json.loads(run("nice", "-n", str(NICE), *command))
