# SPDX-License-Identifier: MIT-0
"""How far the run has come."""
import sys
import time


class Progress:
    """One line on stderr that says what goes on; a line for each step if stderr is not a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._begin = total, 0, time.monotonic()
        self._live = sys.stderr.isatty()

    def next(self) -> None:
        self._done += 1

    def say(self, text: str, always: bool = False) -> None:
        line = f"[{self._done}/{self._total} {time.monotonic() - self._begin:4.0f} s] {text}"
        if self._live:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        elif always:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")
