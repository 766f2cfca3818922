# SPDX-License-Identifier: MIT-0
"""The test bed: two network namespaces joined by a veth pair, the generator in one, a handler in the other.

The generator's device has two addresses. The host's neighbour entry for the first, from which the load comes, names a
MAC address that nobody has, so that the kernel drops what returns there at its first look: on a veth pair that look is
taken on the core of the handler, which is the one being measured. The device still counts every frame. What returns to
the second address, that of the probes, is delivered.
"""
import ctypes
import functools
import gzip
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from typing import Dict, List, Optional

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SOURCE, HOST, PROBE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
NOBODY = "02:00:00:00:00:01"
LINK_MTU = 9001
HEALTH_PORT = 8080
PR_SET_PDEATHSIG = 1
NICE = -20  # other programs on the machine shall take as little as may be from what is measured


class BenchError(Exception):
    """What the user should read instead of a stack trace."""


def run(*command: str) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def build() -> None:
    """Compiles the generator, the handlers beside gwlbtun and the measurement of expiry into build/."""
    BUILD.mkdir(exist_ok=True)
    for name, more in (("generator", []), ("baseline", []), ("floor", [str(ROOT / "native" / "offload.c")]),
                       ("expiry", [str(ROOT / "native" / name) for name in ("flow.c", "flow_evict.c", "flow_pool.c")])):
        run(os.environ.get("CC", "cc"), "-O3", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-pthread",
            "-o", str(BUILD / f"bench-{name}"), str(ROOT / "bench" / f"{name}.c"), *more)


def expiry(flows: int, rounds: int, core: int, other_core: int) -> Dict:
    """What expiry.c prints."""
    command = str(BUILD / "bench-expiry"), str(flows), str(rounds), str(core), str(other_core)
    return json.loads(run("nice", "-n", str(NICE), *command))


class Bed:
    """The namespaces and the link between them."""

    def __init__(self) -> None:
        self.balancer = f"gwt-{os.getpid()}-lb"
        self.host = f"gwt-{os.getpid()}-host"
        self.host_mac = ""

    def __enter__(self) -> "Bed":
        try:
            for name in (self.balancer, self.host):
                run("ip", "netns", "add", name)
                # No neighbour discovery of its own may mingle with the frames that are counted.
                run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
                run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", self.balancer, "link", "add", "gwlb", "type", "veth", "peer", "name", "uplink", "netns", self.host)
            for name, device in ((self.balancer, "gwlb"), (self.host, "uplink")):
                run("ip", "-n", name, "link", "set", device, "mtu", str(LINK_MTU), "up")
            for address in (SOURCE, PROBE):
                run("ip", "-n", self.balancer, "addr", "add", f"{address}/24", "dev", "gwlb")
            run("ip", "-n", self.host, "addr", "add", f"{HOST}/24", "dev", "uplink")
            self.host_mac = self._mac(self.host, "uplink")
            self._neighbour(self.balancer, "gwlb", HOST, self.host_mac)
            self._neighbour(self.host, "uplink", SOURCE, NOBODY)
            self._neighbour(self.host, "uplink", PROBE, self._mac(self.balancer, "gwlb"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.balancer, self.host):
            subprocess.run(["ip", "netns", "del", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def segment_before_counting(self, on: bool) -> None:
        """Makes the host's device cut super-packets before it hands them over, so that each packet is counted as a frame."""
        self._cut(self.host, "uplink", on)

    def segment_before_arrival(self, on: bool) -> None:
        """Makes the generator's device cut super-packets, on the generator's core, so that they arrive as single datagrams."""
        self._cut(self.balancer, "gwlb", on)

    @staticmethod
    def _cut(namespace: str, device: str, on: bool) -> None:
        run("ip", "-n", namespace, "link", "set", device, "gso_max_segs", "1" if on else "65535")

    @staticmethod
    def _mac(namespace: str, device: str) -> str:
        return json.loads(run("ip", "-n", namespace, "-j", "link", "show", device))[0]["address"]

    @staticmethod
    def _neighbour(namespace: str, device: str, address: str, mac: str) -> None:
        run("ip", "-n", namespace, "neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent")


def _start(namespace: str, core: int, command: List[str], **pipes: object) -> subprocess.Popen:
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {core})
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        # With CONFIG_SCHED_AUTOGROUP niceness only counts within a session, and sessions have one of their own.
        os.setsid()
        if os.path.exists("/proc/self/autogroup"):
            with open("/proc/self/autogroup", "w", encoding="ascii") as group:
                group.write(str(NICE))

    # "ip netns exec" becomes the command itself, so the process ID is that of the command.
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], preexec_fn=prepare, **pipes)  # type: ignore


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Generator:
    """bench/generator.c at work; see there for its commands and answers."""

    def __init__(self, bed: Bed, core: int, options: List[str]) -> None:
        self._process = _start(
            bed.balancer, core,
            [str(BUILD / "bench-generator"), "--device", "gwlb", "--source", SOURCE, "--probe", PROBE, "--target", HOST,
             "--mac", bed.host_mac, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            hello = self._answer(30)
        except BaseException:
            self.stop()
            raise
        self.packet_size: int = hello["packet_size"]
        self.frame_overhead: int = hello["frame_overhead"]

    def ask(self, command: str, timeout: float = 90) -> Dict:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer(timeout)

    def counters(self) -> List[int]:
        """Frames and bytes that its device has received so far."""
        for line in pathlib.Path(f"/proc/{self._process.pid}/net/dev").read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip() == "gwlb":
                size, frames = values.split()[:2]
                return [int(frames), int(size)]
        raise BenchError("the generator's device is gone")

    def packets(self, since: List[int], until: List[int]) -> int:
        """The packets returned between two readings of the device's counters.

        All packets are of one size, so k of them in one super-packet are a frame of overhead + k * size bytes, and the
        number follows from frames and bytes. A remainder would mean that something else had come along.
        """
        frames, size = until[0] - since[0], until[1] - since[1]
        packets, remainder = divmod(size - frames * self.frame_overhead, self.packet_size)
        if remainder:
            raise BenchError(f"{size} bytes in {frames} frames are no whole number of packets: was something else sent?")
        return packets

    def stop(self) -> None:
        self._process.stdin.close()
        _stop(self._process)
        self._process.stdout.close()

    def _answer(self, timeout: float) -> Dict:
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise BenchError("the generator does not answer")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the generator ended; its reason stands above")
        return json.loads(line)


class Handler:
    """A handler at work in the host's namespace, pinned to a core. The base of those that are compared."""

    name = ""

    def __init__(self, bed: Bed, core: int, command: List[str], log: pathlib.Path) -> None:
        self._bed = bed
        self._core = core
        self._log = log
        with open(log, "wb") as output:
            self._process = _start(bed.host, core, command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def stop(self) -> None:
        _stop(self._process)

    def check(self) -> None:
        """Raises if the handler has ended by itself."""
        if self._process.poll() is not None:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
            raise BenchError(f"{self.name} ended with status {self._process.returncode}:\n{last}")

    def cpu_ns(self) -> int:
        """The CPU time of its threads so far, with the kernel's work on their behalf, soft interrupts included."""
        tasks = pathlib.Path(f"/proc/{self._process.pid}/task")
        used = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
        ksoftirqd = _ksoftirqd(self._core)
        if ksoftirqd:
            used += int(pathlib.Path(f"/proc/{ksoftirqd}/schedstat").read_text().split()[0])
        if _irq_time_is_apart():
            times = core_times(self._core)
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
            [sys.executable, str(ROOT / "gwlbtun.py"), "-c", str(ROOT / "example-scripts" / "create-passthrough.sh"),
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
            bed, core, [str(BUILD / "bench-baseline"), mode, str(ROOT / "example-scripts" / "create-passthrough.sh"),
                        str(receive_buffer_mb)], BUILD / "bench-baseline.log")


class Floor(Handler):
    """bench/floor.c, which takes bulk traffic of one endpoint only."""

    name = "floor"

    def __init__(self, bed: Bed, core: int, receive_buffer_mb: int) -> None:
        super().__init__(bed, core, [str(BUILD / "bench-floor"), str(ROOT / "example-scripts" / "create-passthrough.sh"),
                                     str(receive_buffer_mb)], BUILD / "bench-floor.log")


def core_times(core: int) -> Dict[str, int]:
    """Nanoseconds of a core by kind since the machine started."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            tick = 10**9 // os.sysconf("SC_CLK_TCK")
            return {name: int(value) * tick for name, value in zip(names, line.split()[1:])}
    raise BenchError(f"no core {core}")


@functools.lru_cache(maxsize=None)
def _ksoftirqd(core: int) -> Optional[int]:
    for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == f"ksoftirqd/{core}":
                return int(comm.parent.name)
        except OSError:
            continue
    return None


@functools.lru_cache(maxsize=None)
def _irq_time_is_apart() -> bool:
    """Whether this kernel keeps interrupt time out of the threads' time (CONFIG_IRQ_TIME_ACCOUNTING)."""
    packed, plain = pathlib.Path("/proc/config.gz"), pathlib.Path(f"/boot/config-{os.uname().release}")
    config = ""
    if packed.exists():
        config = gzip.decompress(packed.read_bytes()).decode()
    elif plain.exists():
        config = plain.read_text()
    return "CONFIG_IRQ_TIME_ACCOUNTING=y" in config
