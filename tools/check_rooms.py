#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Checks the tree against the rules of its rooms, which CONTRIBUTING.md explains.

A room is a .c with the .h of its own name, or a Python module. Rooms use what lies below them, so no circle may arise, and
each is small enough to read in one go. The check prints one line for each fault, or the order from the ground up.

Usage: tools/check_rooms.py [DIRECTORY]
"""
import ast
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set

C_PLACES = "native", "bench", "tests/native"
PYTHON_PLACES = "gwlbtun", "bench", "tools", "tests/support"
C_LINES, PYTHON_LINES, TEST_LINES = 500, 300, 500
PROGRAMS = "bpf"  # the folder of those that the kernel runs, and nothing calls
MAP = "docs/ARCHITECTURE.md"

Uses = Dict[str, Set[str]]  # by room, the rooms that it uses


class Tree(NamedTuple):
    """The files of a place, by their path from the root."""

    root: Path
    c_files: List[Path]
    modules: List[Path]
    tests: List[Path]  # with what they share, which is among the modules as well

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def room(self, path: Path) -> str:
        return self.name(path.with_suffix(""))


def read_tree(root: Path) -> Tree:
    def files(places: object, *patterns: str) -> List[Path]:
        return sorted({path for place in places for pattern in patterns  # type: ignore
                       for path in (root / place).rglob(pattern)})

    return Tree(root, files(C_PLACES, "*.c", "*.h"), files(PYTHON_PLACES, "*.py"), files(["tests"], "*.py"))


# ---- Sizes and headers


def size_faults(tree: Tree) -> Iterator[str]:
    program = [path for path in tree.modules if path not in tree.tests]
    for files, most in ((tree.c_files, C_LINES), (program, PYTHON_LINES), (tree.tests, TEST_LINES)):
        for path in files:
            lines = len(path.read_text().splitlines())
            if lines > most:
                yield f"{tree.name(path)}: {lines} lines; at most {most} are allowed, so split it"


def header_faults(tree: Tree) -> Iterator[str]:
    for path in tree.c_files:
        if path.suffix != ".c" or path.with_suffix(".h") in tree.c_files or path.parent.name == PROGRAMS:
            continue
        program = re.search(r"^int (main|LLVMFuzzerTestOneInput)\(", path.read_text(), re.MULTILINE)
        if not program or tree.name(path).startswith("native/"):
            yield f"{tree.name(path)}: has no header of its own name"


def map_faults(tree: Tree) -> Iterator[str]:
    """Files of native/ and gwlbtun/ that the map does not name, neither by themselves nor by the directory of their package."""
    map_of_rooms = tree.root / MAP
    if not map_of_rooms.exists():
        return
    named = set(re.findall(r"`([^`\n]+)`", map_of_rooms.read_text()))
    files = {word.rsplit("/", 1)[-1] for word in named}
    for path in tree.c_files + tree.modules:
        name = tree.name(path)
        known = path.name in files or f"{path.stem}.[ch]" in files or f"{name.rpartition('/')[0]}/" in named
        if not known and name.startswith(("native/", "gwlbtun/")):
            yield f"{name}: is not in the table of rooms in {MAP}"


# ---- Who uses whom


def c_uses(tree: Tree) -> Uses:
    """By room, the rooms whose headers it includes."""
    uses: Uses = {tree.room(path): set() for path in tree.c_files}
    for path in tree.c_files:
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            included = (path.parent / name).resolve()
            if included in tree.c_files:
                uses[tree.room(path)].add(tree.room(included))
    for room, used in uses.items():
        used.discard(room)
    return uses


def python_uses(tree: Tree) -> Uses:
    """By module, the modules of this project that it imports while it is itself being imported."""
    modules = set(tree.modules)
    uses: Uses = {tree.room(path): set() for path in tree.modules}
    for path in tree.modules:
        package = tree.name(path.parent).replace("/", ".")
        for name in imports(ast.parse(path.read_text()).body, package):
            # "from gwlbtun import geneve" starts at the root; "import chart" finds bench/chart.py beside bench/run.py.
            for place in (tree.root, path.parent):
                found = place.joinpath(*name.split("."))
                targets = {found.with_suffix(".py"), found / "__init__.py"} & modules - {path}
                uses[tree.room(path)].update(map(tree.room, targets))
    return uses


def imports(statements: List[ast.stmt], package: str) -> Iterator[str]:
    """Dotted names that the statements may import when they run, without those in functions or for type checkers."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            module = ".".join(filter(None, [package if statement.level else "", statement.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            yield from imports(statement.orelse, package)
        elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for inner in ("body", "orelse", "handlers", "finalbody"):
                yield from imports(getattr(statement, inner, []), package)


# ---- Order and circles


def levels(uses: Uses) -> List[List[str]]:
    """The rooms from the ground up: each level uses only those below it. What is in a circle, or above one, is missing."""
    found: List[List[str]] = []
    below: Set[str] = set()
    while True:
        level = sorted(room for room, used in uses.items() if room not in below and used <= below)
        if not level:
            return found
        found.append(level)
        below.update(level)


def circles(uses: Uses) -> Iterator[List[str]]:
    """As many circles as must be opened for none to be left; each begins and ends with the same room."""
    left = {room: set(used) for room, used in uses.items()}
    while True:
        ordered = {room for level in levels(left) for room in level}
        tied = sorted(set(left) - ordered)
        if not tied:
            return
        way = [tied[0]]
        while way[-1] not in way[:-1]:
            way.append(min(left[way[-1]] - ordered))
        circle = way[way.index(way[-1]):]
        yield circle
        left[circle[-2]].remove(circle[-1])


def circle_faults(uses: Uses) -> Iterator[str]:
    for circle in circles(uses):
        yield f"{circle[0]}: is in a circle: {' -> '.join(circle)}"


def main(arguments: List[str]) -> int:
    root = Path(arguments[0] if arguments else Path(__file__).resolve().parent.parent).resolve()
    tree = read_tree(root)
    used = {"C": c_uses(tree), "Python": python_uses(tree)}
    faults = [*size_faults(tree), *header_faults(tree), *map_faults(tree)]
    for uses in used.values():
        faults += circle_faults(uses)
    for fault in faults:
        print(fault)
    for language, uses in {} if faults else used.items():
        print(f"{language}, from the ground up:")
        for number, level in enumerate(levels(uses)):
            print(f"  {number}: {' '.join(level)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
