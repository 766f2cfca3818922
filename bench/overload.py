# SPDX-License-Identifier: MIT-0
"""Overload: more is offered than a handler carries without loss, and its core does the work of receiving, too.

Probes of another endpoint go beside the flood. What the flood leaves of the core at all, remainder.c tells.
"""
import statistics
import subprocess
import time
from typing import Dict, List

from lab import Bed
from load import Generator
from processes import BUILD, BenchError, start, stop
from trials import Measurement

TIMES = 2, 4
CALIBRATION_S = 0.5


def returned(measurement: Measurement, no_loss: float, duration_ms: int, repeats: int) -> Dict:
    """What comes back when the rate without loss is exceeded, and what becomes of the probes."""
    results = {}
    for times in TIMES:
        trials = [measurement.trial(no_loss * times, 100, True, duration_ms) for _ in range(repeats)]
        probes = [trial.probes for trial in trials]
        results[str(times)] = {
            "offered_pps": statistics.median(trial.rate for trial in trials),
            "returned_pps": statistics.median(trial.peak for trial in trials),
            "ratio": statistics.median(trial.peak for trial in trials) / no_loss,
            "probes_lost": 1 - sum(probe["back"] for probe in probes) / sum(probe["sent"] for probe in probes),
            "probe_p50_us": statistics.median(probe["p50_us"] for probe in probes)}
    return results


class Remainder:
    """bench/remainder.c at work on the handler's core."""

    def __init__(self, bed: Bed, core: int) -> None:
        self._process = start(bed.host, core, [str(BUILD / "bench-remainder")], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
        self._rounds_per_s = 0.0

    def calibrate(self) -> None:
        begin, rounds = time.monotonic(), self._rounds()
        time.sleep(CALIBRATION_S)
        self._rounds_per_s = (self._rounds() - rounds) / (time.monotonic() - begin)

    def left(self, generator: Generator, rate: float, duration_ms: int) -> float:
        """The share of the core that is left while so many packets come in a second."""
        begin, rounds = time.monotonic(), self._rounds()
        sent_s = generator.ask(f"run {rate:.0f} {duration_ms} 0 0")["seconds"]
        rounds = self._rounds() - rounds
        idle_s = time.monotonic() - begin - sent_s
        return (rounds / self._rounds_per_s - idle_s) / sent_s

    def _rounds(self) -> int:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError("the program that measures what is left of the core has ended")
        return int(answer)

    def stop(self) -> None:
        self._process.stdin.close()
        stop(self._process)
        self._process.stdout.close()


def floor(bed: Bed, core: int, generator: Generator, no_loss: float, duration_ms: int) -> Dict[str, float]:
    """What part of its rate without loss any handler could return: what is left of its core, beside what is left then."""
    remainder = Remainder(bed, core)
    try:
        remainder.calibrate()
        left = {times: remainder.left(generator, no_loss * times, duration_ms) for times in (1, *TIMES)}
        return {str(times): left[times] / left[1] for times in TIMES}
    finally:
        remainder.stop()


def text(results: Dict[str, Dict]) -> List[str]:
    """The results as people read them."""
    lines = [f"{'overload, on one core':31}  {'no loss':>8}  {'offered':>8} {'returned':>8} {'of no loss':>10} {'floor':>6}"
             f" {'probes lost':>12} {'median, us':>11}"]
    for name, result in results.items():
        for times, row in result["returned"].items():
            lines.append(f"{name + ', ' + times + ' times':31}  {result['no_loss_pps'] / 1e3:8.0f}  "
                         f"{row['offered_pps'] / 1e3:8.0f} "
                         f"{row['returned_pps'] / 1e3:8.0f} {row['ratio']:10.2f} {result['floor'][times]:6.2f} "
                         f"{row['probes_lost'] * 100:10.1f} % {row['probe_p50_us']:11.0f}")
    return lines
