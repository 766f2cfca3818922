# SPDX-License-Identifier: MIT-0
"""A kernel that refuses what one process asks for, and a system clock that is set for it alone (faulty.c)."""
import contextlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import lab

_FAULTS = struct.Struct("=iiqqq")


class Faulty:
    """What is wrong at the moment."""

    def __init__(self, directory: Path):
        self._library = directory / "faulty.so"
        self._file = directory / "faults"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", self._library,
                        Path(__file__).with_name("faulty.c"), "-ldl", "-pthread"], check=True)
        self._file.touch()
        self._clock_ns = 0
        self._say()

    @property
    def command(self) -> List[object]:
        """Runs gwlbtun with all that."""
        return ["env", f"LD_PRELOAD={self._library}", f"GWLBTUN_FAULTS={self._file}", sys.executable, lab.PROGRAM]

    @contextlib.contextmanager
    def refusing(self, write: int = 0, send: int = 0) -> Iterator[None]:
        """Each is an errno: of all writes to TUN devices, of all that is sent to the load balancer."""
        self._say(write, send)
        try:
            yield
        finally:
            self._say()

    def set_clock(self, seconds: float) -> None:
        """Sets the system's clock ahead, or back."""
        self._clock_ns += int(seconds * 1e9)
        self._say()

    def suspend(self, seconds: float) -> None:
        """The host has been suspended for so long: the monotonic clock does not know it."""
        self._slept_ns += int(seconds * 1e9)
        self._say()

    def waits_by_system_clock(self) -> None:
        """From now on, as in Python before 3.11."""
        self._clock_set = True
        self._say()

    _clock_set = False
    _slept_ns = 0

    def _say(self, write: int = 0, send: int = 0) -> None:
        fd = os.open(self._file, os.O_WRONLY)
        os.pwrite(fd, _FAULTS.pack(write, send, self._clock_ns, self._clock_set, self._slept_ns), 0)
        os.close(fd)

HASTY = """
import sys
sys.path.insert(0, {root!r})
from gwlbtun import endpoint, silence, watch
from gwlbtun.kernel import links
endpoint.RETRY_S, silence.SILENCE_S, watch.INTERVAL_S, links.IDLE_S = 1.0, 2.0, 2.0, 1.0
from gwlbtun import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def hasty(directory: Path) -> Path:
    """The command, which tries again and tells sooner, so that tests need less time."""
    program = directory / "gwlbtun.py"
    program.write_text(HASTY.format(root=str(lab.PROGRAM.parent)))
    return program
