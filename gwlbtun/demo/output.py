# SPDX-License-Identifier: MIT-0
"""What the demo prints: aligned lines, with signs and colours where the terminal has them."""
import os
import sys
from typing import TextIO

LABEL_WIDTH = 11
_PLAIN = {**dict.fromkeys("┌┐└┘├┤", "+"), "─": "-", "═": "=", "→": ">", "←": "<", "✓": "ok", "✗": "FAILED"}
_TO_PLAIN = {ord(sign): plain for sign, plain in _PLAIN.items()}
GREEN, RED, BOLD = "32", "31", "1"


class Output:
    """A stream for people."""

    def __init__(self, stream: TextIO = sys.stdout):
        self._stream = stream
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            "".join(_PLAIN).encode(stream.encoding)
            self._plain = False
        except (UnicodeEncodeError, LookupError):
            self._plain = True

    def say(self, text: str = "") -> None:
        """Prints lines. Raises OSError when the terminal or the pipe is gone."""
        print(text.translate(_TO_PLAIN) if self._plain else text, file=self._stream, flush=True)

    def paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text

    def verdict(self, good: bool, label: str, *texts: str) -> None:
        """Prints how one thing went; further texts go below the first."""
        sign, width = "✓✗"[not good], 1
        if self._plain:
            sign, width = _PLAIN[sign], len(_PLAIN["✗"])
        sign = self.paint(GREEN if good else RED, f"{sign:<{width}}")
        lead = " " * (width + 3 + LABEL_WIDTH)
        self.say("\n".join([f"  {sign} {self.paint(BOLD, f'{label:<{LABEL_WIDTH}}')}{texts[0]}",
                            *(lead + text for text in texts[1:])]))
