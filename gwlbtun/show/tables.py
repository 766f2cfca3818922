# SPDX-License-Identifier: MIT-0
"""Rows as text: columns for people, lines of fields between tabs for scripts, JSON for programs."""
import itertools
import json
import re
from typing import IO, Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

Row = Dict[str, Any]

ALIGNED_ROWS = 1000  # that are looked at together, to make the columns as wide as they must be

# Whatever a terminal could take for a command, or a script for the end of a field.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Column(NamedTuple):
    """A column for people."""

    title: str
    text: Callable[[Row], str]
    right: bool = False


def print_aligned(columns: Sequence[Column], rows: Iterable[Row], out: IO[str]) -> None:
    """Prints a header and the rows. Columns get wider further down if they have to."""
    widths = [len(column.title) for column in columns]
    rows = iter(rows)
    pending = [[column.title for column in columns]]
    while True:
        pending += [[printable(column.text(row)) for column in columns] for row in itertools.islice(rows, ALIGNED_ROWS)]
        if not pending:
            return
        widths = [max(width, *map(len, texts)) for width, texts in zip(widths, zip(*pending))]
        out.write("".join(_aligned(columns, widths, texts) for texts in pending))
        pending = []


def _aligned(columns: Sequence[Column], widths: List[int], texts: List[str]) -> str:
    return "  ".join(text.rjust(width) if column.right else text.ljust(width)
                     for column, width, text in zip(columns, widths, texts)).rstrip() + "\n"


def print_fields(keys: Sequence[str], rows: Iterable[Row], out: IO[str]) -> None:
    """Prints a line for each row: its fields, in this order, between tabs. A field that has no value is a hyphen."""
    for row in rows:
        out.write("\t".join([field(row.get(key)) for key in keys]) + "\n")


def field(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list):
        return ",".join(map(field, value)) or "-"
    return printable(str(value))


def print_json(head: Row, key: str, rows: Iterable[Row], out: IO[str], one_line: bool = False) -> None:
    """Prints one object: the head, and the rows as an array under the key."""
    separator = " " if one_line else "\n"
    out.write(json.dumps(head)[:-1] + ", " * bool(head) + f'"{key}": [')
    for number, row in enumerate(rows):
        out.write(("," if number else "") + separator + json.dumps(row))
    out.write(separator + "]}\n")


def printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def size(number: float) -> str:
    """A number with three digits or so: 999, 1.2k, 34.5M."""
    if number < 999.5:
        return f"{number:.0f}"
    for unit in ("k", "M", "G", "T"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f}{unit}"
    return f"{number / 1000:.1f}P"


def age(seconds: Optional[float]) -> str:
    """Seconds in at most two units: 0.4s, 12s, 5m10s, 3h2m, 2d4h."""
    if seconds is None:
        return "-"
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    left = int(seconds)
    units: Tuple[Tuple[str, int], ...] = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    for (name, length), (next_name, next_length) in zip(units, units[1:]):
        if left >= length:
            rest = left % length // next_length
            return f"{left // length}{name}" + (f"{rest}{next_name}" if rest else "")
    return f"{left}s"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, those in a row as a range: 0-3,7."""
    found: List[List[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ",".join("-".join(map(str, each)) for each in found) or "-"
