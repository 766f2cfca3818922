# SPDX-License-Identifier: MIT-0
"""The C programs of tests/native, built as tests/native/Makefile says."""
import functools
import re
import subprocess
from pathlib import Path
from typing import List

from onefile import ROOT, building

NATIVE = ROOT / "tests" / "native"
CORPUS = NATIVE / "corpus"

HARNESSES = sorted(path.stem[len("fuzz_"):] for path in NATIVE.glob("fuzz_*.c") if path.stem != "fuzz_main")


@functools.lru_cache(maxsize=None)
def sanitized(sanitizer: str, name: str) -> Path:
    """The program, built with a sanitizer that ends it at its first finding."""
    directory = ROOT / "build" / "programs" / sanitizer
    with building("programs"):
        subprocess.run(["make", "-s", "-j2", "-C", NATIVE, f"OUT={directory}", "CC=gcc",
                        f"CFLAGS=-O1 -g -fsanitize={sanitizer} -fno-sanitize-recover=all", name], check=True, timeout=300)
    return directory / name


def run(command: List[object]) -> str:
    """What it prints; it must not fail."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def fuzz(name: str, runs: int) -> int:
    """Runs a harness on its corpus, and on that many inputs made of it; how many passed the checks of what it tests."""
    output = run([sanitized("address,undefined", f"fuzz_{name}"), CORPUS / name, f"-runs={runs}"])
    return int(re.search(r"^passed: (\d+)", output, re.MULTILINE).group(1))
