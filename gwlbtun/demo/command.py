# SPDX-License-Identifier: MIT-0
"""`gwlbtun demo`: gwlbtun at work on one machine, without a cloud.

Whatever ends it, be it a signal, a fault or a terminal that goes away, all that it has made goes with it.
"""
import argparse
import contextlib
import sys
from typing import List

from .. import StartError
from ..cli import EXIT_FAILURE
from . import books, report, requirements, workplace
from .output import Output
from .scene import Scene
from .signals import Interrupted, Signals
from .steps import STEPS

EXIT_SIGNAL = 128  # and the number of the signal

DESCRIPTION = """\
Shows gwlbtun at work on this machine: a client, a server, a load balancer and an appliance with an nftables firewall, each in
a network namespace of its own. It needs root. It leaves the host's own network alone, and takes everything down at the end."""
EPILOG = "The exit status is 0 when everything went as it should."


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gwlbtun demo", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--keep", action="store_true", help="leave it up until Ctrl-C, and say what to try")
    return parser


def main(arguments: List[str]) -> int:
    keep: bool = make_parser().parse_args(arguments).keep
    signals = Signals()
    try:
        requirements.check()
        return _run(Output(sys.stdout), signals, keep)
    except StartError as error:
        print(f"gwlbtun demo: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except Interrupted as interruption:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"\ngwlbtun demo: everything has been taken down after {interruption}", file=sys.stderr)
        return EXIT_SIGNAL + interruption.number


def _run(output: Output, signals: Signals, keep: bool) -> int:
    with contextlib.ExitStack() as stack:
        try:
            workplace.sweep()
            place = workplace.claim()
            stack.callback(place.close)
            scene = Scene(place, signals)
            stack.callback(scene.close)
            scene.build()
            scene.start()
            good = _play(output, scene)
            if keep:
                report.show_things_to_try(output, scene)
                signals.wait()
        except Exception:
            signals.check()  # a terminal sends them to our children, too, which then fail
            raise
        finally:
            signals.ignore()  # before the stack takes everything down
    output.say("\nEverything has been taken down.")
    return 0 if good else EXIT_FAILURE


def _play(output: Output, scene: Scene) -> bool:
    """Runs the steps and shows what came of them; whether all went as it should."""
    output.say(report.INTRODUCTION)
    try:
        good = _run_steps(output, scene)
    except StartError as error:
        output.verdict(False, "gwlbtun", str(error))
        good = False
    if not good:
        report.show_log(output, scene)
    return good


def _run_steps(output: Output, scene: Scene) -> bool:
    """The first one that fails is the last: others would fail for the same reason."""
    good = True
    for step in STEPS:
        outcome = step.act(scene)
        scene.signals.check()
        output.verdict(outcome.good, step.label, *outcome.texts)
        good = outcome.good
        if not good:
            break
    counted = books.close(scene, books.SETTLE_S if good else 0)
    outcome = report.balance(counted, scene)
    output.verdict(outcome.good, "sums", *outcome.texts)
    report.show_books(output, counted)
    return good and outcome.good
