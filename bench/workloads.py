# SPDX-License-Identifier: MIT-0
"""What is measured: the table of workloads, and how much time goes into each."""
from typing import List, NamedTuple

MANY_FLOWS = 10000  # from here on, every flow is sent once before anything is measured
EXPIRING_FLOWS = 1_000_000


class Workload(NamedTuple):
    name: str
    label: str
    size: int = 128  # of the inner packet, bytes
    flows: int = 64
    ports: int = 512  # of the load balancer, for all flows
    endpoints: int = 1
    ipv6: bool = False
    tcp: bool = False
    burst: int = 1
    segment: bool = False  # arrives as if merged by GRO
    cut: bool = False  # leaves as if merged, but arrives as single datagrams
    probe_apart: bool = False  # the probes have an endpoint of their own
    offload: str = ""  # for gwlbtun, in place of what the command line says

    def options(self) -> List[str]:
        switches = {"--ipv6": self.ipv6, "--tcp": self.tcp, "--segment": self.segment or self.cut,
                    "--probe-apart": self.probe_apart}
        return ["--size", str(self.size), "--flows", str(self.flows), "--endpoints", str(self.endpoints), "--burst",
                str(self.burst), "--ports", str(self.ports), *(name for name, on in switches.items() if on)]


WORKLOADS = [
    Workload("udp128", "UDP 128 B, 64 flows"),
    Workload("udp512", "UDP 512 B, 64 flows", size=512),
    Workload("udp128-v6", "IPv6 UDP 128 B, 64 flows", ipv6=True),
    Workload("udp128-unmerged", "UDP 128 B, 64 flows, not merged", offload="udp-gro,udp-gso"),
    Workload("udp128-50k", "UDP 128 B, 50,000 flows", flows=50_000),
    Workload("udp128-1m", "UDP 128 B, 1,000,000 flows", flows=1_000_000),
    Workload("udp128-1m-64p", "UDP 128 B, 1 million, 64 ports", flows=1_000_000, ports=64),
    Workload("udp128-16e", "UDP 128 B, 16 endpoints", endpoints=16),
    Workload("udp128-64e", "UDP 128 B, 64 endpoints", endpoints=64),
    Workload("tcp1500", "TCP 1500 B, bursts of 32", size=1500, tcp=True, burst=32, segment=True),
    Workload("tcp1500-v6", "IPv6 TCP 1500 B, bursts of 32", size=1500, tcp=True, burst=32, segment=True, ipv6=True),
    Workload("tcp1500-single", "TCP 1500 B, single datagrams", size=1500, tcp=True, burst=32, cut=True),
    Workload("tcp1500-elephant", "TCP 1500 B, one elephant flow", size=1500, tcp=True, burst=32, segment=True, flows=1),
    Workload("tcp8500", "TCP 8500 B, bursts of 7", size=8500, tcp=True, burst=7, segment=True),
]
OVERLOAD = Workload("overload-50k", "UDP 128 B, 50,000 flows, too many", flows=50_000, probe_apart=True)
KERNEL_PATH = "kernel-path"
_NAMED = {workload.name: workload for workload in WORKLOADS}
KERNEL_PATH_WORKLOADS = [
    _NAMED["udp128-50k"],
    _NAMED["udp128-50k"]._replace(name="udp128-50k-v6", label="IPv6 UDP 128 B, 50,000 flows", ipv6=True),
    _NAMED["udp128"],
    _NAMED["udp128-16e"],
    _NAMED["tcp1500"],
    _NAMED["tcp1500"]._replace(name="tcp1500-plain", label="TCP 1500 B, no outer checksum", segment=False),
]
SHORT = Workload("short", "short connections", flows=64)  # that so many live at a time
SHORT_PACKETS = 6, 10
SHORT_PER_S = 1000
LONE_US = 50  # between a packet's return and the next packet
OTHERS = ["latency", "lone", OVERLOAD.name, "expiry", KERNEL_PATH]  # measurements that are not workloads
QUICK = ["udp128", "tcp1500", "tcp1500-single", "latency", "lone", OVERLOAD.name, "expiry"]


class Pace(NamedTuple):
    """How much time goes into a measurement. Every bound of the run is here."""

    trial_ms: int
    steps: int  # of the search
    floods: int  # trials that tell how much the generator can send, at most
    rounds: int  # of all handlers in turn, for bulk traffic: how much of the caches a process gets is a matter of luck
    repeats: int  # of the rate found
    probes: int  # per second, in the latency trial
    pings: int  # one at a time, back to back
    trickle: int  # one at a time, 32 a second: 4 kB/s of 128-byte packets
    expiry_rounds: int
    overload_ms: int
    short_ms: int  # the kernel counts a core's idle time in hundredths of a second


FULL = Pace(trial_ms=1000, steps=8, floods=3, rounds=3, repeats=3, probes=1000, pings=10000, trickle=160,
            expiry_rounds=9, overload_ms=4000, short_ms=8000)
BRIEF = Pace(trial_ms=400, steps=5, floods=1, rounds=1, repeats=1, probes=500, pings=2000, trickle=32,
             expiry_rounds=3, overload_ms=1500, short_ms=2000)


def rounds_of(workload: Workload, pace: Pace) -> int:
    return pace.rounds if workload.tcp else 1
