#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""`make bench`: what gwlbtun carries on one core, beside a handler that takes packets one at a time.

For each workload, first the baseline, then gwlbtun, and for bulk traffic the floor: start it anew, check that packets
return unchanged, send as fast as possible, search the highest rate that returns 99.9 % of the packets (RFC 2544's
throughput, with shorter trials), repeat that rate for the CPU time per packet, then time probes at half that rate.
docs/PERFORMANCE.md tells the method in full.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import sys
import time
from typing import Dict, List, NamedTuple, Optional

import chart
import lab

MAX_LOSS = 0.001
EXPIRING_FLOWS = 1_000_000
MANY_FLOWS = 10000  # from here on, every flow is sent once before anything is measured


class Workload(NamedTuple):
    name: str
    label: str
    size: int = 128  # of the inner packet, bytes
    flows: int = 64
    ports: int = 512  # of the load balancer, for all flows
    endpoints: int = 1
    ipv6: bool = False
    tcp: bool = False
    burst: int = 1
    segment: bool = False  # arrives as if merged by GRO
    cut: bool = False  # leaves so, but arrives as single datagrams
    offload: str = ""  # for gwlbtun, where it is not what the command line says

    def options(self) -> List[str]:
        switches = {"--ipv6": self.ipv6, "--tcp": self.tcp, "--segment": self.segment or self.cut}
        return ["--size", str(self.size), "--flows", str(self.flows), "--endpoints", str(self.endpoints), "--burst",
                str(self.burst), "--ports", str(self.ports), *(name for name, on in switches.items() if on)]


WORKLOADS = [
    Workload("udp128", "UDP 128 B, 64 flows"),
    Workload("udp512", "UDP 512 B, 64 flows", size=512),
    Workload("udp128-v6", "IPv6 UDP 128 B, 64 flows", ipv6=True),
    Workload("udp128-unmerged", "UDP 128 B, 64 flows, not merged", offload="udp-gro,udp-gso"),
    Workload("udp128-50k", "UDP 128 B, 50,000 flows", flows=50_000),
    Workload("udp128-1m", "UDP 128 B, 1,000,000 flows", flows=1_000_000),
    Workload("udp128-1m-64p", "UDP 128 B, 1 million, 64 ports", flows=1_000_000, ports=64),
    Workload("udp128-16e", "UDP 128 B, 16 endpoints", endpoints=16),
    Workload("udp128-64e", "UDP 128 B, 64 endpoints", endpoints=64),
    Workload("tcp1500", "TCP 1500 B, bursts of 32", size=1500, tcp=True, burst=32, segment=True),
    Workload("tcp1500-v6", "IPv6 TCP 1500 B, bursts of 32", size=1500, tcp=True, burst=32, segment=True, ipv6=True),
    Workload("tcp1500-single", "TCP 1500 B, single datagrams", size=1500, tcp=True, burst=32, cut=True),
    Workload("tcp1500-elephant", "TCP 1500 B, one elephant flow", size=1500, tcp=True, burst=32, segment=True, flows=1),
    Workload("tcp8500", "TCP 8500 B, bursts of 7", size=8500, tcp=True, burst=7, segment=True),
]
OTHERS = ["latency", "expiry"]  # that are no workloads of the handlers under load
QUICK = ["udp128", "tcp1500", "tcp1500-single"]


class Pace(NamedTuple):
    """How much time goes into a measurement. Every bound of the run stands here."""

    trial_ms: int
    steps: int  # of the search
    floods: int  # trials that tell how much the generator can send, at most
    rounds: int  # of all handlers in turn, for bulk traffic: what each process has of the caches is a matter of luck
    repeats: int  # of the rate found
    probes: int  # per second, in the latency trial
    pings: int  # one at a time, back to back
    trickle: int  # one at a time, 32 a second: 4 kB/s of 128-byte packets
    expiry_rounds: int


FULL = Pace(trial_ms=1000, steps=8, floods=3, rounds=3, repeats=3, probes=1000, pings=10000, trickle=160,
            expiry_rounds=9)
BRIEF = Pace(trial_ms=400, steps=5, floods=1, rounds=1, repeats=1, probes=500, pings=2000, trickle=32,
             expiry_rounds=3)


def rounds_of(workload: Workload, pace: Pace) -> int:
    return pace.rounds if workload.tcp else 1


class Trial(NamedTuple):
    sent: int
    seconds: float
    returned: int  # within the grace after the last was sent
    peak: float  # packets/s returned while sending
    cpu_us: float  # of the handler per packet returned
    foreign: float  # share of the handler's core that something else used
    probes: Dict

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    @property
    def loss(self) -> float:
        return max(0.0, 1 - self.returned / self.sent)


class Progress:
    """One line on stderr that says what goes on; a line each where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._begin = total, 0, time.monotonic()
        self._live = sys.stderr.isatty()

    def next(self) -> None:
        self._done += 1

    def say(self, text: str, always: bool = False) -> None:
        line = f"[{self._done}/{self._total} {time.monotonic() - self._begin:4.0f} s] {text}"
        if self._live:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        elif always:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\033[K")


class Measurement:
    """One handler under one workload."""

    def __init__(self, generator: lab.Generator, handler: lab.Handler, core: int, workload: Workload, pace: Pace,
                 progress: Progress) -> None:
        self._generator, self._handler, self._core = generator, handler, core
        self._workload, self._pace, self._progress = workload, pace, progress
        self.trials: List[Trial] = []

    def trial(self, rate: float, probes: int = 100, timed: bool = False, duration_ms: Optional[int] = None) -> Trial:
        """Sends at the rate (0: as fast as possible) and waits until all that will return has."""
        self._settle()
        cpu, core, begin = self._handler.cpu_ns(), lab.core_times(self._core), time.monotonic()
        answer = self._generator.ask(f"run {rate:.0f} {duration_ms or self._pace.trial_ms} {probes} {int(timed)}")
        last = self._settle()
        elapsed = time.monotonic() - begin
        cpu, after = self._handler.cpu_ns() - cpu, lab.core_times(self._core)
        self._handler.check()
        before = answer["before"]
        idle = after["idle"] + after["iowait"] - core["idle"] - core["iowait"]
        total = self._generator.packets(before, last)
        if answer["probes"]["wrong"]:
            raise lab.BenchError(f"{answer['probes']['wrong']} probes came back altered from {self._handler.name}")
        result = Trial(
            sent=answer["sent"], seconds=answer["seconds"],
            returned=self._generator.packets(before, answer["after_grace"]),
            peak=self._generator.packets(before, answer["at_end"]) / answer["seconds"],
            cpu_us=cpu / 1000 / max(1, total), foreign=max(0.0, 1 - (idle + cpu) / (elapsed * 1e9)),
            probes=answer["probes"])
        self.trials.append(result)
        self._progress.say(f"{self._workload.label}, {self._handler.name}: {result.rate / 1e3:.0f} k/s sent, "
                           f"{result.loss * 100:.2f} % lost, {result.cpu_us:.2f} us/packet")
        return result

    def passes(self, rate: float) -> Optional[Trial]:
        """The trial that carried the rate; a second try is given, for what disturbs a shared machine only takes away."""
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
            # Not so while packets of earlier rounds still come, which waited for their endpoint.
            if answer["back"] == answer["sent"] and not answer["out_of_order"]:
                break
            self._handler.check()
            time.sleep(0.2)
        for _ in range(5):  # one may be lost to what else the machine does, but none of a whole try
            before = self._settle()
            answer = self._generator.ask("verify 20000 20000")
            counted = self._generator.packets(before, self._settle())
            if answer["wrong"] or answer["back"] == answer["sent"]:
                break
        if answer["back"] != answer["sent"] or answer["wrong"] or answer["out_of_order"]:
            raise lab.BenchError(f"{self._workload.name}: {self._handler.name} did not return the packets as they were: "
                                 f"{answer}")
        if counted != answer["back"]:
            raise lab.BenchError(f"the device counted {counted} packets, of which {answer['back']} were captured")
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
                while low >= fastest * 0.99 and floods < pace.floods:  # was that really all that the generator can send?
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
            raise lab.BenchError(f"{self._workload.name}: {self._handler.name} has no rate without loss")
        steady = [self.trial(low) for _ in range(pace.repeats)]
        cpu = [trial.cpu_us for trial in steady] + [best.cpu_us]
        return {
            "no_loss_pps": best.rate, "generator_limited": low >= fastest * 0.99, "generator_pps": fastest,
            "peak_pps": max(trial.peak for trial in self.trials),
            "no_loss_gbps": best.rate * self._workload.size * 8 / 1e9,
            "cpu_us": statistics.median(cpu), "cpu_us_low": min(cpu), "cpu_us_high": max(cpu),
            "repeat_loss": [trial.loss for trial in steady],
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


class Bench:
    def __init__(self, bed: lab.Bed, options: argparse.Namespace, pace: Pace, progress: Progress) -> None:
        self._bed, self._options, self._pace, self._progress = bed, options, pace, progress

    def _handler(self, name: str, offload: str = "") -> lab.Handler:
        core = self._options.core
        if name == "gwlbtun":
            extra = ["--rcvbuf", str(self._options.rcvbuf)]
            if offload or self._options.offload:
                extra += ["--offload", offload or self._options.offload]
            return lab.Gwlbtun(self._bed, core, extra + self._options.handler_options.split())
        if name == "floor":
            return lab.Floor(self._bed, core, self._options.rcvbuf)
        return lab.Baseline(self._bed, core, name, self._options.rcvbuf)

    def measure(self, workload: Workload, name: str, also_at: Optional[float] = None) -> Dict:
        """One handler under one workload; also_at: a rate at which to time probes as well."""
        self._bed.segment_before_arrival(workload.cut)
        generator = lab.Generator(self._bed, self._options.generator_core, workload.options())
        try:
            handler = self._handler(name, workload.offload)
            try:
                handler.wait_until_up()
                measurement = Measurement(generator, handler, self._options.core, workload, self._pace, self._progress)
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
                    after = interpreter_entries(health)
                    result["drops"] = {reason: count for reason, count in health.get("drops", {}).items() if count}
                    result["entries"] = {"before": entries, "after": after,
                                         "packets": sum(trial.returned for trial in measurement.trials)}
                return result
            finally:
                handler.stop()
        finally:
            generator.stop()
            self._bed.segment_before_arrival(False)

    def round(self, workload: Workload, baseline: str) -> Dict:
        """All handlers under one workload."""
        base = self.measure(workload, baseline)
        self._progress.next()
        ours = self.measure(workload, "gwlbtun", base["no_loss_pps"] / 2)
        self._progress.next()
        floor = self.measure(workload, "floor") if workload.tcp else None
        self._progress.next()
        return {"baseline": base, "gwlbtun": ours, "floor": floor, "ratio": ours["no_loss_pps"] / base["no_loss_pps"],
                "cpu_ratio": base["cpu_us"] / ours["cpu_us"]}

    def ping(self, name: str) -> Dict:
        workload = WORKLOADS[0]
        generator = lab.Generator(self._bed, self._options.generator_core, workload.options())
        try:
            handler = self._handler(name)
            try:
                handler.wait_until_up()
                measurement = Measurement(generator, handler, self._options.core, workload, self._pace, self._progress)
                measurement.verify()
                return measurement.ping()
            finally:
                handler.stop()
        finally:
            generator.stop()

    def check_counter(self, name: str) -> Dict:
        """Counts one number of super-packets in three ways: by the formula, by capture, and as frames cut before the count."""
        workload = next(workload for workload in WORKLOADS if workload.name == "tcp1500")
        generator = lab.Generator(self._bed, self._options.generator_core, workload.options())
        try:
            handler = self._handler(name)
            try:
                handler.wait_until_up()
                measurement = Measurement(generator, handler, self._options.core, workload, self._pace, self._progress)
                captured = measurement.verify()
                counts = {}
                for way, cut in (("whole", False), ("cut", True)):
                    self._bed.segment_before_counting(cut)
                    before = generator.counters()
                    answer = generator.ask(f"verify {captured['sent']} 20000")
                    time.sleep(0.1)
                    after = generator.counters()
                    counts[way] = {"sent": answer["sent"], "captured": answer["back"], "frames": after[0] - before[0],
                                   "computed": generator.packets(before, after)}
                return counts
            finally:
                self._bed.segment_before_counting(False)
                handler.stop()
        finally:
            generator.stop()


def machine() -> Dict:
    model = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "architecture": platform.machine(),
            "python": platform.python_version(), "date": datetime.date.today().isoformat()}


def ratio_text(row: Dict, name: str) -> str:
    """gwlbtun beside the baseline, and its spread where there is one."""
    low, high = row["spread"][name]
    return f"{row[name]:.1f}" + (f" ({low:.1f}-{high:.1f})" if row["rounds"] > 1 else "")


def expiry_text(expiry: Dict) -> List[str]:
    """The longest a packet waited, medians of the rounds and in brackets the spread."""
    lines = ["", f"{expiry['flows']:,} idle flows expire, us".ljust(33)
             + f"{'longest wait of a packet':>28} {'while nothing expires':>26} {'sweep, ms':>10}"]
    for name, label in (("apart", "on another core"), ("together", "on the packets' core")):
        times = {kind: f"{statistics.median(rounds):.0f} ({min(rounds):.0f}-{max(rounds):.0f})"
                 for kind, rounds in expiry[name].items()}
        lines.append(f"{label:33}{times['expiring_us']:>28} {times['calm_us']:>26} "
                     f"{statistics.median(expiry[name]['sweep_ms']):10.0f}")
    return lines


def rate_text(result: Dict) -> str:
    return ("≥" if result["generator_limited"] else "") + f"{result['no_loss_pps'] / 1e3:.0f}"


def latency_text(latency: Dict) -> str:
    spread = f"({latency['p99_us_low']:.0f}-{latency['p99_us_high']:.0f})"
    return f"{latency['p50_us']:7.0f} {latency['p99_us']:5.0f} {spread:>11}"


def table(results: Dict) -> str:
    """The results as people read them."""
    lines = [] if not results["workloads"] else [
        "Rates in thousand packets/s; CPU in microseconds of the handler's core per packet, in brackets the spread.",
        "times: gwlbtun beside the baseline; bulk traffic: the round in the middle by CPU, in brackets the spread of all.",
        "%: the floor's CPU per packet in hundredths of gwlbtun's.",
        "≥: the generator could not send more.",
        "",
        f"{'':31}  {'gwlbtun':^38}  {'baseline':^26}  {'times':^34}  {'floor':^17}",
        f"{'workload':31}  {'no loss':>8} {'Gbit/s':>6} {'peak':>6} {'CPU':>15}"
        f"  {'no loss':>8} {'peak':>6} {'CPU':>10}  {'rate':>16} {'CPU':>17}  {'no loss':>7} {'CPU':>5} {'%':>3}",
    ]
    for row in results["workloads"]:
        ours, base, floor = row["gwlbtun"], row["baseline"], row["floor"]
        cpu = f"{ours['cpu_us']:.2f} ({ours['cpu_us_low']:.2f}-{ours['cpu_us_high']:.2f})"
        beneath = (f"  {rate_text(floor):>7} {floor['cpu_us']:5.2f} {100 * floor['cpu_us'] / ours['cpu_us']:3.0f}"
                   if floor else "")
        lines.append(
            f"{row['label']:31}  {rate_text(ours):>8} {ours['no_loss_gbps']:6.2f} {ours['peak_pps'] / 1e3:6.0f} {cpu:>15}"
            f"  {rate_text(base):>8} {base['peak_pps'] / 1e3:6.0f} {base['cpu_us']:10.2f}"
            f"  {ratio_text(row, 'ratio'):>16} {ratio_text(row, 'cpu_ratio'):>17}{beneath}")
    if results["workloads"]:
        lines += [
            "",
            "Round trips under load in microseconds: median, 99th percentile, and in brackets the spread of that.",
            "",
            f"{'':31}  {'at half the no-loss rate of the baseline':^56}  {'of gwlbtun':^31}",
            f"{'':31}  {'gwlbtun':^31} {'baseline':^24}  {'gwlbtun':^31}",
            f"{'workload':31}  {'k/s':>5} {'median':>7} {'p99':>17} {'median':>7} {'p99':>16}"
            f"  {'k/s':>5} {'median':>7} {'p99':>17}",
        ]
    for row in results["workloads"]:
        same, base, half = row["gwlbtun"]["same_load"], row["baseline"]["half_load"], row["gwlbtun"]["half_load"]
        lines.append(f"{row['label']:31}  {base['rate'] / 1e3:5.0f} {latency_text(same)} {latency_text(base)}"
                     f"  {half['rate'] / 1e3:5.0f} {latency_text(half)}")
    if results.get("ping"):
        lines += ["", f"{'one packet at a time, us':31}  "
                      f"{'back to back: median':>20} {'p99':>7}  {'4 KB/s: median':>15} {'p99':>7}"]
        for name, ping in results["ping"].items():
            burst, trickle = ping["back_to_back"], ping["trickle"]
            lines.append(f"{name:31}  {burst['p50_us']:20.1f} {burst['p99_us']:7.1f}  {trickle['p50_us']:15.1f} "
                         f"{trickle['p99_us']:7.1f}")
    if results.get("expiry"):
        lines += expiry_text(results["expiry"])
    lines.append("")
    for row in results["workloads"]:
        entries = row["gwlbtun"].get("entries")
        if entries:
            lines.append(f"{row['label']}: Python entered the shim {entries['after'] - entries['before']} times while "
                         f"{entries['packets']:,} packets passed")
        fill = row["gwlbtun"].get("fill")
        if fill and fill["flows"] >= 1_000_000:
            lines.append(f"{row['label']}: {fill['returned']:,} of {fill['sent']:,} first packets returned, "
                         f"{fill['resident_bytes_per_flow']:.0f} bytes of resident memory a flow, "
                         f"{row['gwlbtun']['drops'].get('no_flow', 0)} return packets without their flow")
    counter = results.get("counter")
    if counter:
        lines.append("The counter: " + "; ".join(
            f"{way}: {count['sent']} sent, {count['frames']} frames, {count['computed']} packets computed, "
            f"{count['captured']} captured and compared" for way, count in counter.items()))
    worst = max((row[name]["foreign_cpu_worst"] for row in results["workloads"] for name in ("gwlbtun", "baseline")), default=0)
    lines.append(f"Other programs on the handler's core: at worst {worst * 100:.0f} % of a trial.")
    return "\n".join(lines)


def write_results(results: Dict, options: argparse.Namespace) -> None:
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    if not results["workloads"]:
        return
    about = results["machine"]
    rows = [{"label": row["label"], "gwlbtun": row["gwlbtun"]["no_loss_pps"], "baseline": row["baseline"]["no_loss_pps"],
             "ratio": row["ratio"], "at_least": row["gwlbtun"]["generator_limited"]} for row in results["workloads"]]
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    options.svg.write_text(chart.svg(
        "Packets per second on one core, under 0.1 % lost", f"{about['cpu']}, Linux {about['kernel']}", rows))


def parse_options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", nargs="*", help="workloads to run, of: " + ", ".join(
        [workload.name for workload in WORKLOADS] + OTHERS) + " (default: all)")
    parser.add_argument("--quick", action="store_true", help="about a minute: few workloads, short trials")
    parser.add_argument("--baseline", choices=("threads", "loop"), default="threads", help="how the baseline works: a thread "
                        "for each interface, or one loop for all (default: threads)")
    parser.add_argument("--offload", help="passed on to gwlbtun")
    parser.add_argument("--cut", action="store_true", help="cut super-packets in software on the way out, as for a network "
                        "card without UDP segmentation offload")
    parser.add_argument("--handler-options", default="", help="more options for gwlbtun, as one argument")
    parser.add_argument("--rcvbuf", type=int, default=32, metavar="MB", help="receive buffer of both handlers (default: 32)")
    parser.add_argument("--core", type=int, default=cores[-1], help="the handler's core (default: the last)")
    parser.add_argument("--generator-core", type=int, default=cores[0], help="the generator's core (default: the first)")
    parser.add_argument("--json", type=pathlib.Path, default=lab.BUILD / "bench.json", help="where the results go")
    parser.add_argument("--svg", type=pathlib.Path, default=lab.BUILD / "bench.svg", help="where the chart goes")
    options = parser.parse_args()
    known = {workload.name for workload in WORKLOADS} | set(OTHERS)
    for name in options.workload:
        if name not in known:
            parser.error(f"no workload {name}")
    if options.core == options.generator_core or not {options.core, options.generator_core} <= set(cores):
        parser.error("handler and generator need a core each, of those this process may use")
    if os.geteuid():
        parser.error("network namespaces need root: run it with sudo")
    return options


def main() -> int:
    options = parse_options()
    pace = BRIEF if options.quick else FULL
    wanted = options.workload or (QUICK if options.quick else [workload.name for workload in WORKLOADS]) + OTHERS
    workloads = [workload for workload in WORKLOADS if workload.name in wanted]
    modes = [options.baseline] + [mode for mode in ("threads", "loop") if mode != options.baseline]
    progress = Progress(3 * sum(rounds_of(workload, pace) for workload in workloads) + ("latency" in wanted) * 3
                        + ("expiry" in wanted) + 1)
    results: Dict = {"machine": machine(), "baseline": options.baseline, "cut": options.cut,
                     "offload": options.offload or "all", "pace": pace._asdict(), "workloads": []}
    # A stop by signal unwinds like any other, so that namespaces and processes go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {options.generator_core})
    status = 0
    try:
        lab.build()
        with lab.Bed() as bed:
            bench = Bench(bed, options, pace, progress)
            progress.say("checking the counter", True)
            results["counter"] = bench.check_counter("gwlbtun")
            progress.next()
            bed.segment_before_counting(options.cut)
            if "latency" in wanted:
                results["ping"] = {}
                for name in (*modes, "gwlbtun"):
                    results["ping"][name if name == "gwlbtun" else f"baseline ({name})"] = bench.ping(name)
                    progress.next()
            if "expiry" in wanted:
                progress.say("idle flows expire", True)
                results["expiry"] = lab.expiry(EXPIRING_FLOWS, pace.expiry_rounds, options.core, options.generator_core)
                progress.next()
            for workload in workloads:
                progress.say(workload.label, True)
                rounds = [bench.round(workload, options.baseline) for _ in range(rounds_of(workload, pace))]
                rounds.sort(key=lambda one: one["cpu_ratio"])
                results["workloads"].append({
                    **workload._asdict(), **rounds[len(rounds) // 2], "rounds": len(rounds),
                    "spread": {name: (min(one[name] for one in rounds), max(one[name] for one in rounds))
                               for name in ("ratio", "cpu_ratio")}})
    except lab.BenchError as error:
        progress.close()
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    progress.close()
    write_results(results, options)
    print(table(results))
    for count in results.get("counter", {}).values():
        if not count["sent"] == count["captured"] == count["computed"]:
            print("bench: the counter does not count right", file=sys.stderr)
            status = status or 1
    print(f"\nWritten: {options.json} and {options.svg}")
    return status


if __name__ == "__main__":
    sys.exit(main())
