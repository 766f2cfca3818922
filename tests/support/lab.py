# SPDX-License-Identifier: MIT-0
"""A load balancer, an appliance that runs gwlbtun, and hosts, in network namespaces of their own."""
import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

import gwlb
import netns
from gwlbtun import geneve

PROGRAM = Path(__file__).resolve().parents[2] / "gwlbtun.py"
SANITIZED = "GWLBTUN_SANITIZED" in os.environ  # `make sanitize`
KERNEL_PATHS = os.environ.get("KERNEL_PATH", "off auto").split()  # of tests that are not about it (fixtures.py)

BALANCER = "192.0.2.1", "192.0.2.2"
APPLIANCE = "192.0.2.10"
APPLIANCE_IPV6 = "2001:db8:ffff::10"  # what the appliance's ICMPv6 errors come from
CLIENT = "10.0.1.2", "2001:db8:1::2"
SERVER = "10.0.2.2", "2001:db8:2::2"

ENI = 0x0123456789AB0000
HEALTH_PORT = 8080

# tc sends all that appears on gwi out of gwo, which hands it to gwlbtun again.
PASSTHROUGH = """#!/bin/sh -e
[ "$1" = CREATE ] || exit 0
tc qdisc add dev "$2" clsact
tc filter add dev "$2" ingress protocol all u32 match u32 0 0 action mirred egress redirect dev "$3"
"""

# Linux routes: to the hosts by gwo.
ROUTE = """#!/bin/sh -e
[ "$1" = CREATE ] || exit 0
echo 0 > "/proc/sys/net/ipv4/conf/$2/rp_filter"
ip route add 10.0.0.0/8 dev "$3"
ip -6 route add 2001:db8::/33 dev "$3"
"""


def command_line(*arguments) -> list:
    """The command that runs gwlbtun."""
    return [sys.executable, PROGRAM, *arguments]


class Pair(NamedTuple):
    """An endpoint with its two hosts."""

    endpoint: gwlb.Endpoint
    client: gwlb.Host
    server: gwlb.Host


class Daemon:
    """gwlbtun, as a process in the appliance's namespace. Its output is in log()."""

    sanitized = SANITIZED

    def __init__(self, namespace: netns.Namespace, directory: Path, arguments: Iterable, command: Optional[list] = None):
        """command: what runs gwlbtun, by default its interpreter."""
        self.namespace = namespace
        self._output = directory / "gwlbtun.log"
        self._errors = directory / "gwlbtun.err"
        self.control = directory / "control.sock"  # not where a daemon of the host has its own
        self._started = math.inf  # by the monotonic clock, or a little later; restarts in place keep it
        with open(self._output, "ab") as output, open(self._errors, "ab") as errors:
            self.process = namespace.start(*(command or command_line()), "-p", HEALTH_PORT, "--control", self.control,
                                           *arguments, stdout=output, stderr=errors)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self._output.read_text()

    def errors(self) -> str:
        return self._errors.read_text()

    def wait_ready(self, timeout: float = 60) -> "Daemon":
        """Returns when UDP port 6081 is open and health is answered, which is the last of what it begins."""
        end = time.monotonic() + timeout
        while not (self._listens("udp", geneve.PORT) and self._listens("tcp", HEALTH_PORT)):
            if self.process.poll() is not None:
                raise AssertionError(f"gwlbtun ended with {self.process.returncode}:\n{self.log()}{self.errors()}")
            assert time.monotonic() < end, f"gwlbtun does not come up:\n{self.log()}{self.errors()}"
            time.sleep(0.01)
        self.get()
        return self

    def _listens(self, protocol: str, port: int) -> bool:
        tables = []
        for suffix in "", "6":
            with contextlib.suppress(OSError):
                tables.append(Path(f"/proc/{self.pid}/net/{protocol}{suffix}").read_text())
        return re.search(rf":{port:04X} 0+:0000 ", "".join(tables)) is not None

    def get(self, path: str = "/", host: str = "127.0.0.1", method: str = "GET", accept: Optional[str] = None):
        """The answer of the health port: status, headers and body."""
        with self.namespace.entered():
            connection = http.client.HTTPConnection(host, HEALTH_PORT, timeout=60)
            connection.connect()
        with contextlib.closing(connection):
            connection.request(method, path, headers={} if accept is None else {"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def connect(self, timeout: float = 60) -> socket.socket:
        """A client of the health port that has asked nothing yet."""
        with self.namespace.entered():
            client = socket.socket()
        client.settimeout(timeout)
        client.connect(("127.0.0.1", HEALTH_PORT))
        return client

    def health(self) -> dict:
        """The health JSON, of a report begun after the question; the daemon must have been started with -j.

        When it is asked much, or held up, gwlbtun may answer with the report before that.
        """
        asked = time.monotonic()
        for _ in range(0 if self._started < math.inf else 2):  # the quickest answer tells best
            self._report()
        while True:
            report = self._report()
            if self._started + report["uptimeSecs"] > asked - 0.005:
                return report
            assert time.monotonic() < asked + 60, "there is no new report"
            time.sleep(0.02)

    def _report(self) -> dict:
        report = json.loads(self.get()[2])
        self._started = min(self._started, time.monotonic() - report["uptimeSecs"])
        return report

    def drops(self) -> Dict[str, int]:
        """What health says was dropped, by reason, without the reasons there are none for."""
        return {reason: count for reason, count in self.health()["drops"].items() if count}

    def eni(self, endpoint: gwlb.Endpoint) -> Optional[dict]:
        """The part of the health JSON that is about one endpoint; None: there is none."""
        return next((eni for eni in self.health()["enis"] if eni["eniStr"] == endpoint.id), None)

    def threads(self) -> Dict[int, str]:
        """Names of its threads as the kernel has them, by ID."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[int(task.name)] = (task / "comm").read_text().rstrip("\n")
        return found

    def threads_but_tunnels(self) -> Dict[int, str]:
        """The same without T threads, each of which starts when its endpoint has work for it."""
        return {number: name for number, name in self.threads().items() if not re.search(r" T\d+$", name)}

    def wait_hooks_read(self, timeout: float = 60) -> None:
        """Returns when no thread reads what a hook prints: these may end a little after the hook, and what it has made."""
        end = time.monotonic() + timeout
        while "gwlbtun Hook" in self.threads().values():
            assert time.monotonic() < end, "what a hook prints is read without end"
            time.sleep(0.01)

    def wait_patrolled(self, timeout: float = 60) -> None:
        """Returns when the patrol, which makes notes, has seen what is so now: it sleeps once or twice before it looks."""
        thread, = (number for number, name in self.threads().items() if name == "gwlbtun Patrol")

        def naps() -> int:
            status = Path(f"/proc/{self.pid}/task/{thread}/status").read_text()
            return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE).group(1))
        before, end = naps(), time.monotonic() + timeout
        while naps() < before + 4:
            assert time.monotonic() < end, "the patrol stands still"
            time.sleep(0.1)

    def memory(self) -> int:
        """Its resident memory, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE).group(1)) << 10

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def udp_sockets(self) -> List[Tuple[Tuple[str, int], Tuple[str, int]]]:
        """The ends of each IPv4 UDP socket in its namespace, as addresses and ports: its own and its peer's."""
        found = []
        for line in Path(f"/proc/{self.pid}/net/udp").read_text().splitlines()[1:]:
            ends = [end.split(":") for end in line.split()[1:3]]
            own, peer = ((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)) for address, port in ends)
            found.append((own, peer))
        return found

    def stop(self, timeout: float = 60) -> int:
        """Ends it with SIGTERM, if it has not ended; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"gwlbtun does not stop:\n{self.log()[-4000:]}{self.errors()[-4000:]}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Lab:
    """Balancer and appliance, linked; hosts, endpoints and daemons as a test asks for them."""

    kernel_path = KERNEL_PATHS[0]  # of daemons, where a test asks for nothing else

    def __init__(self, directory: Path):
        self.directory = directory
        self.daemons: List[Daemon] = []
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.push(self._stack)
            self.outside = self._stack.enter_context(netns.Namespace("gwlb"))
            self.appliance = self._stack.enter_context(netns.Namespace("appl"))
            netns.link(self.outside, "eth0", self.appliance, "eth0")
            for address in BALANCER:
                self.outside.ip("address add", f"{address}/24", "dev eth0")
            self.appliance.ip("address add", f"{APPLIANCE}/24", "dev eth0")
            self.appliance.ip("address add", f"{APPLIANCE_IPV6}/64", "dev eth0 nodad")
            self.balancer = gwlb.Balancer(self.outside, BALANCER, APPLIANCE)
            undo.pop_all()

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.kill()
        self.balancer.close()
        self._stack.close()

    def hook(self, script: str, name: str = "hook.sh") -> Path:
        path = self.directory / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def start(self, *arguments, hook: Optional[str] = PASSTHROUGH, json_health: bool = True,
              command: Optional[list] = None, kernel_path: Optional[str] = "") -> Daemon:
        """A daemon that is ready; hook is the text of a script for CREATE and DESTROY; kernel_path "": the laboratory's, None:
        as by default."""
        hooks = []
        if hook:
            path = self.hook(hook)
            hooks = ["-c", path, "-r", path]
        chosen = [] if kernel_path is None else ["--kernel-path", kernel_path or self.kernel_path]
        daemon = Daemon(self.appliance, self.directory, [*["-j"] * json_health, *hooks, *chosen, *arguments], command)
        self.daemons.append(daemon)
        return daemon.wait_ready()

    def emit(self, device: str, packet: bytes, protocol: Optional[int] = None) -> None:
        """Linux on the appliance sends a packet out of an interface, just as it is."""
        with self.appliance.entered():
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        with raw:
            protocol = protocol or (geneve.PROTOCOL_IPV4 if packet[0] >> 4 == 4 else geneve.PROTOCOL_IPV6)
            raw.sendto(packet, (device, protocol))

    def forge(self, packet: bytes) -> None:
        """Somebody outside sends the appliance an IPv4 packet, just as it is."""
        with self.outside.entered():
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with raw:
            raw.sendto(packet, (APPLIANCE, 0))

    def carries(self, endpoint: gwlb.Endpoint, packet: bytes) -> bool:
        """Whether a packet, or one sent before it, returns."""
        before = len(endpoint.received)
        endpoint.send(packet)
        return self.wait(lambda: len(endpoint.received) > before)

    def carries_all(self, endpoint: gwlb.Endpoint, sent: List[bytes]) -> bool:
        """Whether as many return as are sent, or more: one too many is a violation."""
        due = len(endpoint.received) + len(sent)
        for packet in sent:
            endpoint.send(packet)
        return self.wait(lambda: len(endpoint.received) >= due)

    def wait(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        return self.balancer.wait(condition, timeout)

    def route(self) -> None:
        """Makes the appliance a router of both families."""
        for name in "ipv4.ip_forward", "ipv6.conf.all.forwarding":
            self.appliance.sysctl(f"net.{name}", 1)
        for scope in "all", "default":
            self.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
        self.appliance.sysctl("net.ipv4.icmp_ratelimit", 0)
        self.appliance.sysctl("net.ipv6.icmp.ratelimit", 0)

    def one_wire(self) -> None:
        """Makes the link keep the order of packets.

        Each core has a queue of its own at the end of a veth pair, so what is sent on two may change places, as on no wire. And
        when Linux has found a neighbour, what it sends then may overtake what has waited for that: now they are known.
        """
        for side in self.outside, self.appliance:
            side.run("sh", "-c", "echo 1 > /sys/class/net/eth0/queues/rx-0/rps_cpus")
        for address in BALANCER:
            self.appliance.run("ping", "-c1", "-W60", address)

    def endpoint(self, eni: int = ENI, expectation: Optional[gwlb.Identical] = None, extra_options=()) -> gwlb.Endpoint:
        return self.balancer.endpoint(eni, expectation, extra_options)

    def host(self, label: str, addresses: Iterable[str]) -> gwlb.Host:
        return gwlb.Host(self._stack.enter_context(netns.Namespace(label)), tuple(addresses))

    def pair(self, eni: int = ENI, expectation: Optional[gwlb.Identical] = None, client=CLIENT, server=SERVER,
             extra_options=()) -> Pair:
        """An endpoint with two hosts, which have the same addresses in every pair unless told otherwise."""
        pair = Pair(self.endpoint(eni, expectation, extra_options), self.host("cli", client), self.host("srv", server))
        pair.endpoint.attach(pair.client)
        pair.endpoint.attach(pair.server)
        return pair
