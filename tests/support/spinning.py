# SPDX-License-Identifier: MIT-0
"""Whether a process spins."""
import os
import time
from pathlib import Path
from typing import Dict


def seconds_by_thread(pid: int) -> Dict[str, float]:
    """The CPU time of each thread that runs, by ID and name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        fields = rest.split()
        found[f"{task.name} {name}"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def busiest(pid: int, seconds: float = 0.5) -> float:
    """The share of a core that its busiest thread takes."""
    before, begin = seconds_by_thread(pid), time.monotonic()
    time.sleep(seconds)
    after, passed = seconds_by_thread(pid), time.monotonic() - begin
    return max(spent - before.get(thread, 0.0) for thread, spent in after.items()) / passed
