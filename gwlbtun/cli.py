# SPDX-License-Identifier: MIT-0
"""The command line: turns options into Settings, or into an error."""
import argparse
import dataclasses
import importlib
import os
import re
import signal
import sys
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence

from . import StartError, __version__, installation, optionsfile
from .logs import parse_levels
from .settings import Settings

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as a shell has it: 128 + SIGINT

FILES = ("@FILE stands for the options in FILE, which is read as a shell would: words, quotes, # comments. "
         "A value that begins with @ needs its option in the same word: --cmdnew=@hook.")

# Words that do something else than run the daemon when they come first. Each names a module with main(arguments), which
# returns the exit status. It is imported only when it is asked for.
SUBCOMMANDS: Dict[str, str] = {
    "check": "gwlbtun.check.command",
    "show": "gwlbtun.show.command",
    "demo": "gwlbtun.demo.command",
}

# The same, but nobody types them: a gwlbtun that restarts in place starts another one by them.
INTERNAL: Dict[str, str] = {"takeover-rehearsal": "gwlbtun.takeover.rehearsal"}


class _Parser(argparse.ArgumentParser):
    """Names the options file and line of what is wrong there."""

    words: Sequence[str] = ()

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.remarks: Dict[str, str] = {}  # by option

    def parse_args(self, args: Optional[Sequence[str]] = None,  # type: ignore[override]
                   namespace: Optional[argparse.Namespace] = None) -> argparse.Namespace:
        try:
            self.words = optionsfile.expand(sys.argv[1:] if args is None else args)
        except ValueError as error:
            self.error(str(error))
        found, unknown = self.parse_known_args(self.words, namespace or argparse.Namespace())
        if unknown:
            where = _where(unknown[0])
            self.error(f"{where}unrecognized argument: {unknown[0]}" if where
                       else f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
        self.exit(EXIT_USAGE, f"gwlbtun: {self._where_of_option(message)}{line} (--help lists the options)\n")

    def _where_of_option(self, message: str) -> str:
        """Where the option stands that argparse complains of, with its value if that is what is wrong."""
        option = re.match(r"(?:argument|ambiguous option:) ([^ :]+):? (?:'(.*?)'|(\S+))?", message, re.DOTALL)
        if not option:
            return ""
        uses = [index for index, word in enumerate(self.words) if _is_use(word, option[1].split("/"))]
        for index in uses:
            if (option[2] or option[3] or "") in " ".join(self.words[index:index + 2]):
                return _where(self.words[index])
        return _where(self.words[uses[-1]]) if uses else ""


def _is_use(word: str, flags: List[str]) -> bool:
    """Whether a word is, or begins with, one of an option's flags, of which a long one may be abbreviated."""
    if word.startswith("--"):
        return len(word) > 2 and any(flag.startswith(word.partition("=")[0]) for flag in flags)
    return any(len(flag) == 2 and word.startswith(flag) for flag in flags)


def _where(word: str) -> str:
    return getattr(word, "where", "")


class _Gather(argparse.Action):
    """Collects the values of an option that may be given several times."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest, ()) + values)


def _converter(field: "dataclasses.Field[Any]", remarks: Dict[str, str]) -> Callable[[str], Any]:
    """Converts the text of an option. What is to be said of the last one that was given is then in remarks."""
    option = field.metadata
    check = option["check"] or str

    def convert(text: str) -> Any:
        remarks.pop(field.name, None)
        if text.strip() in option["unset"]:
            remarks[field.name] = f"{'/'.join(option['flags'])} is {text.strip() or 'empty'}: {option['without']}"
            return option["unset_value"]
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def make_parser(program: str = installation.NAME, description: str = "Tunnel handler for AWS Gateway Load Balancer.",
                epilog: str = FILES) -> argparse.ArgumentParser:
    """A parser of the daemon's options, each of which Settings declares."""
    parser = _Parser(prog=program, add_help=False, description=description, epilog=epilog)
    parser.add_argument("-h", "-?", "--help", action="help", help="show this text and exit")
    parser.add_argument("--version", action="version", version=f"gwlbtun {__version__}",
                        help="show the version and exit")
    for field in dataclasses.fields(Settings):
        option = field.metadata
        if option["metavar"]:
            kind = {"metavar": option["metavar"], "type": _converter(field, parser.remarks)}
            if isinstance(field.default, tuple):
                kind["action"] = _Gather
        else:
            kind = {"action": "store_true"}
        parser.add_argument(*option["flags"], dest=field.name, default=argparse.SUPPRESS, help=option["help"], **kind)
    return parser


def parse(arguments: List[str]) -> Settings:
    """Returns the settings that the arguments ask for. Bad arguments end the program: status 2, and one line on stderr."""
    return settings_of(make_parser(), arguments)


def settings_of(parser: argparse.ArgumentParser, arguments: List[str],
                others: Optional[argparse.Namespace] = None) -> Settings:
    """The same, by a parser that make_parser() has made. others: gets the values of options that are no settings."""
    names = {field.name for field in dataclasses.fields(Settings)}
    values = vars(parser.parse_args(arguments))
    if others is not None:
        vars(others).update((name, values.pop(name)) for name in values.keys() - names)
    try:
        settings, notes = Settings(**values).reconciled()
    except ValueError as error:
        parser.error(str(error))
    # After other values of an option that gathers them, an empty one changes nothing.
    remarks = {name: text for name, text in getattr(parser, "remarks", {}).items() if not isinstance(values[name], tuple)
               or not values[name]}
    complaints = [f"--logging: {complaint}; ignored" for complaint in parse_levels(settings.logging)[1]]
    for note in (*remarks.values(), *notes, *complaints):
        print(f"gwlbtun: {note}", file=sys.stderr)
    return settings


def _open_standard_descriptors() -> None:
    """Opens those of descriptors 0 to 2 that are closed. Otherwise a socket would take their place and receive the log."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # becomes this one, the lowest that is free
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def _subcommand(module: str, arguments: List[str]) -> int:
    """Runs it. Where nobody reads what it prints any more, it ends without a word."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # gwlbtun.py blocks them for the daemon
        status: int = importlib.import_module(module).main(arguments)
        sys.stdout.flush()
        return status
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try once more to write what is left
        if not isinstance(error, BrokenPipeError):
            print(f"gwlbtun: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def main(arguments: List[str]) -> int:
    _open_standard_descriptors()
    if arguments and arguments[0] in SUBCOMMANDS:
        return _subcommand(SUBCOMMANDS[arguments[0]], arguments[1:])
    if arguments and arguments[0] in INTERNAL:
        return _subcommand(INTERNAL[arguments[0]], arguments[1:])
    settings = parse(arguments)
    from .daemon import Daemon  # imported late: --help and usage errors need not wait for it
    try:
        return Daemon(settings, arguments).run()
    except StartError as error:
        print(f"gwlbtun: {error}", file=sys.stderr)
        return EXIT_FAILURE
