# SPDX-License-Identifier: MIT-0
"""The command line: turns options into Settings, or into an error."""
import argparse
import dataclasses
import os
import sys
from typing import Any, Callable, List, NoReturn, Optional

from . import StartError, __version__
from .logs import parse_levels
from .settings import Settings

EXIT_FAILURE = 1
EXIT_USAGE = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"gwlbtun: {message} (--help lists the options)\n")


class _Gather(argparse.Action):
    """Collects the values of an option that may be given several times."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest, ()) + values)


def _converter(field: "dataclasses.Field[Any]") -> Callable[[str], Any]:
    option = field.metadata
    check = option["check"] or str

    def convert(text: str) -> Any:
        if text.strip() in option["unset"]:
            print(f"gwlbtun: {'/'.join(option['flags'])} is {text.strip() or 'empty'}: {option['without']}", file=sys.stderr)
            return field.default
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def parse(arguments: List[str]) -> Settings:
    """Returns the settings that the arguments ask for. Bad arguments end the program: status 2, and one line on stderr."""
    parser = _Parser(prog="gwlbtun.py", add_help=False,
                     description="Tunnel handler for AWS Gateway Load Balancer.")
    parser.add_argument("-h", "-?", "--help", action="help", help="show this text and exit")
    parser.add_argument("--version", action="version", version=f"gwlbtun {__version__}",
                        help="show the version and exit")
    for field in dataclasses.fields(Settings):
        option = field.metadata
        if option["metavar"]:
            kind = {"metavar": option["metavar"], "type": _converter(field)}
            if isinstance(field.default, tuple):
                kind["action"] = _Gather
        else:
            kind = {"action": "store_true"}
        parser.add_argument(*option["flags"], dest=field.name, default=argparse.SUPPRESS, help=option["help"], **kind)
    settings = Settings(**vars(parser.parse_args(arguments)))
    for complaint in parse_levels(settings.logging)[1]:
        print(f"gwlbtun: --logging: {complaint}; ignored", file=sys.stderr)
    return settings


def _open_standard_descriptors() -> None:
    """Opens those of descriptors 0 to 2 that are closed. Otherwise a socket would take their place and receive the log."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # becomes this one, the lowest that is free
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def main(arguments: List[str]) -> int:
    _open_standard_descriptors()
    settings = parse(arguments)
    from .daemon import Daemon  # imported late: --help and usage errors need not wait for it
    try:
        return Daemon(settings).run()
    except StartError as error:
        print(f"gwlbtun: {error}", file=sys.stderr)
        return EXIT_FAILURE
