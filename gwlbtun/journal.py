# SPDX-License-Identifier: MIT-0
"""Priorities for the journal: a line that begins with one, in the form <N>, is stored under it (systemd.exec(5))."""
import os
from typing import Mapping

PRIORITIES = (2, 5, 6, 7, 7)  # of <syslog.h>, by logs.Level: crit, notice, info, debug, debug


def reads(fd: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the journal reads what is written to a descriptor: JOURNAL_STREAM names its device and inode."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(level: int, lines: str) -> str:
    """Whole lines, each behind the priority of the level."""
    return "".join(f"<{PRIORITIES[level]}>{line}\n" for line in lines.split("\n")[:-1])
