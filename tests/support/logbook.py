# SPDX-License-Identifier: MIT-0
"""A log of the daemon's, written to a file where a test reads it."""
import functools
import os
import re
import time
from pathlib import Path
from typing import List

from gwlbtun.logs import SECTIONS, Level, Log

LINE = re.compile(r"(?P<date>\d{4}-\d\d-\d\d) (?P<time>\d\d:\d\d:\d\d\.\d{3}): (?P<thread>.+?)"
                  r"\((?P<section>[a-z]+),(?P<level>[a-z]+)\) : (?P<text>.*)")


class Logbook:
    def __init__(self, directory: Path, level: Level = Level.DEBUGDETAIL, **options):
        self._path = directory / "log"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.log = Log(dict.fromkeys(SECTIONS, level), fd=self._fd, **options)
        self.log.stop = functools.partial(self.log.stop, timeout=60)
        self.log.start()

    def close(self) -> None:
        self.log.stop()
        os.close(self._fd)

    def lines(self) -> List[str]:
        return self._path.read_bytes().decode().splitlines()

    def texts(self) -> List[str]:
        """What the lines say, without their heads; fails on a line that has none."""
        return [LINE.fullmatch(line)["text"] for line in self.lines()]

    def wait_for(self, part: str, timeout: float = 60) -> str:
        """The first line with that part."""
        end = time.monotonic() + timeout
        while True:
            for line in self.lines():
                if part in line:
                    return line
            assert time.monotonic() < end, f"no line with '{part}' in:\n" + "\n".join(self.lines())
            time.sleep(0.01)
