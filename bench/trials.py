# SPDX-License-Identifier: MIT-0
"""One handler under one workload: trials, the search for the highest rate without loss, and round trips."""
import statistics
import time
from typing import Dict, List, NamedTuple, Optional

from cpu import core_times
from handlers import Handler
from load import Generator
from processes import BenchError
from progress import Progress
from workloads import Pace, Workload

MAX_LOSS = 0.001


class Trial(NamedTuple):
    sent: int
    seconds: float
    returned: int  # within the grace after the last was sent
    peak: float  # packets/s returned while sending
    cpu_us: float  # of the handler per packet returned
    core_us: float  # of its core, whoever used it, per packet returned
    foreign: float  # share of the handler's core that something else used
    probes: Dict

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    @property
    def loss(self) -> float:
        return max(0.0, 1 - self.returned / self.sent)


class Measurement:
    """One handler under one workload."""

    def __init__(self, generator: Generator, handler: Handler, core: int, workload: Workload, pace: Pace,
                 progress: Progress) -> None:
        self._generator, self._handler, self._core = generator, handler, core
        self._workload, self._pace, self._progress = workload, pace, progress
        self.trials: List[Trial] = []

    def trial(self, rate: float, probes: int = 100, timed: bool = False, duration_ms: Optional[int] = None) -> Trial:
        """Sends at the rate (0: as fast as possible) and waits until all that will return has."""
        self._settle()
        cpu, core, begin = self._handler.cpu_ns(), core_times(self._core), time.monotonic()
        answer = self._generator.ask(f"run {rate:.0f} {duration_ms or self._pace.trial_ms} {probes} {int(timed)}")
        last = self._settle()
        elapsed = time.monotonic() - begin
        cpu, after = self._handler.cpu_ns() - cpu, core_times(self._core)
        self._handler.check()
        before = answer["before"]
        idle = after["idle"] + after["iowait"] - core["idle"] - core["iowait"]
        total = self._generator.packets(before, last)
        if answer["probes"]["wrong"]:
            raise BenchError(f"{answer['probes']['wrong']} probes came back altered from {self._handler.name}")
        result = Trial(
            sent=answer["sent"], seconds=answer["seconds"],
            returned=self._generator.packets(before, answer["after_grace"]),
            peak=self._generator.packets(before, answer["at_end"]) / answer["seconds"],
            cpu_us=cpu / 1000 / max(1, total),
            core_us=(elapsed * 1e9 - idle - after["steal"] + core["steal"]) / 1000 / max(1, total),
            foreign=max(0.0, 1 - (idle + cpu) / (elapsed * 1e9)), probes=answer["probes"])
        self.trials.append(result)
        self._progress.say(f"{self._workload.label}, {self._handler.name}: {result.rate / 1e3:.0f} k/s sent, "
                           f"{result.loss * 100:.2f} % lost, {result.cpu_us:.2f} us/packet")
        return result

    def passes(self, rate: float) -> Optional[Trial]:
        """The trial that carried the rate. It has a second try, since what disturbs a shared machine only takes away."""
        for _ in range(2):
            result = self.trial(rate)
            if result.loss <= MAX_LOSS:
                return result
            if result.loss > 0.05:
                return None
        return None

    def verify(self) -> Dict:
        """Makes the endpoints, then sends some thousand packets slowly and compares each that returns with what was sent."""
        self._progress.say(f"{self._workload.label}, {self._handler.name}: warm-up")
        per_round = self._workload.endpoints * self._workload.burst
        for _ in range(40):
            answer = self._generator.ask(f"verify {per_round} 5000")
            # It may differ while packets of earlier rounds still come, which waited for their endpoint.
            if answer["back"] == answer["sent"] and not answer["out_of_order"]:
                break
            self._handler.check()
            time.sleep(0.2)
        for _ in range(5):  # other work on the machine may cost one, but none of a whole try
            before = self._settle()
            answer = self._generator.ask("verify 20000 20000")
            counted = self._generator.packets(before, self._settle())
            if answer["wrong"] or answer["back"] == answer["sent"]:
                break
        if answer["back"] != answer["sent"] or answer["wrong"] or answer["out_of_order"]:
            raise BenchError(f"{self._workload.name}: {self._handler.name} did not return the packets as they were: "
                                 f"{answer}")
        if counted != answer["back"]:
            raise BenchError(f"the device counted {counted} packets, of which {answer['back']} were captured")
        return answer

    def fill(self, rate: float) -> Dict:
        """Sends every flow once."""
        self._progress.say(f"{self._workload.label}, {self._handler.name}: sending every flow once")
        memory, before = self._handler.resident_bytes(), self._settle()
        answer = self._generator.ask(f"each {rate:.0f}")
        returned = self._generator.packets(before, self._settle())
        return {"flows": self._workload.flows, "sent": answer["sent"], "returned": returned,
                "resident_bytes_per_flow": (self._handler.resident_bytes() - memory) / self._workload.flows}

    def throughput(self) -> Dict:
        """Peak and no-loss rate, and CPU per packet there."""
        pace = self._pace
        peak = self.trial(0)
        fastest, floods = peak.rate, 1
        low, high, best = 0.0, fastest, None
        rate = min(fastest, peak.peak * 1.05)
        for _ in range(pace.steps):
            result = self.passes(rate)
            if result:
                low, best = rate, result
                while low >= fastest * 0.99 and floods < pace.floods:  # can the generator really send no more?
                    fastest, floods = max(fastest, self.trial(0).rate), floods + 1
                    high = fastest
                if low >= fastest * 0.99:
                    break
            else:
                high = rate
            # Near the peak first, then outwards until the rate is bracketed, then by halves.
            if not low:
                rate = high * 0.85
            elif high >= fastest:
                rate = min(fastest, low * 1.25)
            else:
                rate = (low + high) / 2
            if low and high - low < 0.01 * high:
                break
        if not best:
            raise BenchError(f"{self._workload.name}: {self._handler.name} has no rate without loss")
        steady = [self.trial(low) for _ in range(pace.repeats)]
        cpu = [trial.cpu_us for trial in steady] + [best.cpu_us]
        core = [trial.core_us for trial in steady] + [best.core_us]
        return {
            "no_loss_pps": best.rate, "generator_limited": low >= fastest * 0.99, "generator_pps": fastest,
            "peak_pps": max(trial.peak for trial in self.trials),
            "no_loss_gbps": best.rate * self._workload.size * 8 / 1e9,
            "cpu_us": statistics.median(cpu), "cpu_us_low": min(cpu), "cpu_us_high": max(cpu),
            "core_us": statistics.median(core), "repeat_loss": [trial.loss for trial in steady],
            "foreign_cpu": statistics.median(trial.foreign for trial in self.trials),
            "foreign_cpu_worst": max(trial.foreign for trial in self.trials), "trials": len(self.trials),
        }

    def latency_at(self, rate: float) -> Dict:
        """Round trips in microseconds under a load: medians of the trials, and the spread of the 99th percentile."""
        trials = [self.trial(rate, self._pace.probes, True).probes for _ in range(self._pace.repeats)]
        p99 = [trial["p99_us"] for trial in trials]
        return {"rate": rate, "p50_us": statistics.median(trial["p50_us"] for trial in trials),
                "p99_us": statistics.median(p99), "p99_us_low": min(p99), "p99_us_high": max(p99)}

    def ping(self) -> Dict:
        """Round trips of single packets: one after the other, and 32 a second."""
        self._progress.say(f"one packet at a time, {self._handler.name}")
        self._settle()
        self._generator.ask(f"ping {self._pace.pings // 10} 0")
        return {"back_to_back": self._generator.ask(f"ping {self._pace.pings} 0")["probes"],
                "trickle": self._generator.ask(f"ping {self._pace.trickle} 31250")["probes"]}

    def lone(self, pause_us: int) -> Dict:
        """Round trips of single packets with a pause after each."""
        self._progress.say(f"lone packets, {self._handler.name}")
        self._settle()
        self._generator.ask(f"ping {self._pace.pings // 10} {pause_us}")
        return self._generator.ask(f"ping {self._pace.pings} {pause_us}")["probes"]

    def _settle(self) -> List[int]:
        """Waits until nothing returns any more. Returns the device's counters then."""
        counters = self._counters()
        for _ in range(100):
            time.sleep(0.03)
            before, counters = counters, self._counters()
            if counters == before:
                break
        return counters

    def _counters(self) -> List[int]:
        return self._generator.counters()
