# SPDX-License-Identifier: MIT-0
"""The handlers that are compared: how each is started, and what it took of its core."""
import json
import pathlib
import subprocess
import sys
import time
from typing import Dict, List, Optional

import cpu
from lab import Bed
from processes import BUILD, ROOT, BenchError, run, start, stop
from programs import build_path_floor

HEALTH_PORT = 8080
HOOK = str(ROOT / "example-scripts" / "create-passthrough.sh")


class Handler:
    """A handler at work in the host's namespace, pinned to a core. The base of those that are compared."""

    name = ""

    def __init__(self, bed: Bed, core: int, command: List[str], log: pathlib.Path) -> None:
        self._bed = bed
        self._core = core
        self._log = log
        with open(log, "wb") as output:
            self._process = start(bed.host, core, command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def stop(self) -> None:
        stop(self._process)

    def check(self) -> None:
        """Raises if the handler has ended by itself."""
        if self._process.poll() is not None:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
            raise BenchError(f"{self.name} ended with status {self._process.returncode}:\n{last}")

    def cpu_ns(self) -> int:
        """The CPU time of its threads so far, with what the kernel does on their behalf, soft interrupts included."""
        tasks = pathlib.Path(f"/proc/{self._process.pid}/task")
        used = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
        ksoftirqd = cpu.ksoftirqd(self._core)
        if ksoftirqd:
            used += int(pathlib.Path(f"/proc/{ksoftirqd}/schedstat").read_text().split()[0])
        if cpu.irq_time_is_apart():
            times = cpu.core_times(self._core)
            used += times["irq"] + times["softirq"]
        return used

    def resident_bytes(self) -> int:
        for line in pathlib.Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError("no VmRSS")

    def health(self) -> Optional[Dict]:
        """Its health report, if it has one."""
        return None

    def wait_until_up(self) -> None:
        time.sleep(0.3)
        self.check()


class Gwlbtun(Handler):
    """The one that is measured."""

    name = "gwlbtun"

    def __init__(self, bed: Bed, core: int, options: List[str]) -> None:
        super().__init__(
            bed, core,
            [sys.executable, str(ROOT / "gwlbtun.py"), "-c", HOOK,
             "-p", str(HEALTH_PORT), "-j", "--udpthreads", "1", "--tunthreads", "1", "--udpaffinity", str(core),
             "--tunaffinity", str(core), *options], BUILD / "bench-gwlbtun.log")

    def health(self) -> Dict:
        return json.loads(run(
            "ip", "netns", "exec", self._bed.host, sys.executable, "-c",
            "import sys, urllib.error, urllib.request\n"
            "try:\n    answer = urllib.request.urlopen(sys.argv[1], timeout=10)\n"
            "except urllib.error.HTTPError as error:\n    answer = error\n"
            "sys.stdout.write(answer.read().decode())", f"http://127.0.0.1:{HEALTH_PORT}/"))

    def wait_until_up(self) -> None:
        for _ in range(100):
            self.check()
            try:
                self.health()
                return
            except (BenchError, ValueError):
                time.sleep(0.1)
        raise BenchError("gwlbtun does not answer on its health port")


class Baseline(Handler):
    """bench/baseline.c; mode: threads or loop."""

    def __init__(self, bed: Bed, core: int, mode: str, receive_buffer_mb: int) -> None:
        self.name = f"baseline ({mode})"
        super().__init__(
            bed, core, [str(BUILD / "bench-baseline"), mode, HOOK,
                        str(receive_buffer_mb)], BUILD / "bench-baseline.log")


class Floor(Handler):
    """bench/floor.c, which takes bulk traffic of one endpoint only."""

    name = "floor"

    def __init__(self, bed: Bed, core: int, receive_buffer_mb: int) -> None:
        super().__init__(bed, core, [str(BUILD / "bench-floor"), HOOK,
                                     str(receive_buffer_mb)], BUILD / "bench-floor.log")


class PathFloor(Handler):
    """bench/path_floor.py, whose work is the kernel's alone."""

    name = "path-floor"

    def __init__(self, bed: Bed, core: int) -> None:
        super().__init__(bed, core, [sys.executable, str(ROOT / "bench" / "path_floor.py"), build_path_floor(), HOOK, "uplink",
                                     bed.probe_mac], BUILD / "bench-path-floor.log")
