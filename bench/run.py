#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""`make bench`: what gwlbtun carries on one core, beside a handler that takes packets one at a time.

For each workload, first the baseline, then gwlbtun, and for bulk traffic the floor: start it anew, check that packets
return unchanged, send as fast as possible, search the highest rate that returns 99.9 % of the packets (RFC 2544's
throughput, with shorter trials), repeat that rate for the CPU time per packet, then time probes at half that rate.
docs/PERFORMANCE.md tells the method in full.
"""
import argparse
import os
import pathlib
import signal
import sys
from typing import Dict

import kernelpath
import programs
import report
from comparison import Comparison
from lab import Bed
from processes import BUILD, BenchError
from progress import Progress
from workloads import BRIEF, EXPIRING_FLOWS, FULL, KERNEL_PATH, OTHERS, OVERLOAD, QUICK, WORKLOADS, rounds_of


def parse_options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", nargs="*", help="workloads to run, of: " + ", ".join(
        [workload.name for workload in WORKLOADS] + OTHERS) + " (default: all)")
    parser.add_argument("--quick", action="store_true", help="about a minute: few workloads, short trials")
    parser.add_argument("--baseline", choices=("threads", "loop"), default="threads", help="how the baseline works: a thread "
                        "for each interface, or one loop for all (default: threads)")
    parser.add_argument("--one-core", action="store_true", help="the handler's core does the work of receiving, too (RPS), "
                        "which falls on the generator's otherwise; always so in " + OVERLOAD.name)
    parser.add_argument("--offload", help="passed on to gwlbtun")
    parser.add_argument("--cut", action="store_true", help="cut super-packets in software on the way out, as for a network "
                        "card without UDP segmentation offload")
    parser.add_argument("--handler-options", default="", help="more options for gwlbtun, as one argument")
    parser.add_argument("--rcvbuf", type=int, default=32, metavar="MB", help="receive buffer of both handlers (default: 32)")
    parser.add_argument("--core", type=int, default=cores[-1], help="the handler's core (default: the last)")
    parser.add_argument("--generator-core", type=int, default=cores[0], help="the generator's core (default: the first)")
    parser.add_argument("--json", type=pathlib.Path, default=BUILD / "bench.json", help="where the results go")
    parser.add_argument("--svg", type=pathlib.Path, default=BUILD / "bench.svg", help="where the chart goes")
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


def measure(options: argparse.Namespace, results: Dict) -> None:
    """Adds what was asked for to the results, piece by piece, so that a run that is stopped keeps its results so far."""
    pace = BRIEF if options.quick else FULL
    wanted = options.workload or (QUICK if options.quick else [workload.name for workload in WORKLOADS] + OTHERS)
    workloads = [workload for workload in WORKLOADS if workload.name in wanted]
    modes = [options.baseline] + [mode for mode in ("threads", "loop") if mode != options.baseline]
    results["pace"] = pace._asdict()
    programs.build()
    steps = 3 * sum(rounds_of(workload, pace) for workload in workloads) + ("latency" in wanted) * 3 + (
        "lone" in wanted) * 3 + (OVERLOAD.name in wanted) * 2 + ("expiry" in wanted) + (
            KERNEL_PATH in wanted) * kernelpath.steps(pace) + 1
    with Progress(steps) as progress, Bed() as bed:
        comparison = Comparison(bed, options, pace, progress)
        progress.say("checking the counter", True)
        results["counter"] = comparison.check_counter("gwlbtun")
        progress.next()
        bed.segment_before_counting(options.cut)
        if options.one_core:
            bed.steer(options.core)
        for word, measured, names in (("ping", comparison.ping, (*modes, "gwlbtun")),
                                      ("lone", comparison.lone, (*modes, "gwlbtun")),
                                      ("overload", comparison.overload, (options.baseline, "gwlbtun"))):
            if {"ping": "latency", "overload": OVERLOAD.name}.get(word, word) in wanted:
                results[word] = {}
                for name in names:
                    results[word][name if name == "gwlbtun" else f"baseline ({name})"] = measured(name)
                    progress.next()
        if "expiry" in wanted:
            progress.say("idle flows expire", True)
            results["expiry"] = programs.expiry(EXPIRING_FLOWS, pace.expiry_rounds, options.core, options.generator_core)
            progress.next()
        if KERNEL_PATH in wanted:
            bed.steer(options.core)
            results["kernel_path"] = []
            own_pace = kernelpath.pace_of(pace)
            for row in kernelpath.rows(Comparison(bed, options, own_pace, progress), own_pace, progress):
                results["kernel_path"].append(row)
            if not options.one_core:
                bed.steer_no_more()
        for workload in workloads:
            progress.say(workload.label, True)
            rounds = [comparison.round(workload, options.baseline) for _ in range(rounds_of(workload, pace))]
            rounds.sort(key=lambda one: one["cpu_ratio"])
            results["workloads"].append({
                **workload._asdict(), **rounds[len(rounds) // 2], "rounds": len(rounds),
                "spread": {name: (min(one[name] for one in rounds), max(one[name] for one in rounds))
                           for name in ("ratio", "cpu_ratio")}})


def main() -> int:
    options = parse_options()
    results: Dict = {"machine": report.machine(), "baseline": options.baseline, "cut": options.cut,
                     "offload": options.offload or "all", "workloads": []}
    # A stop by signal unwinds as any other does, so that namespaces and processes go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {options.generator_core})
    status = 0
    try:
        measure(options, results)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    report.write_results(results, options)
    print(report.table(results))
    for count in results.get("counter", {}).values():
        if not count["sent"] == count["captured"] == count["computed"]:
            print("bench: the counter does not count right", file=sys.stderr)
            status = status or 1
    print(f"\nWritten: {options.json} and {options.svg}")
    return status


if __name__ == "__main__":
    sys.exit(main())
