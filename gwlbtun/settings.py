# SPDX-License-Identifier: MIT-0
"""What every part is given: each option with its spellings, default, limits and check, said once.

The check of an option is a function from its text to its value that raises ValueError with a text for the user.
"""
import dataclasses
import ipaddress
import os
import re
import shlex
import shutil
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .logs import DUMPED_SECTIONS, SECTIONS, Level, parse_levels

UDP_THREADS_MAX = 1024
TUNNEL_THREADS_MAX = 256  # Linux's MAX_TAP_QUEUES: queues of one TUN device
RCVBUF_MB_MAX = 1023      # the kernel keeps twice the value, in an int
OFFLOADS = ("udp-gro", "tun", "udp-gso")


def whole_number(low: int, high: int, unit: str) -> Callable[[str], int]:
    """A check for a whole number of `unit` from low to high."""
    def check(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError(f"'{text}' is not a whole number: give {unit} from {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"{text} is out of range: give {unit} from {low} to {high}")
        return int(text)
    return check


class Address(NamedTuple):
    """Where a server listens; without a host, on all addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_port = whole_number(1, 65_535, "a port")


def address(text: str) -> Address:
    """A check for PORT, ADDRESS:PORT or [ADDRESS]:PORT."""
    if ":" not in text:
        return Address("", _port(text))
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (found.version == 6):
            raise ValueError
    except ValueError:
        raise ValueError(f"'{text}' has no address: give a port, or with an address as in 10.0.0.5:8080 or "
                         "[fd00::5]:8080") from None
    return Address(str(getattr(found, "ipv4_mapped", None) or found), _port(port))


def online_cores() -> FrozenSet[int]:
    """The host's cores, whether or not this process may run on them."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            return frozenset(_expand(file.read().strip(), 1 << 20))
    except (OSError, ValueError):
        return frozenset(range(os.cpu_count() or 1))


def _expand(text: str, limit: int) -> List[int]:
    cores: List[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match:
            raise ValueError(f"'{part}' is neither a core nor a range of cores")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part} runs backwards")
        if last >= limit:
            raise ValueError(f"this host has no core {last}")
        cores.extend(core for core in range(first, last + 1) if core not in cores)
    return cores


def cores(most: int) -> Callable[[str], Tuple[int, ...]]:
    """A check for a list of cores such as 1-2,4,7-8 that this host has, at most so many."""
    def check(text: str) -> Tuple[int, ...]:
        online = online_cores()
        advice = f"give cores and ranges of them from 0 to {max(online)}, such as 0-1,3"
        try:
            chosen = _expand(text, max(online) + 1)
            missing = [core for core in chosen if core not in online]
            if missing:
                raise ValueError(f"core {missing[0]} of this host is offline")
        except ValueError as error:
            raise ValueError(f"'{text}': {error}: {advice}") from None
        if len(chosen) > most:
            raise ValueError(f"{len(chosen)} cores are too many: give at most {most}")
        return tuple(chosen)
    return check


# A first word that only the shell can judge: one it expands or that is joined to more than a name, or one of its own.
_SHELL_SYNTAX = re.compile(r"[$~;&|()<>`{}*?\[\]!\n]")
_SHELL_WORDS = frozenset("! . : alias break case cd command continue eval exec exit export for if local read readonly return "
                         "set shift test times trap type ulimit umask unset until wait while".split())
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z_0-9]*=.*", re.DOTALL)


def command(text: str) -> str:
    """A check for a command line whose program can be run, as far as that can be told without a shell."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is not a command line a shell could read: {error}") from None
    program = next((word for word in words if not _ASSIGNMENT.fullmatch(word)), None)
    if not program:
        raise ValueError("the command is empty: give an executable file, and its arguments if any")
    if _SHELL_SYNTAX.search(program) or program in _SHELL_WORDS:
        return text
    if shutil.which(program) is None:
        if os.path.isdir(program):
            raise ValueError(f"'{program}' is a directory: give an executable file")
        if os.path.exists(program) and os.statvfs(program).f_flag & os.ST_NOEXEC:
            raise ValueError(f"'{program}' cannot be executed, as its file system is mounted noexec: give "
                             f"\"sh '{program}'\", or move it to another one")
        if os.path.exists(program):
            raise ValueError(f"'{program}' cannot be executed: run chmod +x '{program}'"
                             + ("" if "/" in program else ", and give it with its path"))
        raise ValueError(f"there is no '{program}': give the path of an executable file")
    return text


def offload_list(text: str) -> FrozenSet[str]:
    """A check for a list of OFFLOADS; `none` and `all` stand alone."""
    words = text.lower().split(",")
    if words == ["none"]:
        return frozenset()
    if words == ["all"]:
        return frozenset(OFFLOADS)
    for word in words:
        if word not in OFFLOADS:
            raise ValueError(f"there is no offload '{word}': give none, all or a list of {', '.join(OFFLOADS)}")
    return frozenset(words)


def networks(text: str) -> Tuple[Tuple[int, int], ...]:
    """A check for a list of IPv4 networks and addresses: the first and the last address of each."""
    return tuple(_network(word) for word in text.split(","))


def _network(text: str) -> Tuple[int, int]:
    advice = "give IPv4 networks such as 10.0.1.0/24, separated by commas"
    if ":" in text:
        raise ValueError(f"'{text}' is not IPv4, by which the load balancer sends: {advice}")
    try:
        if not re.fullmatch(r"[0-9.]+(?:/[0-9]{1,2})?", text):
            raise ValueError
        network = ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text}' is not a network: {advice}") from None
    address, _, length = text.partition("/")
    if length and str(network.network_address) != address:
        raise ValueError(f"'{text}' is an address within a network: give {network} for all of the network, "
                         f"or {address} for the address alone")
    return int(network.network_address), int(network.broadcast_address)


def endpoint_ids(text: str) -> Tuple[int, ...]:
    """A check for a list of endpoints' IDs, as AWS shows them or as hooks and health do."""
    return tuple(_endpoint_id(word) for word in text.split(","))


def _endpoint_id(text: str) -> int:
    match = re.fullmatch(r"vpce-([0-9a-f]{17})|([0-9a-f]{1,17})", text, re.IGNORECASE)
    if not match or int(match[1] or match[2], 16) >= 1 << 64:
        raise ValueError(f"'{text}' is not the ID of an endpoint: give IDs such as vpce-0123456789abcdef0, "
                         "or their hexadecimal digits, separated by commas")
    return int(match[1] or match[2], 16)


def uplinks(text: str) -> Tuple[str, ...]:
    """A check for a list of interfaces' names. They need not be there yet."""
    for name in text.split(","):
        if not re.fullmatch(r"[^\s/:]{1,15}", name) or name in (".", ".."):
            raise ValueError(f"'{name}' is not the name of an interface: give names such as eth0, separated by commas")
        if name == "lo" or name.startswith(("gwi-", "gwo-")):
            raise ValueError(f"no load balancer sends by {name}: give names of network interfaces, such as eth0")
    return tuple(text.split(","))


def _option(default, *flags: str, help: str, metavar: Optional[str] = None, check: Optional[Callable] = None,
            unset: Tuple[str, ...] = ("",), without: str = "its default holds"):
    """A field of Settings that the command line sets. Without a metavar it is a switch.

    unset: the texts that stand for the default, as an empty variable of a unit file does; without: what that means.
    With a tuple for a default it may be given several times, and has what all of them give.
    """
    return dataclasses.field(default=default, metadata={"flags": flags, "help": help, "metavar": metavar, "check": check,
                                                        "unset": unset, "without": without})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that can be chosen, as parsed and checked."""

    create_hook: Optional[str] = _option(
        None, "-c", "--cmdnew", metavar="FILE", check=command, without="there is no create hook",
        help="command called after an endpoint's interfaces have been created, with the arguments "
             "CREATE, the gwi interface, the gwo interface and the ENI ID in base 16")
    destroy_hook: Optional[str] = _option(
        None, "-r", "--cmddel", metavar="FILE", check=command, without="there is no destroy hook",
        help="command called before an endpoint's interfaces are destroyed, with the same arguments but DESTROY")
    hook_jobs: int = _option(
        1, "--hook-jobs", metavar="NUM", check=whole_number(1, 64, "hooks"),
        help="hooks that may run side by side (default: 1, for those that number what they make by what is there)")
    require_hook: bool = _option(
        False, "--require-hook", help="let no packet into an endpoint whose create hook has failed")
    endpoint_idle_s: int = _option(
        0, "-t", "--timeout", metavar="TIME", check=whole_number(0, 31_536_000, "seconds"),
        help="destroy an endpoint that has had no packet for TIME seconds; 0, the default: never")
    flow_idle_s: int = _option(
        350, "-i", "--idle", metavar="TIME", check=whole_number(1, 86_400, "seconds"),
        help="forget a flow that has had no packet for TIME seconds (default: 350)")
    health_port: Optional[Address] = _option(
        None, "-p", "--port", metavar="PORT", check=address, unset=("", "0"),
        without="there is no health port",
        help="answer health checks over HTTP on TCP port PORT, or with ADDRESS:PORT on that address only (default: none)")
    health_json: bool = _option(False, "-j", "--json", help="answer health checks in JSON")
    health_status_only: bool = _option(False, "-s", help="answer health checks with the status only, no body")
    debug: bool = _option(False, "-d", "--debug", help="log everything at debug, as --logging all=debug")
    hex_dumps: bool = _option(False, "-x", help="log every packet with a hex dump")
    logging: str = _option(
        "", "--logging", metavar="CONFIG",
        help="what to log: section=level,...; sections: " + ", ".join(SECTIONS) + ", all; levels: "
             + ", ".join(level.name.lower() for level in Level) + " (default: all=important)")
    udp_threads: Optional[int] = _option(
        None, "--udpthreads", metavar="NUM", check=whole_number(1, UDP_THREADS_MAX, "threads"),
        help="threads that receive from the load balancer (default: the cores gwlbtun may run on)")
    udp_affinity: Optional[Tuple[int, ...]] = _option(
        None, "--udpaffinity", metavar="AFFIN", check=cores(UDP_THREADS_MAX),
        help="cores for them, one thread on each, such as 1-2,4,7-8; wins over the number")
    tunnel_threads: Optional[int] = _option(
        None, "--tunthreads", metavar="NUM", check=whole_number(1, TUNNEL_THREADS_MAX, "threads"),
        help="threads that serve each tunnel interface (default: the cores gwlbtun may run on)")
    tunnel_affinity: Optional[Tuple[int, ...]] = _option(
        None, "--tunaffinity", metavar="AFFIN", check=cores(TUNNEL_THREADS_MAX),
        help="cores for them, as --udpaffinity")
    rcvbuf_mb: int = _option(
        32, "--rcvbuf", metavar="MB", check=whole_number(1, RCVBUF_MB_MAX, "megabytes"),
        help="receive buffer asked for each UDP socket (default: 32)")
    offload: FrozenSet[str] = _option(
        frozenset(OFFLOADS), "--offload", metavar="LIST", check=offload_list,
        help="segmentation offloads to use where the kernel has them: none or a list of " + ", ".join(OFFLOADS)
             + " (default: all)")
    max_endpoints: int = _option(
        1024, "--max-endpoints", metavar="NUM", check=whole_number(1, 65_536, "endpoints"),
        help="most endpoints at a time (default: 1024)")
    max_flows: int = _option(
        2_097_152, "--max-flows", metavar="NUM", check=whole_number(16, 1 << 28, "flows"),
        help="most flows at a time (default: 2097152)")

    allow_from: Tuple[Tuple[int, int], ...] = _option(
        (), "--allow-from", metavar="CIDR,...", check=networks,
        help="take packets from these networks only: the load balancer's subnets; may be given several times "
             "(default: from everywhere)")
    allow_endpoints: Tuple[int, ...] = _option(
        (), "--allow-endpoint", metavar="ID,...", check=endpoint_ids,
        help="serve these endpoints only, such as vpce-0123456789abcdef0; may be given several times (default: all)")
    uplinks: Tuple[str, ...] = _option(
        (), "--uplink", metavar="IFNAME,...", check=uplinks,
        help="take packets by these interfaces only; may be given several times (default: all but lo, gwi and gwo)")

    @property
    def log_levels(self) -> Dict[str, Level]:
        """The level of each section: -d, then -x, then --logging, of which the later wins."""
        levels = dict.fromkeys(SECTIONS, Level.DEBUG if self.debug else Level.IMPORTANT)
        if self.hex_dumps:
            levels.update(dict.fromkeys(DUMPED_SECTIONS, Level.DEBUGDETAIL))
        levels.update(parse_levels(self.logging)[0])
        return levels

    @property
    def udp_places(self) -> List["Place"]:
        return _places("U", self.udp_threads, self.udp_affinity, UDP_THREADS_MAX)

    @property
    def tunnel_places(self) -> List["Place"]:
        return _places("T", self.tunnel_threads, self.tunnel_affinity, TUNNEL_THREADS_MAX)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a thread of the packet path runs, and so what it is called."""

    name: str
    number: int
    core: Optional[int]


def _places(letter: str, count: Optional[int], affinity: Optional[Tuple[int, ...]], most: int) -> List[Place]:
    if affinity:
        return [Place(f"gwlbtun {letter}A{core:03d}", core, core) for core in affinity]
    count = count or min(len(os.sched_getaffinity(0)), most)
    return [Place(f"gwlbtun {letter}{number:03d}", number, None) for number in range(count)]
