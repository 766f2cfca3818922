# SPDX-License-Identifier: MIT-0
"""Whether the host, or the control group that gwlbtun runs in, has memory and threads for another endpoint."""
import functools
import os
import resource
import time
from pathlib import Path
from typing import List, Optional, Tuple

SHARE = 0.9           # of threads and memory; the rest is left for existing endpoints and other programs
MEMORY_LEAST = 64 << 20
RINGS_SHARE = 0.25    # of all memory, for rings
LOOK_S = 0.5          # how long one look at the host stays valid
SPARE = 64            # slots for endpoints that are going, beside those that stay

_looked: Tuple[float, Optional[str]] = (-LOOK_S, None)


def lack() -> Optional[str]:
    """Says what is short and which setting bounds it. None: nothing is short."""
    global _looked
    now = time.monotonic()
    if now - _looked[0] >= LOOK_S:
        _looked = now, _look()
    return _looked[1]


def raise_descriptor_limit() -> None:
    """Every tunnel thread takes two descriptors, every connected socket one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass


def ring_bytes() -> int:
    """The number of bytes that all rings may hold together."""
    limits = [_number(group / "memory.max") for group in _groups()]
    return int(min([total for total in limits if total] + [_meminfo("MemTotal")]) * RINGS_SHARE)


def _look() -> Optional[str]:
    if 0 < _meminfo("MemAvailable") < MEMORY_LEAST:
        return "the host is short of memory"
    for group in _groups():
        most, used = _number(group / "memory.max"), _number(group / "memory.current")
        if most and used and used - _reclaimable(group) > most * SHARE:
            return "the control group is short of memory (MemoryMax= of the unit)"
        most, used = _number(group / "pids.max"), _number(group / "pids.current")
        if most and used and used > most * SHARE:
            return "the control group is short of threads (TasksMax= of the unit)"
    return None


@functools.lru_cache(maxsize=None)
def _groups() -> List[Path]:
    """The control groups (version 2) that the process is in, from the innermost out."""
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            if line.startswith("0::/"):
                path = Path("/sys/fs/cgroup" + line[3:])
                return [group for group in (path, *path.parents) if group.is_relative_to("/sys/fs/cgroup")]
    except OSError:
        pass
    return []


def _number(path: Path) -> Optional[int]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(group: Path) -> int:
    """The file cache counts as used memory, but the kernel takes it back when memory is needed."""
    try:
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _meminfo(name: str) -> int:
    """A line of /proc/meminfo, in bytes. 0 when it cannot be read."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if name == "MemTotal" else 0
