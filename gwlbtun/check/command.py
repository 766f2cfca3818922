# SPDX-License-Identifier: MIT-0
"""`gwlbtun check`: whether this host is ready for gwlbtun with the options given, and what to run where it is not.

It changes nothing, and may run beside the daemon. A line for each thing says ok, or what to do.
"""
import argparse
from typing import Iterable, Iterator, List

from .. import cli
from . import network, program, takeover
from .finding import Finding, Verdict

EPILOG = """\
Give it the options that gwlbtun is to run with. The exit status is 1 when gwlbtun would not start here, 2 when an option is
wrong, and otherwise 0, also with warnings."""


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser("gwlbtun check", "Checks whether this host is ready for gwlbtun, and says what to run if not.",
                             EPILOG)
    parser.add_argument("--takeover", action="store_true", help="also ask the gwlbtun that runs whether this program, with "
                        "these options, could take its place without a loss (SIGHUP), and change nothing")
    return parser


def main(arguments: List[str]) -> int:
    parser = make_parser()
    chosen = argparse.Namespace()
    settings = cli.settings_of(parser, arguments, chosen)
    failed = 0
    rehearsal = takeover.findings(settings) if chosen.takeover else ()
    for finding in _all(program.findings(settings), network.findings(settings), rehearsal):
        failed += finding.verdict is Verdict.FAIL
        print(f"{finding.verdict.value:<5} {finding.subject}: {finding.text}", flush=True)
        if finding.remedy:
            print(f"      -> {finding.remedy}", flush=True)
    return int(failed > 0)


def _all(*groups: Iterable[Finding]) -> Iterator[Finding]:
    for group in groups:
        yield from group
