# SPDX-License-Identifier: MIT-0
"""All handlers: each is started again for each workload, and they are measured in turn."""
import argparse
import contextlib
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import overload
from handlers import Baseline, Floor, Gwlbtun, Handler, PathFloor
from lab import Bed
from load import Generator
from progress import Progress
from trials import Measurement
from workloads import LONE_US, MANY_FLOWS, OVERLOAD, WORKLOADS, Pace, Workload


class AtWork(NamedTuple):
    """A generator and a handler, both up, and what measures them."""

    generator: Generator
    handler: Handler
    measurement: Measurement


class Comparison:
    def __init__(self, bed: Bed, options: argparse.Namespace, pace: Pace, progress: Progress) -> None:
        self._bed, self._options, self._pace, self._progress = bed, options, pace, progress

    def check_counter(self, name: str) -> Dict:
        """Counts the same super-packets in three ways: by the formula, by capture, and as frames cut before the count."""
        workload = next(workload for workload in WORKLOADS if workload.name == "tcp1500")
        with self.at_work(name, workload) as (generator, _, measurement):
            captured = measurement.verify()
            counts = {}
            try:
                for way, cut in (("whole", False), ("cut", True)):
                    self._bed.segment_before_counting(cut)
                    before = generator.counters()
                    answer = generator.ask(f"verify {captured['sent']} 20000")
                    time.sleep(0.1)
                    after = generator.counters()
                    counts[way] = {"sent": answer["sent"], "captured": answer["back"], "frames": after[0] - before[0],
                                   "computed": generator.packets(before, after)}
            finally:
                self._bed.segment_before_counting(False)
            return counts

    def ping(self, name: str) -> Dict:
        """Round trips of single packets."""
        with self.at_work(name, WORKLOADS[0]) as (_, _, measurement):
            measurement.verify()
            return measurement.ping()

    def lone(self, name: str) -> Dict:
        """Round trips of single packets with a short pause after each."""
        with self.at_work(name, WORKLOADS[0]) as (_, _, measurement):
            measurement.verify()
            return measurement.lone(LONE_US)

    @contextlib.contextmanager
    def received_where_sent(self) -> Iterator[None]:
        """The generator's core does the work of receiving meanwhile, where the handler's does it otherwise."""
        self._bed.steer_no_more()
        try:
            yield
        finally:
            self._bed.steer(self._options.core)

    def overload(self, name: str) -> Dict:
        """What a handler returns of too much, on a core that does the work of receiving as well."""
        core, duration_ms = self._options.core, self._pace.overload_ms
        self._bed.steer(core)
        try:
            with self.at_work(name, OVERLOAD) as (generator, _, measurement):
                measurement.verify()
                measurement.ping()  # makes the endpoint of the probes
                measurement.fill(40_000)
                no_loss = measurement.throughput()["no_loss_pps"]
                result = {"no_loss_pps": no_loss,
                          "returned": overload.returned(measurement, no_loss, duration_ms, self._pace.repeats)}
            generator = Generator(self._bed, self._options.generator_core, OVERLOAD.options())
            try:
                result["floor"] = overload.floor(self._bed, core, generator, no_loss, self._pace.trial_ms)
            finally:
                generator.stop()
            return result
        finally:
            if not self._options.one_core:
                self._bed.steer_no_more()

    def round(self, workload: Workload, baseline: str) -> Dict:
        """All handlers under one workload."""
        base = self._measure(workload, baseline)
        self._progress.next()
        ours = self._measure(workload, "gwlbtun", base["no_loss_pps"] / 2)
        self._progress.next()
        floor = self._measure(workload, "floor") if workload.tcp else None
        self._progress.next()
        return {"baseline": base, "gwlbtun": ours, "floor": floor, "ratio": ours["no_loss_pps"] / base["no_loss_pps"],
                "cpu_ratio": base["cpu_us"] / ours["cpu_us"]}

    def _measure(self, workload: Workload, name: str, also_at: Optional[float] = None) -> Dict:
        """One handler under one workload; also_at: a rate at which to time probes as well."""
        self._bed.segment_before_arrival(workload.cut)
        try:
            with self.at_work(name, workload) as (_, handler, measurement):
                result: Dict = {"verified": measurement.verify()}
                health = handler.health()
                entries = health and interpreter_entries(health)
                if workload.flows >= MANY_FLOWS:
                    probe = measurement.trial(0, duration_ms=300)
                    result["fill"] = measurement.fill(probe.peak * 0.7)
                result.update(measurement.throughput())
                if name != "floor":
                    result["half_load"] = measurement.latency_at(result["no_loss_pps"] / 2)
                if also_at:
                    result["same_load"] = measurement.latency_at(also_at)
                if entries is not None:
                    health = handler.health() or {}
                    result["drops"] = {reason: count for reason, count in health.get("drops", {}).items() if count}
                    result["entries"] = {"before": entries, "after": interpreter_entries(health),
                                         "packets": sum(trial.returned for trial in measurement.trials)}
                return result
        finally:
            self._bed.segment_before_arrival(False)

    @contextlib.contextmanager
    def at_work(self, name: str, workload: Workload, *options: str) -> Iterator[AtWork]:
        """options: for gwlbtun."""
        generator = Generator(self._bed, self._options.generator_core, workload.options())
        try:
            handler = self._handler(name, workload.offload, options)
            try:
                handler.wait_until_up()
                yield AtWork(generator, handler, Measurement(
                    generator, handler, self._options.core, workload, self._pace, self._progress))
            finally:
                handler.stop()
        finally:
            generator.stop()

    def _handler(self, name: str, offload: str, options: Sequence[str]) -> Handler:
        core = self._options.core
        if name == "gwlbtun":
            # The threads are measured, but for what kernelpath.py does.
            extra = ["--rcvbuf", str(self._options.rcvbuf), "--kernel-path", "off"]
            if offload or self._options.offload:
                extra += ["--offload", offload or self._options.offload]
            return Gwlbtun(self._bed, core, [*extra, *self._options.handler_options.split(), *options])
        if name == "floor":
            return Floor(self._bed, core, self._options.rcvbuf)
        if name == PathFloor.name:
            return PathFloor(self._bed, core)
        return Baseline(self._bed, core, name, self._options.rcvbuf)


def interpreter_entries(health: Dict) -> Optional[int]:
    """How often Python has entered the shim: the sum of all counts of entries in the health report."""
    found: List[int] = []

    def look(value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key.lower().endswith("entries") and isinstance(inner, int):
                    found.append(inner)
                else:
                    look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(health)
    return sum(found) if found else None
