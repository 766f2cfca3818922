# SPDX-License-Identifier: MIT-0
"""What the kernel says of this process: its time, memory, descriptors and threads."""
import functools
import os
import resource
from pathlib import Path
from typing import Dict, Union

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def usage() -> Dict[str, Union[int, float]]:
    """By name and unit. What the kernel does not tell is missing, as in a container that hides /proc."""
    found: Dict[str, Union[int, float]] = {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY:
        found["max_fds"] = most
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        # proc(5) numbers them from 1; the first here is its third, the state.
        found["cpu_seconds"] = (int(fields[11]) + int(fields[12])) / _TICKS
        found["threads"] = int(fields[17])
        found["virtual_memory_bytes"] = int(fields[20])
        found["resident_memory_bytes"] = int(fields[21]) * _PAGE
        found["open_fds"] = _open_descriptors()
        found["start_time_seconds"] = _start_time(int(fields[19]))
    except (OSError, LookupError, ValueError):
        pass
    return found


def _open_descriptors() -> int:
    known = os.stat("/proc/self/fd").st_size  # since Linux 6.2; before, 0
    if known:
        return known
    with os.scandir("/proc/self/fd") as entries:
        return sum(1 for _ in entries) - 1  # the one that this opens


@functools.lru_cache(maxsize=None)  # as the kernel's boot time changes when the clock is set
def _start_time(ticks: int) -> float:
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1]) + ticks / _TICKS
    raise LookupError("/proc/stat does not tell when the host has booted")
