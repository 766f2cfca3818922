# SPDX-License-Identifier: MIT-0
"""The path in the kernel: gwlbtun with it off and on in turn, with one core for everything.

The path works where packets are received, in soft interrupts. So what counts is the whole core's time, and not that of
gwlbtun's threads. Flows get into the kernel after some packets, and what is measured begins when they are there.
"""
import statistics
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

from comparison import AtWork, Comparison
from handlers import Handler, PathFloor
from processes import BenchError
from progress import Progress
from workloads import KERNEL_PATH_WORKLOADS, LONE_US, SHORT, SHORT_PACKETS, SHORT_PER_S, WORKLOADS, Pace, Workload

STATES = {"off": "off", "on": "require"}
FLOOR = "floor"
TIMES = 3  # the rate without loss of the threads, when too much is offered
WARM_UP_RATE, WARM_UP_MS, WARM_UP_TURNS = 20_000, 500, 40
ENOUGH = 0.99  # of the packets, each way

# By key of what a round gives, how people read it: the unit's name, and what a value has to be divided by.
MEASURES: Dict[str, Tuple[str, float]] = {
    "no_loss_pps": ("no loss, k/s", 1e3),
    "over_pps": (f"returned of {TIMES} times as much, k/s", 1e3),
    "flood_pps": ("returned of all that can be sent, k/s", 1e3),
    "core_us": ("core without loss, us a packet", 1),
    "same_load_us": ("core at half of off's, us a packet", 1),
    "median_us": ("round trip, median, us", 1),
    "p99_us": ("round trip, 99th percentile, us", 1),
    **{f"short_{packets}_us": (f"{packets} packets: core, us a connection", 1) for packets in SHORT_PACKETS},
}


class Carried(NamedTuple):
    """Packets that took the kernel so far."""

    inward: int
    back: int

    def share(self, before: "Carried", packets: int) -> float:
        """Of so many; the way that fewer took."""
        return min(self.inward - before.inward, self.back - before.back) / max(1, packets)


def carried(handler: Handler) -> Carried:
    ebpf = (handler.health() or {})["ebpf"]
    return Carried(*(ebpf[way]["accelerated"] if ebpf["active"] else 0 for way in ("ingress", "egress")))


def steps(pace: Pace) -> int:
    return ((len(KERNEL_PATH_WORKLOADS) + 3) * len(STATES) + 2) * pace.rounds


def pace_of(pace: Pace) -> Pace:
    """Rounds tell how the figures spread, so a round needs no repeats. But the search takes more steps: so little returns when
    one core gets all that can be sent that it begins far down."""
    return pace._replace(steps=pace.steps + 4, floods=1, repeats=1)


def rows(comparison: Comparison, pace: Pace, progress: Progress) -> Iterator[Dict]:
    """For each kind of traffic its label and its rounds, and of each round what it gave with the path off and on. Lone packets
    have a floor as well."""
    kinds: List[Tuple[str, Callable[[str, Dict], Dict], List[str]]] = [
        (workload.label, lambda state, off, workload=workload: under_load(comparison, workload, state, off, pace), [*STATES])
        for workload in KERNEL_PATH_WORKLOADS]
    kinds.append((f"lone packets, {LONE_US} us apart", lambda state, _: lone(comparison, state), [*STATES, FLOOR]))
    kinds.append(("lone, received where it is sent", lambda state, _: lone_where_sent(comparison, state), [*STATES, FLOOR]))
    kinds.append((f"{SHORT_PER_S:,} connections/s", lambda state, _: short(comparison, state, pace), [*STATES]))
    for label, measured, states in kinds:
        progress.say(f"path in the kernel: {label}", True)
        rounds = []
        for _ in range(pace.rounds):
            one: Dict[str, Dict] = {}
            for state in states:
                one[state] = measured(state, one.get("off", {}))
                progress.next()
            rounds.append(one)
        yield {"label": label, "rounds": rounds}


def under_load(comparison: Comparison, workload: Workload, state: str, off: Dict, pace: Pace) -> Dict:
    """off: what the threads gave in this round, or nothing if it is about them."""
    with comparison.at_work("gwlbtun", workload, "--kernel-path", STATES[state]) as at_work:
        measurement, handler = at_work.measurement, at_work.handler
        measurement.verify()
        # Datagrams with a checksum are left to the threads: super-packets are such.
        warm_up(at_work, workload, must=state == "on" and not workload.segment)
        result = measurement.throughput()
        threads = off.get("no_loss_pps", result["no_loss_pps"])
        before = carried(handler)
        same = measurement.trial(threads / 2)
        between = carried(handler)
        over = measurement.trial(threads * TIMES, duration_ms=2 * pace.trial_ms)
        flood = measurement.trial(0, duration_ms=2 * pace.trial_ms)
        after = carried(handler)
        return {"no_loss_pps": result["no_loss_pps"], "generator_limited": result["generator_limited"],
                "over_pps": over.peak, "flood_pps": flood.peak, "core_us": result["core_us"], "same_load_us": same.core_us,
                "offered_pps": over.rate, "flooded_pps": flood.rate, "foreign_cpu_worst": result["foreign_cpu_worst"],
                "carried": between.share(before, same.returned),
                "carried_over": after.share(between, over.returned + flood.returned)}


def warm_up(at_work: AtWork, workload: Workload, must: bool) -> None:
    """Sends every flow again and again, until the kernel carries them if it must."""
    milliseconds = max(WARM_UP_MS, 1000 * workload.flows // WARM_UP_RATE)
    share = 0.0
    for turn in range(WARM_UP_TURNS):
        before = carried(at_work.handler)
        sent = at_work.measurement.trial(WARM_UP_RATE, 0, duration_ms=milliseconds).sent
        share = carried(at_work.handler).share(before, sent)
        if share >= ENOUGH or not must and turn > 0:
            return
    raise BenchError(f"{workload.name}: after {WARM_UP_TURNS} rounds the kernel carries {share * 100:.1f} % of the packets")


def lone(comparison: Comparison, state: str) -> Dict:
    """Round trips of single packets with a pause after each."""
    options = [] if state == FLOOR else ["--kernel-path", STATES[state]]
    with comparison.at_work(PathFloor.name if state == FLOOR else "gwlbtun", WORKLOADS[0], *options) as at_work:
        at_work.measurement.verify()
        for _ in range(WARM_UP_TURNS):
            before = carried(at_work.handler) if state == "on" else None
            probes = at_work.measurement.lone(LONE_US)
            # Those before the measured ones count as well.
            if not before or carried(at_work.handler).share(before, probes["sent"]) >= ENOUGH:
                return {"median_us": probes["p50_us"], "p99_us": probes["p99_us"]}
    raise BenchError("the kernel does not carry lone packets")


def lone_where_sent(comparison: Comparison, state: str) -> Dict:
    """The same without steering: no core has to wake another for what takes the kernel."""
    with comparison.received_where_sent():
        return lone(comparison, state)


def short(comparison: Comparison, state: str, pace: Pace) -> Dict:
    """What connections of few packets, back and forth, take of the core."""
    result = {}
    with comparison.at_work("gwlbtun", SHORT, "--kernel-path", STATES[state]) as at_work:
        at_work.measurement.verify()
        for turn, packets in enumerate(SHORT_PACKETS):
            result[f"short_{packets}_us"] = connections(at_work, packets, SHORT_PER_S, pace.short_ms, (turn + 1) * 1_000_000)
    return result


def connections(at_work: AtWork, packets: int, rate: int, duration_ms: int, first: int) -> float:
    """The core's microseconds for each connection; first: the number of the first that begins."""
    at_work.generator.ask(f"short {packets} {first}")
    trial = at_work.measurement.trial(rate * packets, 0, duration_ms=duration_ms)
    if trial.returned < ENOUGH * trial.sent:
        raise BenchError(f"{trial.sent - trial.returned} of {trial.sent} packets of short connections are lost")
    return trial.core_us * packets


def text(results: List[Dict]) -> List[str]:
    """The results as people read them."""
    lines = ["The path in the kernel off and on, one core for everything: medians of the rounds, in brackets their spread.",
             "core: all that its core did, soft interrupts included. times: on beside off, round by round.", "",
             f"{'':31}  {'':37} {'off':>22} {'on':>22} {'times':>18} {FLOOR:>22}"]
    for row in results:
        label = row["label"]
        for key, (what, divisor) in MEASURES.items():
            if key not in row["rounds"][0]["off"]:
                continue
            values = {state: [one[state][key] / divisor for one in row["rounds"]] for state in STATES}
            times = [on / off for off, on in zip(values["off"], values["on"])]
            columns = [at_least(row, key, state) + spread(values[state], 0 if divisor > 1 else 2) for state in STATES]
            floors = [one[FLOOR][key] / divisor for one in row["rounds"] if FLOOR in one]
            lines.append(f"{label:31}  {what:37} {columns[0]:>22} {columns[1]:>22} {spread(times, 2):>18} "
                         f"{spread(floors, 2) if floors else '':>22}".rstrip())
            label = ""
    return lines + ["", *shares(results)]


def at_least(row: Dict, key: str, state: str) -> str:
    return "≥" if key == "no_loss_pps" and any(one[state]["generator_limited"] for one in row["rounds"]) else ""


def spread(values: List[float], digits: int) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def shares(results: List[Dict]) -> List[str]:
    """How much the kernel carried: the least of the rounds."""
    lines = []
    for row in results:
        ons = [one["on"] for one in row["rounds"]]
        if "carried" in ons[0]:
            half, over = (min(on[key] for on in ons) * 100 for key in ("carried", "carried_over"))
            lines.append(f"{row['label']}: {half:.1f} % of the packets took the kernel at half of off's rate, and "
                         f"{over:.1f} % of those that returned when too many came")
    return lines
