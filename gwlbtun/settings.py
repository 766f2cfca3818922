# SPDX-License-Identifier: MIT-0
"""The settings: each option with its spellings, default, limits and check, in one place."""
import dataclasses
import os
import re
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

from . import checks, identity
from .checks import OFFLOADS, Address
from .identity import Identities, NamedEndpoint, Reservation
from .logs import DUMPED_SECTIONS, SECTIONS, SILENT_SECTIONS, Level, parse_levels
from .rendezvous import DEFAULT_PATH, GROUP, control_path

UDP_THREADS_MAX = 1024
TUNNEL_THREADS_MAX = 256  # Linux's MAX_TAP_QUEUES: queues of one TUN device
FLOWS_LEAST = 16
BUSYPOLL_US_MAX = 1_000_000
RCVBUF_MB_MAX = 1023      # the kernel keeps twice the value, in an int


def _option(default: Any, *flags: str, help: str, metavar: Optional[str] = None,
            check: Optional[Callable[[str], Any]] = None, unset: Tuple[str, ...] = ("",),
            without: str = "its default holds", unset_value: Any = ...) -> Any:
    """A field of Settings that the command line sets. Without a metavar it is a switch.

    unset: the texts that stand for unset_value, which is the default as a rule; an empty variable of a unit file gives such a
    text. without: what that means. With a tuple for a default, the option may be given several times and its values add up.
    """
    return dataclasses.field(default=default, metadata={"flags": flags, "help": help, "metavar": metavar, "check": check,
                                                        "unset": unset, "without": without,
                                                        "unset_value": default if unset_value is ... else unset_value})


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a thread of the packet path runs; its name follows from that."""

    name: str
    number: int
    core: Optional[int]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All options, parsed and checked."""

    create_hook: Optional[str] = _option(
        None, "-c", "--cmdnew", metavar="FILE", check=checks.command, without="there is no create hook",
        help="command called after an endpoint's interfaces have been created, with the arguments "
             "CREATE, the gwi interface, the gwo interface and the ENI ID in base 16")
    destroy_hook: Optional[str] = _option(
        None, "-r", "--cmddel", metavar="FILE", check=checks.command, without="there is no destroy hook",
        help="command called before an endpoint's interfaces are destroyed, with the same arguments but DESTROY")
    hook_jobs: int = _option(
        1, "--hook-jobs", metavar="NUM", check=checks.whole_number(1, 64, "hooks"),
        help="hooks that may run side by side (default: 1, since some hooks number what they make by what exists)")
    require_hook: bool = _option(
        False, "--require-hook", help="let no packet into an endpoint whose create hook has failed")
    endpoint_idle_s: int = _option(
        0, "-t", "--timeout", metavar="TIME", check=checks.whole_number(0, 31_536_000, "seconds"),
        help="destroy an endpoint after TIME seconds without a packet; 0 (the default) means never")
    flow_idle_s: int = _option(
        350, "-i", "--idle", metavar="TIME", check=checks.whole_number(1, 86_400, "seconds"),
        help="forget a TCP flow after TIME seconds without a packet (default: 350)")
    udp_idle_s: int = _option(
        120, "--udp-idle", metavar="TIME", check=checks.whole_number(1, 86_400, "seconds"),
        help="forget a flow of UDP, or of any other protocol but TCP, after TIME seconds without a packet (default: 120)")
    drain_s: int = _option(
        0, "--drain", metavar="TIME", check=checks.whole_number(0, 3600, "seconds"),
        help="after SIGTERM, go on for TIME seconds, but unhealthy, so that the load balancer moves flows away before gwlbtun "
             "stops; 0 (the default): stop at once")
    health_port: Optional[Address] = _option(
        None, "-p", "--port", metavar="PORT", check=checks.address, unset=("", "0"),
        without="there is no health port",
        help="answer health checks over HTTP on TCP port PORT, or on one address only with ADDRESS:PORT (default: none)")
    health_json: bool = _option(False, "-j", "--json", help="answer health checks in JSON")
    health_status_only: bool = _option(False, "-s", help="answer health checks with the status only, no body")
    debug: bool = _option(False, "-d", "--debug", help="log everything at debug, as --logging all=debug")
    hex_dumps: bool = _option(False, "-x", help="log every packet with a hex dump")
    logging: str = _option(
        "", "--logging", metavar="CONFIG",
        help="what to log: section=level,...; sections: " + ", ".join(SECTIONS) + ", all; levels: "
             + ", ".join(level.name.lower() for level in Level) + " (default: all=important)")
    log_format: str = _option(
        "text", "--log-format", metavar="FORMAT", check=checks.log_format,
        help="how the log is written: text, or json with an object on each line (default: text)")
    udp_threads: Optional[int] = _option(
        None, "--udpthreads", metavar="NUM", check=checks.whole_number(1, UDP_THREADS_MAX, "threads"),
        help="threads that receive from the load balancer (default: one for each core that gwlbtun may run on)")
    udp_affinity: Optional[Tuple[int, ...]] = _option(
        None, "--udpaffinity", metavar="AFFIN", check=checks.cores(UDP_THREADS_MAX),
        help="cores for them, one thread on each, such as 1-2,4,7-8; wins over the number")
    tunnel_threads: Optional[int] = _option(
        None, "--tunthreads", metavar="NUM", check=checks.whole_number(1, TUNNEL_THREADS_MAX, "threads"),
        help="threads that serve each tunnel interface (default: one for each core that gwlbtun may run on)")
    tunnel_affinity: Optional[Tuple[int, ...]] = _option(
        None, "--tunaffinity", metavar="AFFIN", check=checks.cores(TUNNEL_THREADS_MAX),
        help="cores for them, as --udpaffinity")
    rcvbuf_mb: int = _option(
        32, "--rcvbuf", metavar="MB", check=checks.whole_number(1, RCVBUF_MB_MAX, "megabytes"),
        help="receive buffer to ask for, for each UDP socket (default: 32)")
    busypoll_us: int = _option(
        0, "--busypoll", metavar="USEC", check=checks.whole_number(0, BUSYPOLL_US_MAX, "microseconds"),
        help="let receivers poll the network card for so long before they sleep; 0 (the default): not at all")
    offload: FrozenSet[str] = _option(
        frozenset(OFFLOADS), "--offload", metavar="LIST", check=checks.offload_list,
        help="segmentation offloads to use where the kernel has them: none or a list of " + ", ".join(OFFLOADS)
             + " (default: all)")
    max_endpoints: int = _option(
        1024, "--max-endpoints", metavar="NUM", check=checks.whole_number(1, 65_536, "endpoints"),
        help="the most endpoints at a time (default: 1024)")
    max_flows: int = _option(
        2_097_152, "--max-flows", metavar="NUM", check=checks.whole_number(FLOWS_LEAST, identity.FLOWS_MOST, "flows"),
        help="the most flows at a time (default: 2097152)")
    reserve: Tuple[Reservation, ...] = _option(
        (), "--reserve", metavar="[ID:]a,b,c,d,e,f", check=identity.reservations,
        help="flows to have room for, by family and protocol; may be given several times. The flow table grows without a "
             "stall, so only a sum beyond --max-flows matters: it takes the place of that")
    no_return: bool = _option(
        False, "--no-return", help="receive only: nothing that Linux sends goes back to the load balancer")

    endpoints: Tuple[NamedEndpoint, ...] = _option(
        (), "--endpoint", metavar="ID[=NAME],...", check=identity.named_endpoints,
        help="have these endpoints ready from the start, and never destroy them for want of packets; the NAME of one, such as "
             "vpce-0123456789abcdef0=blue, is shown wherever it is; may be given several times (default: none)")
    netns: bool = _option(
        False, "--netns",
        help="give each endpoint a network namespace vpce-ID for its interfaces, which have the names gwi and gwo there, and "
             "for its hooks")
    allow_from: Tuple[Tuple[int, int], ...] = _option(
        (), "--allow-from", metavar="CIDR,...", check=checks.networks,
        help="take packets from these networks only: the load balancer's subnets; may be given several times "
             "(default: from everywhere)")
    allow_endpoints: Tuple[int, ...] = _option(
        (), "--allow-endpoint", metavar="ID,...", check=identity.endpoint_ids,
        help="serve these endpoints only, such as vpce-0123456789abcdef0; may be given several times (default: all)")
    uplinks: Tuple[str, ...] = _option(
        (), "--uplink", metavar="IFNAME,...", check=checks.uplinks,
        help="take packets through these interfaces only; may be given several times (default: all but lo, gwi and gwo)")
    prometheus: bool = _option(False, "-m", "--prometheus", help="answer /metrics with Prometheus text, and other paths with "
                                                                 "the status only")
    ebpf_object: Optional[str] = _option(
        None, "-e", metavar="OBJFILE", without="there is none",
        help="accepted for unit files of another gwlbtun; this one brings its programs with it, and says so")
    ebpf_interface: Optional[str] = _option(
        None, "-I", "--ebpf-interface", metavar="IFNAME", check=checks.interface, without="all that suit are used",
        help="let the path in the kernel use this network interface only (default: each that leads to the load balancer)")
    kernel_path: str = _option(
        "auto", "--kernel-path", metavar="WHEN", check=checks.kernel_path,
        help="let packets of known flows stay in the kernel: auto (the default), where it works; off, never; require, or do "
             "not start")

    control: str = _option(
        DEFAULT_PATH, "--control", metavar="PATH", check=control_path, unset_value="",
        without="there is no control socket",
        help=f"socket at which `show` asks this daemon; empty: none (default: {DEFAULT_PATH}). Root may ask, and the group "
             f"{GROUP} if there is one")

    def reconciled(self) -> Tuple["Settings", List[str]]:
        """With what options mean for each other, and a line about each option that has nothing to do here.

        Raises ValueError when options contradict each other.
        """
        identity.check_named(self.endpoints, self.max_endpoints)
        reserved = identity.reserved_flows(self.reserve, self.endpoints)
        if reserved > identity.FLOWS_MOST:
            raise ValueError(f"--reserve asks for {reserved} flows: the most are {identity.FLOWS_MOST}")
        notes = []
        if self.ebpf_object is not None:
            notes.append("-e has no effect: gwlbtun brings its programs in eBPF with it (--kernel-path)")
        if self.kernel_path == "require" and self.no_return:
            raise ValueError("--kernel-path require and --no-return contradict each other: where nothing goes back, no flow is "
                             "known")
        if self.ebpf_interface and self.kernel_path == "off":
            notes.append("-I/--ebpf-interface has no effect while --kernel-path is off")
        if self.reserve:
            notes.append("--reserve reserves nothing, as the flow table grows without a stall"
                         + (f"; --max-flows becomes {reserved}" if reserved > self.max_flows else ""))
        notes += [f"--logging: gwlbtun logs nothing in section {section}" for section in SILENT_SECTIONS
                  if re.search(rf"\b{section}\s*=", self.logging, re.IGNORECASE)]
        if self.drain_s and not self.health_port:
            notes.append("--drain: without a health port (-p), no health check tells the load balancer that gwlbtun drains")
        flows = 0 if self.no_return else max(self.max_flows, reserved)
        # Whoever names an endpoint means that it be served.
        allowed = self.allow_endpoints and (*self.allow_endpoints, *(endpoint.eni for endpoint in self.endpoints))
        return dataclasses.replace(self, max_flows=flows, allow_endpoints=allowed), notes

    @property
    def log_levels(self) -> Dict[str, Level]:
        """The level of each section: -d, then -x, then --logging, of which the last wins."""
        levels = dict.fromkeys(SECTIONS, Level.DEBUG if self.debug else Level.IMPORTANT)
        if self.hex_dumps:
            levels.update(dict.fromkeys(DUMPED_SECTIONS, Level.DEBUGDETAIL))
        levels.update(parse_levels(self.logging)[0])
        return levels

    @property
    def identities(self) -> Identities:
        return Identities(self.endpoints, self.netns)

    @property
    def udp_places(self) -> List[Place]:
        return _places("U", self.udp_threads, self.udp_affinity, UDP_THREADS_MAX)

    @property
    def tunnel_places(self) -> List[Place]:
        return _places("T", self.tunnel_threads, self.tunnel_affinity, TUNNEL_THREADS_MAX)


def _places(letter: str, count: Optional[int], affinity: Optional[Tuple[int, ...]], most: int) -> List[Place]:
    if affinity:
        return [Place(f"gwlbtun {letter}A{core:03d}", core, core) for core in affinity]
    count = count or min(len(os.sched_getaffinity(0)), most)
    return [Place(f"gwlbtun {letter}{number:03d}", number, None) for number in range(count)]
