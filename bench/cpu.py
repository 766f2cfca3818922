# SPDX-License-Identifier: MIT-0
"""Where the time of a core goes, as the kernel counts it."""
import functools
import gzip
import os
import pathlib
from typing import Dict, Optional

from processes import BenchError


def core_times(core: int) -> Dict[str, int]:
    """Nanoseconds of a core by kind since the machine started."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            tick = 10**9 // os.sysconf("SC_CLK_TCK")
            return {name: int(value) * tick for name, value in zip(names, line.split()[1:])}
    raise BenchError(f"no core {core}")


@functools.lru_cache(maxsize=None)
def ksoftirqd(core: int) -> Optional[int]:
    for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == f"ksoftirqd/{core}":
                return int(comm.parent.name)
        except OSError:
            continue
    return None


@functools.lru_cache(maxsize=None)
def irq_time_is_apart() -> bool:
    """Whether this kernel keeps interrupt time out of the threads' time (CONFIG_IRQ_TIME_ACCOUNTING)."""
    packed, plain = pathlib.Path("/proc/config.gz"), pathlib.Path(f"/boot/config-{os.uname().release}")
    config = ""
    if packed.exists():
        config = gzip.decompress(packed.read_bytes()).decode()
    elif plain.exists():
        config = plain.read_text()
    return "CONFIG_IRQ_TIME_ACCOUNTING=y" in config
