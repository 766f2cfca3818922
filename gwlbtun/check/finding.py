# SPDX-License-Identifier: MIT-0
"""What `gwlbtun check` has to say of one thing."""
import enum
import shutil
import subprocess
from typing import NamedTuple, Optional


class Verdict(enum.Enum):
    OK = "ok"
    WARN = "warn"  # gwlbtun runs, and some packets or some speed may be lost
    FAIL = "FAIL"  # gwlbtun does not start
    NOTE = "note"  # the host cannot tell


class Finding(NamedTuple):
    """The remedy is a command or a step of its own line; empty where there is nothing to do."""

    verdict: Verdict
    subject: str
    text: str
    remedy: str = ""


def output(*command: str) -> Optional[str]:
    """What a tool prints, or None when it is missing or fails."""
    program = shutil.which(command[0], path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              errors="replace", timeout=10, check=True)
        return done.stdout
    except (OSError, subprocess.SubprocessError):
        return None


def read(path: str) -> Optional[str]:
    """The first line of a file of the kernel's, or None when there is none to read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return None
