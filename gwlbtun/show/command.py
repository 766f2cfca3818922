# SPDX-License-Identifier: MIT-0
"""`gwlbtun show`: asks the running daemon for its endpoints, flows, threads and drops, and prints them."""
import argparse
import contextlib
import io
import ipaddress
import itertools
import os
import shutil
import sys
import time
from typing import IO, Any, Dict, Iterable, List, NoReturn

from .. import checks
from ..cli import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from ..rendezvous import DEFAULT_PATH, GROUP
from .asker import Answer, AskError, ask
from .flowrows import PROTOCOLS, flow_rows
from .tables import Row, print_aligned, print_fields, print_json, printable
from .topics import TOPICS, Topic, add_rates

WATCH_S = 1.0
LIMIT = 100      # flows that people get, unless they say otherwise
NICENESS = 10    # packets come first
CLEAR = "\x1b[H\x1b[J"

_FLOWS_ONLY = ("address", "port", "protocol", "fragments", "limit")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"gwlbtun show: {message} (--help lists the options)\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gwlbtun show", add_help=False, description="Shows what the running gwlbtun is at.",
        epilog=f"Root may ask, and the group {GROUP} if there was one when the daemon started. Exit status: 0; 1 when there is "
               "no answer; 2 for a wrong word or option.")
    parser.add_argument("topic", nargs="?", default="endpoints", choices=[*TOPICS],
                        help="what to show: %(choices)s (default: endpoints)")
    parser.add_argument("form", nargs="?", choices=["dump"],
                        help="dump: for scripts, one line for each row with its fields between tabs, in the order of "
                             "docs/SHOW.md; a hyphen stands for no value")
    parser.add_argument("-h", "-?", "--help", action="help", help="show this text and exit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-w", "--watch", action="store_true",
                        help="show it again each second, with rates, until interrupted")
    parser.add_argument("-e", "--endpoint", metavar="ID",
                        help="only what belongs to this endpoint: vpce-0123456789abcdef0, its digits, or the name of one of "
                             "its interfaces, or the name that --endpoint has given it (not for drops)")
    flows = parser.add_argument_group("flows")
    flows.add_argument("--address", metavar="CIDR", type=_checked(_network), help="only flows of this address or network")
    flows.add_argument("--port", metavar="PORT", type=_checked(checks.whole_number(0, 65_535, "a port")),
                       help="only TCP and UDP flows of this port")
    flows.add_argument("--protocol", metavar="PROTO", type=_checked(_protocol),
                       help=f"only flows of this protocol: {', '.join(PROTOCOLS)}, or its number")
    flows.add_argument("--fragments", action="store_true", help="also datagrams in fragments, which are in the table, too")
    flows.add_argument("--limit", metavar="NUM", type=_checked(checks.whole_number(0, 1 << 28, "flows")),
                       help=f"at most so many flows; 0: all (default: {LIMIT}, and all with --json and dump)")
    whom = parser.add_argument_group("which gwlbtun to ask, if several run")
    whom.add_argument("--socket", metavar="PATH", help=f"the one with this --control (default: what answers at {DEFAULT_PATH})")
    whom.add_argument("--pid", metavar="NUM", type=_checked(checks.whole_number(1, 1 << 22, "a process ID")),
                      help="the one with this process ID")
    return parser


def _checked(check: Any) -> Any:
    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"'{text}' is neither an address nor a network: give one such as 10.0.1.2, 10.0.0.0/8 or "
                         "fd00::/8") from None


def _protocol(text: str) -> int:
    number = PROTOCOLS.get(text.lower())
    if number is not None:
        return number
    try:
        return checks.whole_number(0, 255, "a protocol")(text)
    except ValueError:
        raise ValueError(f"there is no protocol '{text}': give {', '.join(PROTOCOLS)}, or a number from 0 to 255") from None


def main(arguments: List[str]) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.watch:
            _watch(options)
        else:
            _print(options, _ask(options), sys.stdout)
        sys.stdout.flush()
        return 0
    except AskError as error:
        print(f"gwlbtun: {printable(str(error))}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return 0 if options.watch else EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        _stop_writing()
        return 0
    except OSError as error:
        print(f"gwlbtun: cannot write: {error.strerror}", file=sys.stderr)
        _stop_writing()
        return EXIT_FAILURE


def _stop_writing() -> None:
    """Or Python would try once more to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.form and options.json:
        parser.error("choose one of dump and --json")
    if options.socket and options.pid:
        parser.error("choose one of --socket and --pid")
    for name in _FLOWS_ONLY if options.topic != "flows" else ():
        if _given(options, name):
            parser.error(f"--{name} is for flows: say `show flows --{name} ...`")
    if options.topic == "drops" and options.endpoint:
        parser.error("drops are not counted by endpoint: leave out --endpoint")


def _given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False  # though it may be 0


def _ask(options: argparse.Namespace) -> Answer:
    request: Dict[str, Any] = {"ask": options.topic}
    for name in ("endpoint", *_FLOWS_ONLY):
        if _given(options, name):
            request[name] = getattr(options, name)
    if options.topic == "flows" and options.limit is None and not (options.json or options.form):
        request["limit"] = LIMIT
    return ask(request, options.socket, options.pid)


def _watch(options: argparse.Namespace) -> None:
    """Shows a row's rates from the second look on."""
    before: Iterable[Row] = ()
    before_s = 0.0
    while True:
        begin = time.monotonic()
        answer = _ask(options)
        add_rates(TOPICS[options.topic], answer.rows, before, begin - before_s)
        before, before_s = answer.rows, begin
        screen = io.StringIO()
        _print(options, answer, screen)
        if sys.stdout.isatty():
            sys.stdout.write(CLEAR + _fitted(screen.getvalue()))
        else:
            sys.stdout.write(screen.getvalue() + ("" if options.json or options.form else "\n"))
        sys.stdout.flush()
        time.sleep(max(begin + WATCH_S - time.monotonic(), 0))


def _fitted(text: str) -> str:
    """As much of the text as a terminal shows at once."""
    width, height = shutil.get_terminal_size()
    return "\n".join(line[:width] for line in text.splitlines()[:height - 1]) + "\n"


def _print(options: argparse.Namespace, answer: Answer, out: IO[str]) -> None:
    topic = TOPICS[options.topic]
    rows: Iterable[Row] = answer.rows
    if options.topic == "flows":
        rows = flow_rows(answer.octets, (answer.first("names") or {}).get("names", {}))
    if options.json:
        print_json(_head(answer), options.topic, rows, out, one_line=options.watch)
    elif options.form:
        print_fields(topic.fields, rows, out)
    else:
        _print_for_people(options, answer, topic, rows, out)


def _head(answer: Answer) -> Row:
    head = {"version": answer.about["gwlbtun"], "pid": answer.about.get("pid")}
    for line in answer.lines:
        head.update((key, value) for key, value in line.items() if key not in ("row", "size", "names"))
    return head


def _print_for_people(options: argparse.Namespace, answer: Answer, topic: Topic, rows: Iterable[Row], out: IO[str]) -> None:
    head = _head(answer)
    if options.topic == "endpoints":
        text = (f"gwlbtun {head['version']}, process {head['pid']}: {'healthy' if head.get('healthy') else 'unhealthy'}, "
                f"{head.get('flows')} of at most {head.get('flowsBound')} flows, "
                f"at most {head.get('endpointsBound')} endpoints")
        out.write(f"{printable(text)}\n")
        out.writelines(f"- {printable(str(reason))}\n" for reason in head.get("reasons", ()))
        out.writelines(f"Note: {printable(str(note))}\n" for note in head.get("notes", ()))
    if options.topic == "drops":
        rows = [row for row in rows if row["pkts"]]
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        out.write(f"{topic.empty}\n")
        return
    columns = topic.columns + (topic.rates if options.watch else ())
    print_aligned(columns, itertools.chain([first], rows), out)
    if head.get("more"):
        out.write(f"There are more flows: --limit 0 shows all. The table holds {head.get('entries')} of at most "
                  f"{head.get('entriesBound')}.\n")
