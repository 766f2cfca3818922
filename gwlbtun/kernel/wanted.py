# SPDX-License-Identifier: MIT-0
"""Whether the path in the kernel is wanted, and works here."""
import contextlib
import socket

from .. import fastpath
from ..checks import OFFLOADS
from ..settings import Settings
from ..trace import level_wanted
from . import probe, traffic

_SO_PRIORITY, _SO_MARK, _SO_BINDTOIFINDEX = 12, 36, 62  # <asm-generic/socket.h>


def unwanted(settings: Settings) -> str:
    """Why the options leave all to the threads; empty: they do not."""
    if settings.kernel_path == "off":
        return "--kernel-path is off"
    if settings.no_return:
        return "nothing goes back (--no-return)"
    if level_wanted(settings.log_levels) != fastpath.TRACE_OFF:
        return "the log tells of single packets (--logging, -d, -x)"
    if settings.offload != frozenset(OFFLOADS):
        return "--offload leaves something out"
    if settings.netns:
        return "each endpoint has a network namespace of its own (--netns)"
    if _sockets_are_treated():
        return "something marks gwlbtun's sockets or binds them to an interface, as `ip vrf exec` does"
    return ""


def _sockets_are_treated() -> bool:
    """Whether new sockets are not plain. A program at our control group can see to that; routes and queues differ by it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain, contextlib.suppress(OSError):
        return any(plain.getsockopt(socket.SOL_SOCKET, option) for option in (_SO_PRIORITY, _SO_MARK, _SO_BINDTOIFINDEX))
    return False


def _has_a_clock_of_its_own() -> bool:
    """Whether CLOCK_MONOTONIC, by which threads say what is through, is not what the programs read (time_namespaces(7))."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/timens_offsets", encoding="ascii") as offsets:
        return any(name == "monotonic" and (int(seconds) or int(rest)) for name, seconds, rest in map(str.split, offsets))
    return False


def look(settings: Settings) -> probe.Finding:
    """Whether the path works here, and is wanted."""
    reason = unwanted(settings)
    if not reason and not traffic.shows_taps():
        reason = "there is no /proc, which tells of packet sockets that would see nothing"
    if not reason and _has_a_clock_of_its_own():
        reason = "this process has a time namespace of its own, and the kernel's programs go by another clock"
    if reason:
        return probe.Finding(False, reason, False, False)
    found = probe.probe()
    if found.works and not found.tcx and settings.kernel_path == "auto":
        return found._replace(works=False, reason="before Linux 6.6 an interface drops packets while a program is attached to "
                                                  "it: --kernel-path require puts up with that")
    return found
