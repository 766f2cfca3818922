# SPDX-License-Identifier: MIT-0
"""The results as people read them: tables, and the files that are written."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
from typing import Dict, List

import chart
import kernelpath
import overload
from workloads import LONE_US


def machine() -> Dict:
    model = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "architecture": platform.machine(),
            "python": platform.python_version(), "date": datetime.date.today().isoformat()}


def table(results: Dict) -> str:
    """All that was measured, as lines of text."""
    rows = results["workloads"]
    lines: List[str] = []
    if rows:
        lines += [*throughput_text(rows), "", *round_trip_text(rows)]
    if results.get("ping"):
        lines += ["", *ping_text(results["ping"])]
    if results.get("lone"):
        lines += ["", *lone_text(results["lone"])]
    if results.get("overload"):
        lines += ["", *overload.text(results["overload"])]
    if results.get("kernel_path"):
        lines += ["", *kernelpath.text(results["kernel_path"])]
    if results.get("expiry"):
        lines += ["", *expiry_text(results["expiry"])]
    return "\n".join([*lines, "", *remarks(results)])


def throughput_text(rows: List[Dict]) -> List[str]:
    lines = [
        "Rates in thousand packets/s; CPU in microseconds of the handler's core per packet, in brackets the spread.",
        "times: gwlbtun beside the baseline; bulk traffic: the round in the middle by CPU, in brackets the spread of all.",
        "%: the floor's CPU per packet in hundredths of gwlbtun's.",
        "≥: the generator could not send more.",
        "",
        f"{'':31}  {'gwlbtun':^38}  {'baseline':^26}  {'times':^34}  {'floor':^17}",
        f"{'workload':31}  {'no loss':>8} {'Gbit/s':>6} {'peak':>6} {'CPU':>15}"
        f"  {'no loss':>8} {'peak':>6} {'CPU':>10}  {'rate':>16} {'CPU':>17}  {'no loss':>7} {'CPU':>5} {'%':>3}",
    ]
    for row in rows:
        ours, base, floor = row["gwlbtun"], row["baseline"], row["floor"]
        cpu = f"{ours['cpu_us']:.2f} ({ours['cpu_us_low']:.2f}-{ours['cpu_us_high']:.2f})"
        beneath = (f"  {rate_text(floor):>7} {floor['cpu_us']:5.2f} {100 * floor['cpu_us'] / ours['cpu_us']:3.0f}"
                   if floor else "")
        lines.append(
            f"{row['label']:31}  {rate_text(ours):>8} {ours['no_loss_gbps']:6.2f} {ours['peak_pps'] / 1e3:6.0f} {cpu:>15}"
            f"  {rate_text(base):>8} {base['peak_pps'] / 1e3:6.0f} {base['cpu_us']:10.2f}"
            f"  {ratio_text(row, 'ratio'):>16} {ratio_text(row, 'cpu_ratio'):>17}{beneath}")
    return lines


def rate_text(result: Dict) -> str:
    return ("≥" if result["generator_limited"] else "") + f"{result['no_loss_pps'] / 1e3:.0f}"


def ratio_text(row: Dict, name: str) -> str:
    """gwlbtun beside the baseline, and its spread where there is one."""
    low, high = row["spread"][name]
    return f"{row[name]:.1f}" + (f" ({low:.1f}-{high:.1f})" if row["rounds"] > 1 else "")


def round_trip_text(rows: List[Dict]) -> List[str]:
    lines = [
        "Round trips under load in microseconds: median, 99th percentile, and in brackets the spread of that.",
        "",
        f"{'':31}  {'at half the no-loss rate of the baseline':^56}  {'of gwlbtun':^31}",
        f"{'':31}  {'gwlbtun':^31} {'baseline':^24}  {'gwlbtun':^31}",
        f"{'workload':31}  {'k/s':>5} {'median':>7} {'p99':>17} {'median':>7} {'p99':>16}"
        f"  {'k/s':>5} {'median':>7} {'p99':>17}",
    ]
    for row in rows:
        same, base, half = row["gwlbtun"]["same_load"], row["baseline"]["half_load"], row["gwlbtun"]["half_load"]
        lines.append(f"{row['label']:31}  {base['rate'] / 1e3:5.0f} {latency_text(same)} {latency_text(base)}"
                     f"  {half['rate'] / 1e3:5.0f} {latency_text(half)}")
    return lines


def latency_text(latency: Dict) -> str:
    spread = f"({latency['p99_us_low']:.0f}-{latency['p99_us_high']:.0f})"
    return f"{latency['p50_us']:7.0f} {latency['p99_us']:5.0f} {spread:>11}"


def ping_text(pings: Dict) -> List[str]:
    lines = [f"{'one packet at a time, us':31}  {'back to back: median':>20} {'p99':>7}  {'4 KB/s: median':>15} {'p99':>7}"]
    for name, ping in pings.items():
        burst, trickle = ping["back_to_back"], ping["trickle"]
        lines.append(f"{name:31}  {burst['p50_us']:20.1f} {burst['p99_us']:7.1f}  {trickle['p50_us']:15.1f} "
                     f"{trickle['p99_us']:7.1f}")
    return lines


def lone_text(lone: Dict) -> List[str]:
    return [f"{f'lone packets, {LONE_US} us apart, us':31}  {'median':>7} {'p99':>7}",
            *(f"{name:31}  {probes['p50_us']:7.1f} {probes['p99_us']:7.1f}" for name, probes in lone.items())]


def expiry_text(expiry: Dict) -> List[str]:
    """The longest waits of a packet: medians of the rounds, and in brackets the spread."""
    lines = [f"{expiry['flows']:,} idle flows expire, us".ljust(33)
             + f"{'longest wait of a packet':>28} {'while nothing expires':>26} {'sweep, ms':>10}"]
    for name, label in (("apart", "on another core"), ("together", "on the packets' core")):
        times = {kind: f"{statistics.median(rounds):.0f} ({min(rounds):.0f}-{max(rounds):.0f})"
                 for kind, rounds in expiry[name].items()}
        lines.append(f"{label:33}{times['expiring_us']:>28} {times['calm_us']:>26} "
                     f"{statistics.median(expiry[name]['sweep_ms']):10.0f}")
    return lines


def remarks(results: Dict) -> List[str]:
    """The lines below the tables."""
    lines: List[str] = []
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
    worst = max((row[name]["foreign_cpu_worst"] for row in results["workloads"] for name in ("gwlbtun", "baseline")),
                default=0)
    return [*lines, f"Other programs on the handler's core: at worst {worst * 100:.0f} % of a trial."]


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
