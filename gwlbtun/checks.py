# SPDX-License-Identifier: MIT-0
"""The checks of options.

A check is a function from an option's text to its value. It raises ValueError with a text for the user.
"""
import ipaddress
import os
import re
import shlex
import shutil
from typing import Callable, FrozenSet, List, NamedTuple, Tuple

LOG_FORMATS = ("text", "json")
KERNEL_PATHS = "off", "auto", "require"
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
    """The address where a server listens; without a host it listens on all."""

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


# First words that only the shell can judge: those that it expands or splits, and those of its own.
_SHELL_SYNTAX = re.compile(r"[$~;&|()<>`{}*?\[\]!\n]")
_SHELL_WORDS = frozenset("! . : alias break case cd command continue eval exec exit export for if local read readonly return "
                         "set shift test times trap type ulimit umask unset until wait while".split())
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z_0-9]*=.*", re.DOTALL)


def command(text: str) -> str:
    """A check for a command line whose program exists and can be run, as far as we can tell without a shell."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is not a command line that a shell could read: {error}") from None
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


def log_format(text: str) -> str:
    """A check for one of LOG_FORMATS."""
    if text.lower() not in LOG_FORMATS:
        raise ValueError(f"there is no format '{text}': give {' or '.join(LOG_FORMATS)}")
    return text.lower()


def networks(text: str) -> Tuple[Tuple[int, int], ...]:
    """A check for a list of IPv4 networks and addresses. Returns the first and the last address of each."""
    return tuple(_network(word) for word in text.split(","))


def _network(text: str) -> Tuple[int, int]:
    advice = "give IPv4 networks such as 10.0.1.0/24, separated by commas"
    if ":" in text:
        raise ValueError(f"'{text}' is not IPv4, which is what the load balancer uses: {advice}")
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


def kernel_path(text: str) -> str:
    """A check for when to use the path in the kernel."""
    if text not in KERNEL_PATHS:
        raise ValueError(f"'{text}' is none of {', '.join(KERNEL_PATHS)}")
    return text


def interface(text: str) -> str:
    """A check for the name of one network interface, which need not exist yet."""
    if "," in text:
        raise ValueError(f"'{text}' is not the name of an interface: give one, such as eth0")
    return uplinks(text)[0]


def uplinks(text: str) -> Tuple[str, ...]:
    """A check for a list of interface names. The interfaces need not exist yet."""
    for name in text.split(","):
        if not re.fullmatch(r"[^\s/:]{1,15}", name) or name in (".", ".."):
            raise ValueError(f"'{name}' is not the name of an interface: give names such as eth0, separated by commas")
        if name == "lo" or name.startswith(("gwi-", "gwo-")):
            raise ValueError(f"no load balancer sends through {name}: give names of network interfaces, such as eth0")
    return tuple(text.split(","))
