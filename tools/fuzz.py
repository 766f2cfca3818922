#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Runs the fuzzers of tests/native, and says how much they have tried and reached.

Where clang has libFuzzer, that drives them, and learns which inputs reach new code; elsewhere tests/native/fuzz_main.c
changes the corpus at random. What was learned is kept in build/fuzz, for the next run to go on from. An input that fails is
kept there too, and named.

Usage: tools/fuzz.py SECONDS [NAME...]    NAME: geneve, keys ...; all of them share the time
"""
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "native"
CORPUS = PROGRAMS / "corpus"
BUILD = ROOT / "build" / "fuzz"

# By harness, the files of native/ that it is about.
ROOMS = {"flow_memory": ["flow_audit.c", "flow_memory.c", "flow_table.c", "flow.c"], "geneve": ["geneve.c"],
         "keys": ["packet.c"], "leftover": ["leftover.c"], "merge": ["merge.c", "checksum.c"],
         "split": ["split.c", "checksum.c"]}
CHECKS = "-O1 -g -fno-sanitize-recover=all -fsanitize=address,undefined"


def make(directory: Path, names: List[str], *settings: str) -> None:
    subprocess.run(["make", "-s", "-j2", "-C", str(PROGRAMS), f"OUT={directory}", *settings,
                    *(f"fuzz_{name}" for name in names)], check=True)


def build(names: List[str]) -> Path:
    """Where the fuzzers are, by libFuzzer if it is there."""
    try:
        probe = subprocess.run(["clang", "-fsanitize=fuzzer", "-x", "c", "-o", "/dev/null", "-"], stderr=subprocess.DEVNULL,
                               input=b"int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }", check=False)
        has_libfuzzer = probe.returncode == 0
    except FileNotFoundError:
        has_libfuzzer = False
    if has_libfuzzer:
        make(BUILD / "clang", names, "CC=clang", f"CFLAGS={CHECKS},fuzzer-no-link", "DRIVER=", "LINK=-fsanitize=fuzzer")
        return BUILD / "clang"
    print("clang has no libFuzzer here: inputs are changed at random")
    make(BUILD / "gcc", names, "CC=gcc", f"CFLAGS={CHECKS}")
    return BUILD / "gcc"


def learned(name: str) -> Path:
    directory = BUILD / "corpus" / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run(programs: Path, name: str, seconds: int) -> int:
    """How many inputs it has tried; raises CalledProcessError when one failed."""
    command = [programs / f"fuzz_{name}", learned(name), CORPUS / name, f"-max_total_time={seconds}", "-print_final_stats=1",
               "-max_len=4096", "-timeout=10", f"-artifact_prefix={BUILD}/{name}-"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-8000:])
        raise subprocess.CalledProcessError(done.returncode, str(command[0]))
    found = re.search(r"^stat::number_of_executed_units: *(\d+)", done.stdout, re.MULTILINE)
    return int(found.group(1)) if found else 0


def coverage(names: List[str]) -> Dict[str, Dict[str, str]]:
    """By harness and file, which part of the lines its inputs reach, the committed and the learned ones."""
    directory = BUILD / "coverage"
    make(directory, names, "CC=gcc", "CFLAGS=-O0 -g --coverage")
    reached: Dict[str, Dict[str, str]] = {}
    for name in names:
        for data in directory.glob("*.gcda"):
            data.unlink()
        subprocess.run([str(directory / f"fuzz_{name}"), str(learned(name)), str(CORPUS / name), "-runs=0"], check=True,
                       stdout=subprocess.DEVNULL)
        report = subprocess.run(["gcov", "-n", *(room.replace(".c", ".o") for room in ROOMS[name])], check=True, text=True,
                                cwd=directory, stdout=subprocess.PIPE).stdout
        lines = dict(re.findall(r"^File '.*/native/(\w+\.c)'\nLines executed:(.*)$", report, re.MULTILINE))
        reached[name] = {room: lines[room] for room in ROOMS[name]}
    return reached


def main(arguments: List[str]) -> int:
    names = arguments[1:] or sorted(ROOMS)
    if not arguments or not arguments[0].isdigit() or not set(names) <= set(ROOMS):
        print(f"usage: tools/fuzz.py SECONDS [{'|'.join(sorted(ROOMS))}...]", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    programs = build(names)
    share = max(1, int(arguments[0]) // len(names))
    tried = {}
    for name in names:
        print(f"{name}: {share} seconds", flush=True)
        try:
            tried[name] = run(programs, name, share)
        except subprocess.CalledProcessError:
            print(f"{name}: an input fails; it is among {BUILD.relative_to(ROOT)}/{name}-*")
            return 1
    for name, rooms in coverage(names).items():
        print(f"{name}: {tried[name]:,} inputs; " + ", ".join(f"{room} {lines}" for room, lines in rooms.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
