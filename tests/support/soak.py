# SPDX-License-Identifier: MIT-0
"""gwlbtun under all that happens to it in months, in minutes: mixed traffic, endpoints and hooks that come and go, faults.

At the end nothing may have grown, every packet must be accounted for, and nothing may have come back altered or under
another's header. `make soak` runs it for as long as it is told to, tests/daemon/test_soak.py for some seconds.
"""
import contextlib
import hashlib
import json
import math
import random
import re
import signal
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence

import lab as laboratory
import packets
from lab import CLIENT, ENI, SERVER, Daemon, Lab, Pair
from malformed import MALFORMED
from manager import manager

STEADY = 2          # endpoints with hosts, whose traffic never ends
PASSING = 60        # endpoints that come and go
TIMEOUT_S = 2       # after which an endpoint without traffic goes
NEIGHBOUR_S = 3.0   # how long the search for a neighbour takes
FAULT_S = 0.3       # how long a fault lasts
LAST_LINGER_S = 15  # for the last of them to go, and the last packet to return
TCP_PATIENCE_S = 120  # TCP tries again at ever longer intervals, and may meet a fault each time
RESTART_S = 30
EACH_ONCE_S = 120   # what a busy host may need beyond the time that was asked for, so that each thing happens
PROBES = 16         # flows of which each receiver gets some
BLOCK = 40_000      # bytes that a TCP connection carries at a time

BUFFERS_KB = 66_000  # a mapping as large as this holds the buffers of a receiver

# What may have grown since the warm-up: sockets to the load balancer that wait to be closed, and pages of allocators.
FEW_DESCRIPTORS = 8
SLACK_KB = 6_000

# What a soak must have done at least once.
EACH = "TCP bytes", "connections", "datagrams", "malformed", "interfaces deleted", "uplink down", "frozen", "restarts"

# One endpoint in eight has a hook that fails, one that hangs for a while, one that leaves a process behind.
HOOK = laboratory.PASSTHROUGH + """
case $(($(printf %d "'${3#"${3%?}"}") % 8)) in
0) exit 1 ;;
1) sleep 0.3 ;;
2) sleep 3 >/dev/null 2>&1 & ;;
esac
"""


class Use(NamedTuple):
    """What the daemon takes of the host."""

    memory_kb: int
    descriptors: int
    threads: int


def use_of(daemon: Daemon) -> Use:
    return Use(memory_kb(daemon.pid), daemon.descriptors(), len(daemon.threads()))


def memory_kb(pid: int) -> int:
    """Resident memory, without the buffers of receivers: each of these keeps what the largest datagram in it took."""
    maps = Path(f"/proc/{pid}/smaps").read_text()
    mappings = re.findall(r"^Size: +(\d+) kB(?:\n\w+: .*)*?\nRss: +(\d+) kB", maps, re.MULTILINE)
    return sum(int(resident) for size, resident in mappings if int(size) < BUFFERS_KB)


def missing(health: dict) -> Dict[str, int]:
    """Packets that are neither passed on nor counted as dropped, by the side they came from."""
    totals, drops = health["totals"], list(health["drops"].items())
    split = [reason for reason, _ in drops].index("tun_write") + 1
    return {"gwlb": totals["pktsFromGwlb"] - totals["pktsToLinux"] - sum(count for _, count in drops[:split]),
            "linux": totals["pktsFromLinux"] - totals["pktsToGwlb"] - sum(count for _, count in drops[split:])}


class Soak:
    """The laboratory, and threads of which each makes one kind of traffic or trouble until it is told to stop."""

    def __init__(self, directory: Path, seed: int = 1):
        self._stack = contextlib.ExitStack()
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._quiet = threading.Event()  # no faults: the others go on
        self._failures: List[str] = []
        self._in_order_from = 0.0        # the network keeps the order of packets from then on
        self._probes = 0
        self.done: Dict[str, int] = {}   # how often each thing was done
        self.lab = Lab(directory)
        self._stack.callback(self.lab.close)
        told = self._stack.enter_context(manager(directory))
        (directory / "options").write_text("# soak\n")
        self.daemon = self.lab.start(
            f"@{directory / 'options'}", "-t", TIMEOUT_S, "--udpthreads", 2, "--tunthreads", 2, "--max-flows", 20_000,
            "--max-endpoints", STEADY + PASSING, "--hook-jobs", 4, hook=HOOK,
            command=[*told.command(), *laboratory.command_line()])
        self.steady = [self.lab.pair(ENI + number) for number in range(STEADY)]
        self.lab.one_wire()
        self._passing = [self.lab.endpoint(ENI + 0x1000 + number) for number in range(PASSING)]

    def close(self) -> None:
        self._stopping.set()
        self._stack.close()

    def run(self, seconds: float, at_least: Sequence[str] = ()) -> None:
        """All kinds of traffic and trouble for so long, and on until each of at_least has been done.

        Raises AssertionError when one of them cannot do what it must.
        """
        self._stopping.clear()
        self._quiet.clear()
        work = [self._churn, self._malformed, self._trouble, self._poll]
        for pair in self.steady:
            work += [lambda pair=pair: self._datagrams(pair), lambda pair=pair: self._connections(pair)]
        threads = [threading.Thread(target=self._guarded, args=(loop,)) for loop in work]
        for thread in threads:
            thread.start()
        self._stopping.wait(seconds)
        deadline = time.monotonic() + EACH_ONCE_S
        while not self._stopping.wait(0.1) and set(at_least) - set(self.done) and time.monotonic() < deadline:
            pass
        self._quiet.set()
        self._stopping.wait(2 * FAULT_S)
        self._stopping.set()
        for thread in threads:
            thread.join()
        assert not self._failures, self._failures[0] + self._state()
        assert set(self.done) >= set(at_least), (at_least, self.done)

    def _state(self) -> str:
        """What may tell why something failed."""
        enis = [self.daemon.eni(pair.endpoint) for pair in self.steady]
        return f"{json.dumps(enis, indent=1)}\n{self.daemon.log()[-6000:]}"

    def settle(self) -> Use:
        """After run(): waits until all that passes has passed and gone; what the daemon takes then."""
        for pair in self.steady:
            self._returns(pair)
        lab, daemon = self.lab, self.daemon
        assert lab.wait(lambda: daemon.health()["enis"] == [], LAST_LINGER_S), "endpoints without traffic do not go"
        assert lab.wait(lambda: not any(missing(daemon.health()).values()), LAST_LINGER_S), missing(daemon.health())
        use = use_of(daemon)
        time.sleep(1)
        return Use(*map(min, use, use_of(daemon)))  # a hook's reader may have been about to end

    def _returns(self, pair: Pair) -> None:
        """After all faults, traffic passes by itself."""
        assert self._probes_return(pair), f"{pair.endpoint.id} does not carry traffic after all faults are over"

    def _probes_return(self, pair: Pair) -> bool:
        """Whether packets of new flows come back, enough for every receiver. All that was sent before them is through then."""
        self._probes += 1
        probes = [packets.udp("10.9.9.9", "10.9.9.8", self._probes, 1 + number, b"probe") for number in range(PROBES)]

        def back() -> bool:
            left = [probe for probe in probes if not pair.endpoint.flow(probe).returned]
            for probe in left:
                pair.endpoint.send(probe)
            time.sleep(0.1)
            return not left
        return self.lab.wait(back, LAST_LINGER_S)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:
            self._failures.append(traceback.format_exc())
            self._stopping.set()

    def _count(self, what: str, number: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + number

    # ---- Traffic -----------------------------------------------------------------------------------------------------

    def _datagrams(self, pair: Pair) -> None:
        """UDP, ICMP and fragments of thousands of flows, some under new cookies."""
        rng, endpoint = random.Random(pair.endpoint.eni), pair.endpoint
        number = 0
        while not self._stopping.wait(0.01):
            for _ in range(20):
                number += 1
                size, flow = rng.choice((1, 100, 1000, 8000)), rng.randrange(3000)
                ends = rng.choice((("10.1.0.9", f"10.2.{flow >> 8}.{flow & 255}"), ("2001:db8:1::9", f"2001:db8:2::{flow:x}")))
                body = number.to_bytes(8, "big") * (size // 8 + 1)
                if number % 10 == 0:
                    datagram = packets.udp_datagram(*ends, 9, 1024 + flow, body)
                    for part in packets.fragments(*ends, packets.UDP, datagram, 1024, number & 0xFFFF):
                        endpoint.send(part)
                elif number % 10 == 1:
                    endpoint.send(packets.echo(*ends, flow, number & 0xFFFF, body))
                else:
                    packet = packets.udp(*ends, 9, 1024 + flow, body)
                    if number % 50 == 2 and time.monotonic() > self._in_order_from:
                        endpoint.flow(packet).renew(cookie=rng.getrandbits(32))
                    endpoint.send(packet)
            self._count("datagrams", 20)
            endpoint.received.clear()

    def _connections(self, pair: Pair) -> None:
        """One TCP connection after the other, between real kernels: what comes out must be what went in."""
        rng = random.Random(pair.endpoint.eni)
        port = 0
        while not self._stopping.is_set():
            version, port = rng.choice((4, 6)), port % 20_000 + 1
            with self._sockets(pair, version, 1024 + port) as (client, server):
                if not client:
                    continue
                sent, got = hashlib.sha256(), hashlib.sha256()
                for _ in range(rng.randrange(1, 20)):
                    block = rng.randbytes(BLOCK)
                    sent.update(block)
                    sender = threading.Thread(target=client.sendall, args=(block,))
                    sender.start()
                    left = BLOCK
                    while left:
                        data = server.recv(left)
                        assert data, "a TCP connection was lost"
                        got.update(data)
                        left -= len(data)
                    sender.join()
                    self._count("TCP bytes", BLOCK)
                assert sent.digest() == got.digest(), "TCP delivered other bytes than were sent"
            self._count("connections")

    @contextlib.contextmanager
    def _sockets(self, pair: Pair, version: int, port: int):
        """Two ends of a connection; none if the soak ends first."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with contextlib.ExitStack() as stack:
            with pair.server.namespace.entered():
                listener = stack.enter_context(socket.create_server((pair.server.address(version), port), family=family))
            with pair.client.namespace.entered():
                client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            for end in client, listener:
                end.settimeout(TCP_PATIENCE_S)
            try:
                client.connect((pair.server.address(version), port))
                server = stack.enter_context(listener.accept()[0])
            except socket.timeout:  # TimeoutError, since Python 3.10
                assert self._stopping.is_set(), "a TCP connection could not be made"
                yield None, None
                return
            server.settimeout(TCP_PATIENCE_S)
            yield client, server

    def _malformed(self) -> None:
        while not self._stopping.wait(0.005):
            _, payload = self._random.choice(MALFORMED)
            with contextlib.suppress(OSError):  # the uplink is down
                self.lab.balancer.inject(payload)
                self._count("malformed")

    def _churn(self) -> None:
        """Endpoints that have some packets, and go: each time with interfaces and hooks."""
        rng = random.Random(2)
        while not self._stopping.wait(0.05):
            endpoint = rng.choice(self._passing)
            for number in range(rng.randrange(1, 20)):
                endpoint.send(packets.udp(CLIENT[0], SERVER[0], number, rng.randrange(1, 65536), b"passing"))
            endpoint.received.clear()
            self._count("bursts of endpoints that pass")

    # ---- Trouble -----------------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        kinds = [self._interface_down, self._interface_deleted, self._restart, self._uplink_down, self._frozen]
        turn = 0
        while not self._quiet.wait(FAULT_S):
            if self._stopping.is_set():
                return
            kinds[turn % len(kinds)]()
            turn += 1

    def _interface_down(self) -> None:
        name = self._some_interface()
        if self._set(name, "down"):
            time.sleep(FAULT_S)
            self._set(name, "up")
            self._count("interfaces down")

    def _interface_deleted(self) -> None:
        if self._ip("link del", self._some_interface()):
            self._count("interfaces deleted")

    def _uplink_down(self) -> None:
        # When Linux has found a neighbour, what it sends then may overtake what has waited for that.
        self._in_order_from = math.inf
        if not all(self._probes_return(pair) for pair in self.steady):
            return
        self._set("eth0", "down")
        time.sleep(FAULT_S)
        self._set("eth0", "up")
        self._in_order_from = time.monotonic() + NEIGHBOUR_S
        self._count("uplink down")

    def _frozen(self) -> None:
        self.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(FAULT_S)
        self.daemon.process.send_signal(signal.SIGCONT)
        self._count("frozen")

    def _restart(self) -> None:
        """In place, with other options each time. Hooks that hang may stand against it."""
        (self.lab.directory / "options").write_text(f"--idle {self._random.randrange(300, 400)}\n")

        def answers() -> int:
            return len(re.findall("Restart in place: (this is another program now|not now)", self.daemon.log()))
        before, done = answers(), self.daemon.log().count("this is another program now")
        self.daemon.process.send_signal(signal.SIGHUP)
        assert self.lab.wait(lambda: answers() > before, RESTART_S), "a restart in place hangs" + self._state()
        self._count("restarts", self.daemon.log().count("this is another program now") - done)

    def _some_interface(self) -> str:
        there = re.findall(r"^(gw[io]-\w+)", self.lab.appliance.ip("-br link"), re.MULTILINE)
        return self._random.choice(there or ["gwi-none"])

    def _set(self, name: str, state: str) -> bool:
        return self._ip("link set", name, state)

    def _ip(self, *words: object) -> bool:
        """Whether it could be done: interfaces come and go."""
        try:
            self.lab.appliance.ip(*words)
        except (OSError, RuntimeError):
            return False
        return True

    # ---- Those who look ----------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        paths = "/", "/metrics", "/status", "/text"
        turn = 0
        while not self._stopping.wait(0.1):
            status, _, body = self.daemon.get(paths[turn % len(paths)])
            assert status in (200, 503) and body
            turn += 1
            self._count("health polls")


def soak(directory: Path, warm_up_s: float, seconds: float) -> str:
    """Warms up, goes on for that long, and compares: raises AssertionError, or tells the figures."""
    with contextlib.closing(Soak(directory)) as made:
        made.run(warm_up_s)
        before = made.settle()
        made.run(seconds, EACH)
        after = made.settle()
        health, violations = made.daemon.health(), made.lab.balancer.violations
        assert violations == [], violations[:10]
        assert health["totals"]["pktsToGwlb"] >= made.lab.balancer.counters.returned
        assert after.descriptors <= before.descriptors + FEW_DESCRIPTORS, (before, after)
        assert after.threads <= before.threads, (before, after)
        if not laboratory.SANITIZED:  # whose memory grows with all that it has seen
            assert after.memory_kb <= before.memory_kb + SLACK_KB, (before, after)
        assert made.daemon.stop() == 0, made.daemon.log()[-4000:]
        drops = {reason: count for reason, count in health["drops"].items() if count}
        ways = [health["ebpf"][way]["accelerated"] for way in ("ingress", "egress")]
        return "\n".join([*(f"{what}: {number:,}" for what, number in sorted(made.done.items())),
                          f"hooks: {health['hooks']['create']['ok']:,} ok, {health['hooks']['create']['failed']:,} failed",
                          f"received {health['totals']['pktsFromGwlb']:,}, returned {health['totals']['pktsToGwlb']:,}",
                          f"took the kernel: {ways[0]:,} in, {ways[1]:,} back", f"dropped: {drops}",
                          f"after the warm-up {before}", f"at the end {after}", "all adds up"])
