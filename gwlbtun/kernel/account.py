# SPDX-License-Identifier: MIT-0
"""What the kernel has carried, to be added to what the threads have. A packet is counted by one of them.

Of an endpoint, the programs count inner packets by slot (struct gw_kernel_tally). A slot may have had other endpoints before,
so each has a share of what its slot has counted. Of the programs themselves, they count why packets went which way.
"""
from typing import TYPE_CHECKING, Any, Counter, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..layout import KernelCounts
from . import layout

if TYPE_CHECKING:
    from .thread import Thread

NS = 10**9


class Carried(NamedTuple):
    """Packets and bytes of the inner packets, and when the last one came. By side: gwi and gwo."""

    in_packets: int = 0
    in_bytes: int = 0
    in_ns: int = 0
    out_packets: Tuple[int, int] = (0, 0)
    out_bytes: Tuple[int, int] = (0, 0)
    out_ns: Tuple[int, int] = (0, 0)

    def of_side(self, side: int) -> "SideCarried":
        return SideCarried(*((0, 0, 0) if side else (self.in_packets, self.in_bytes, self.in_ns)),
                           self.out_packets[side], self.out_bytes[side])

    @property
    def last_ns(self) -> int:
        return max(self.in_ns, *self.out_ns)

    def counters(self) -> Counter[str]:
        """By the names that the counters of T threads have. What came in did not come by a socket: it has names of its own."""
        sent, sent_bytes = sum(self.out_packets), sum(self.out_bytes)
        return Counter({"packets_out": self.in_packets, "bytes_out": self.in_bytes,
                        "packets_in": sent, "bytes_in": sent_bytes, "packets_sent": sent, "bytes_sent": sent_bytes,
                        "frames_out": self.in_packets, "sends": sent,
                        "kernel_packets_in": self.in_packets,
                        "kernel_bytes_in": self.in_bytes + layout.HEADER * self.in_packets})


class SideCarried(NamedTuple):
    """The same of one interface, by the names that the counters of T threads have. All that was read there was sent, too."""

    packets_out: int
    bytes_out: int
    last_out_ns: int
    packets_in: int
    bytes_in: int


NOTHING = Carried()
NO_COUNTS = {field[0]: 0 for field in KernelCounts._fields_}


class Share:
    """What the kernel has carried for one endpoint. Any thread may read it."""

    def __init__(self, thread: Optional["Thread"], slot: int):
        """When the endpoint has its slot, and before the kernel works for it."""
        self._thread = thread
        self._slot = slot
        self._before = self._count()
        self._earlier = NOTHING  # by another program
        self._final: Optional[Carried] = None

    def _count(self) -> Carried:
        if not self._thread:
            return NOTHING
        tally = self._thread.tally(self._slot)
        # The clock of the programs is at the end of the second that it tells.
        return Carried(tally.in_packets, tally.in_bytes, tally.in_s * NS, tuple(tally.out_packets), tuple(tally.out_bytes),
                       tuple(second * NS for second in tally.out_s))

    def last_ns(self) -> int:
        """When the last packet came. What another endpoint carried in the slot was before this one was made."""
        if self._final or not self._thread:
            return self.read().last_ns
        tally = self._thread.tally(self._slot)
        return max(tally.in_s, *tally.out_s) * NS

    def read(self) -> Carried:
        return self._final or self._carried(self._count())

    def _carried(self, counted: Carried) -> Carried:
        return _sum(self._earlier, _difference(counted, self._before)) if self._thread else self._earlier

    def end(self) -> None:
        """Before the slot may have another endpoint."""
        self._final = self.read()

    def record(self) -> Tuple[List[Any], List[Any]]:
        """What resume() needs: what has been carried, and what the slot had counted at that moment."""
        counted = self._count()
        return list(self._carried(counted)), list(counted)

    def resume(self, carried: Sequence[Any], counted: Optional[Sequence[Any]]) -> None:
        """Goes on from what another program has recorded. counted: None if the tallies are others now."""
        self._earlier = _read(carried)
        if counted is not None:
            self._before = _read(counted)


def _read(record: Sequence[Any]) -> Carried:
    in_packets, in_bytes, in_ns, *rest = record
    out_packets, out_bytes, out_ns = ((int(first), int(second)) for first, second in rest)
    return Carried(int(in_packets), int(in_bytes), int(in_ns), out_packets, out_bytes, out_ns)


def _difference(now: Carried, before: Carried) -> Carried:
    """Times of another endpoint's packets are none of this one's."""
    return Carried(now.in_packets - before.in_packets, now.in_bytes - before.in_bytes,
                   now.in_ns if now.in_packets != before.in_packets else 0,
                   _pair(one - other for one, other in zip(now.out_packets, before.out_packets)),
                   _pair(one - other for one, other in zip(now.out_bytes, before.out_bytes)),
                   _pair(now.out_ns[side] if now.out_packets[side] != before.out_packets[side] else 0 for side in (0, 1)))


def _sum(one: Carried, other: Carried) -> Carried:
    return Carried(one.in_packets + other.in_packets, one.in_bytes + other.in_bytes, max(one.in_ns, other.in_ns),
                   _pair(map(sum, zip(one.out_packets, other.out_packets))),
                   _pair(map(sum, zip(one.out_bytes, other.out_bytes))), _pair(map(max, zip(one.out_ns, other.out_ns))))


def _pair(values: Any) -> Tuple[int, int]:
    first, second = values
    return first, second


# ---- Of the programs -------------------------------------------------------------------------------------------------


def reasons(rows: Sequence[Any]) -> List[int]:
    """struct gw_kernel_reasons of all CPUs, added up."""
    return [sum(counts) for counts in zip(*(row.count for row in rows))] or [0] * layout.REASONS


def report(active: bool, reason: str, counts: Dict[str, int], why: List[int], aside: List[str], interfaces_aside: int,
           links: List[str], uplinks: List[str], mode: str, ipv6: bool) -> Dict[str, Any]:
    """`ebpf` of the health report. counts: of thread K; why: as reasons() gives it."""
    return {
        "active": active,
        "state": "active" if active else f"off: {reason}",
        "reason": reason,
        "mode": mode,
        "ipv6": ipv6,
        "uplinks": uplinks,
        "flows": counts["entries"],
        "aside": aside,
        "interfacesAside": interfaces_aside,
        "links": links,
        "ingress": {"accelerated": why[layout.IN_CARRIED], "punted_userspace": why[layout.IN_UP],
                    "malformed_geneve": why[layout.IN_MALFORMED], "not_gwlb_traffic": why[layout.IN_OTHER],
                    "total": why[layout.IN_TOTAL], "lost": why[layout.IN_LOST]},
        "egress": {"accelerated": why[layout.OUT_CARRIED], "punted_userspace": why[layout.OUT_UP],
                   "no_flow_match": why[layout.OUT_NO_FLOW], "no_l2_cached": why[layout.OUT_NO_LINK],
                   "total": why[layout.OUT_TOTAL], "lost": why[layout.OUT_LOST]},
        "map_full": {"ingress": counts["full"], "egress": 0},
        "flowsPromoted": counts["promoted"], "headerChanges": why[layout.CHANGES], "resets": counts["resets"],
    }
