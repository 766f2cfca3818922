# SPDX-License-Identifier: MIT-0
"""What each thread may do. native/confine.h tells how; the daemon's first thread says by prepare() what is needed.

A thread of the packet path keeps nothing that it does without. A control thread keeps what gwlbtun needs. A thread that starts
hooks uses no more either, but could: a hook runs with all that gwlbtun was started with, and lies where only root may look.
"""
import contextlib
import ctypes
import enum
import time
from typing import AbstractSet, Dict, FrozenSet, Iterator, List, Optional

from .shim import Shim

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_BPF = 10, 12, 13, 21, 39  # <linux/capability.h>
_NAMES = {CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE", CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
          CAP_BPF: "CAP_BPF"}
NEEDED = frozenset((CAP_NET_BIND_SERVICE, CAP_NET_ADMIN))  # by every daemon
_ALL = (1 << 64) - 1
_PACKETS = 1 << CAP_NET_BIND_SERVICE  # the load balancer may choose a source port below 1024

CAPABILITIES, PRIVILEGES, CALLS = 1, 2, 4  # GW_CONFINED_
_KEPT = {CAPABILITIES: "their capabilities", PRIVILEGES: "the right to gain others", CALLS: "all system calls"}
TELL_S = 10.0    # between two lines about calls
_TOLD_CALLS = 20  # in one of them


class Rights(enum.Enum):
    PACKETS = "the packet path"
    CONTROL = "control"
    MAPS = "control, with the maps and programs in the kernel"
    PROCESSES = "starting processes"


_shim: Optional[Shim] = None
_needed = _ALL
_for_maps = 0
_kept = _told = 0  # CAPABILITIES, PRIVILEGES, CALLS: what the kernel did not take away
_told_s = 0.0


def permitted(capability: int) -> bool:
    """Whether the process has been started with it."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        words = dict(line.split(":", 1) for line in status if ":" in line)
    return bool(int(words.get("CapPrm", "0"), 16) >> capability & 1)


def for_maps() -> FrozenSet[int]:
    """Of what the process has been started with: what bpf(2) wants of a thread that works with maps."""
    held = [capability for capability in (CAP_BPF, CAP_SYS_ADMIN) if permitted(capability)]
    return frozenset(held[:1])  # before Linux 5.8 there is only the latter


def prepare(shim: Shim, needed: AbstractSet[int], maps: AbstractSet[int] = frozenset()) -> str:
    """Before any thread starts; needed: capabilities; maps: for_maps(), if there are any. Limits the calling thread.

    Returns a line for the log.
    """
    global _shim, _needed, _for_maps, _told_s
    _shim, _needed, _for_maps = shim, sum(1 << number for number in needed), sum(1 << number for number in maps)
    _told_s = -TELL_S
    take(Rights.PROCESSES)
    return (f"gwlbtun uses the capabilities {', '.join(_NAMES[number] for number in sorted({*needed, *maps}))} and no others; "
            "hooks have all that it was started with.")


def take(rights: Rights) -> int:
    """Limits the calling thread, and all that it will start. Returns what could be done: CAPABILITIES, PRIVILEGES, CALLS."""
    if _shim is None:
        return 0
    wanted = CAPABILITIES
    done: int
    if rights is Rights.PROCESSES:
        done = CAPABILITIES if _shim.library.gw_use_capabilities(_needed | _for_maps) == 0 else 0
    else:
        packets = rights is Rights.PACKETS
        wanted |= PRIVILEGES | (CALLS if packets else 0)
        mask = {Rights.PACKETS: _PACKETS, Rights.CONTROL: _needed, Rights.MAPS: _needed | _for_maps}[rights]
        done = _shim.library.gw_confine(mask, packets)
    global _kept
    _kept |= wanted & ~done
    return done


def news() -> List[str]:
    """Once a second, by one thread: lines for the log about what the kernel does not take from threads, and what it has."""
    global _told, _told_s
    lines = []
    if _kept & ~_told:
        _told |= _kept
        kept = [text for bit, text in _KEPT.items() if _told & bit]
        lines.append(f"The kernel lets threads keep {' and '.join(kept)}: it lacks seccomp, or a container's rules forbid it. "
                     "gwlbtun goes on, with one defence less (docs/SECURITY.md).")
    if _shim and time.monotonic() >= _told_s + TELL_S:
        refused = _refused(_shim)
        if refused:
            _told_s = time.monotonic()
            calls = ", ".join(f"{call} ({count} times)" for call, count in refused.items())
            lines.append(f"Threads of the packet path wanted system calls that they do not need, and were refused: {calls}. "
                         "Another C library may want them: report it. Or a sender has made gwlbtun run code: start it anew.")
    return lines


def _refused(shim: Shim) -> Dict[int, int]:
    """How often since the last time, by the number of the call."""
    refused: Dict[int, int] = {}
    times = ctypes.c_uint32()
    while len(refused) < _TOLD_CALLS:
        call = shim.library.gw_refused_call(times)
        if call < 0:
            break
        refused[call] = times.value
    return refused


@contextlib.contextmanager
def all_rights() -> Iterator[None]:
    """For a thread that starts processes, while it starts or signals one: a child has what the thread uses."""
    if _shim is None:
        yield
        return
    _shim.library.gw_use_capabilities(_ALL)
    try:
        yield
    finally:
        _shim.library.gw_use_capabilities(_needed | _for_maps)
