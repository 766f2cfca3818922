#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Records what a command prints in a terminal, as an SVG. It brings all it needs, and follows the reader's choice of light or
dark.

Usage: tools/record.py TARGET "$ COMMAND AS SHOWN" COMMAND [ARGUMENT...]
"""
import html
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List, Tuple

WIDTH = 800.0
MARGIN = 16.0
LINE_HEIGHT = 1.35  # of the font's size
CELL = 0.6          # a character's width, of the font's size
LEAST_COLUMNS = 80

CLASSES = {"1": "bold", "31": "bad", "32": "good"}  # by the SGR parameter
ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")

STYLE = """\
text { font: %(font).2fpx ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328;
       white-space: pre }
.paper { fill: #f6f8fa; stroke: #d0d7de }
.bold { font-weight: 600 } .good { fill: #1a7f37 } .bad { fill: #d1242f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117; stroke: #30363d }
  .good { fill: #3fb950 } .bad { fill: #f85149 }
}
"""


def record(command: List[str]) -> Tuple[int, List[str]]:
    """Runs it in a terminal: its exit status, and its lines with their escapes."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                               env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    printed = b""
    while True:
        try:
            printed += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    return process.wait(), printed.decode().replace("\r", "").splitlines()


def runs(text: str) -> Iterator[Tuple[str, str]]:
    """The pieces of a line, each with its class."""
    kind = ""
    pieces = ESCAPE.split(text)
    for index, piece in enumerate(pieces):
        if index % 2:
            kind = CLASSES.get(piece, "")
        elif piece:
            yield kind, piece


def svg(title: str, lines: List[str]) -> str:
    plain = [ESCAPE.sub("", line) for line in lines]
    font = (WIDTH - 2 * MARGIN) / max([LEAST_COLUMNS, *map(len, plain)]) / CELL
    height = 2 * MARGIN + len(lines) * font * LINE_HEIGHT
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img">',
             f"<title>{html.escape(title)}</title>", f"<style>\n{STYLE % {'font': font}}</style>",
             f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1:.0f}" height="{height - 1:.0f}" rx="6"/>']
    for number, (line, shown) in enumerate(zip(lines, plain)):
        if not shown.strip():
            continue
        # The length keeps the columns where they are, whatever font draws the line.
        spans = "".join(f'<tspan class="{kind}">{html.escape(piece)}</tspan>' if kind else html.escape(piece)
                        for kind, piece in runs(line))
        drawn.append(f'<text x="{MARGIN:.0f}" y="{MARGIN + (number + 0.8) * font * LINE_HEIGHT:.1f}" xml:space="preserve" '
                     f'textLength="{len(shown) * font * CELL:.1f}">{spans}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def main(arguments: List[str]) -> int:
    if len(arguments) < 3:
        print('usage: tools/record.py TARGET "$ COMMAND AS SHOWN" COMMAND [ARGUMENT...]', file=sys.stderr)
        return 2
    target, shown, *command = arguments
    status, lines = record(command)
    if status:
        print("\n".join(lines), file=sys.stderr)
        print(f"record.py: the command ended with status {status}: nothing is recorded", file=sys.stderr)
        return 1
    Path(target).write_text(svg(shown, [shown, "", *lines]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
