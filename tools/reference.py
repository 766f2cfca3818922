#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Makes the manual page and bash's completion of gwlbtun from the one list of its options and subcommands.

Usage: tools/reference.py man TEMPLATE | bash
"""
import argparse
import importlib
import re
import sys
import textwrap
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gwlbtun import checks, cli, logs  # noqa: E402

# What bash offers for a value: by the word that stands for the value, or by the option.
KINDS = {"FILE": "files", "IFNAME": "interfaces", "IFNAME,...": "interfaces"}
WORDS = {"--offload": ("none", "all", *checks.OFFLOADS), "--logging": ("all", *logs.SECTIONS), "--log-format": ("text", "json"),
         "--kernel-path": checks.KERNEL_PATHS}

Actions = List[argparse.Action]


def parsers() -> Dict[str, argparse.ArgumentParser]:
    """The parser of the daemon, named "", and those of the subcommands."""
    return {"": cli.make_parser(), **{name: importlib.import_module(module).make_parser()
                                      for name, module in cli.SUBCOMMANDS.items()}}


def options(parser: argparse.ArgumentParser) -> Actions:
    return [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]


def operands(parser: argparse.ArgumentParser) -> Actions:
    return [action for action in parser._actions if not action.option_strings and action.help != argparse.SUPPRESS]


def value(action: argparse.Action) -> str:
    """What stands for the value of an option, or for an operand; empty for a switch."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def explanation(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


# ---- The manual page, in mdoc


def text(prose: str) -> str:
    """Prose with each sentence on lines of its own, as mdoc likes it, and nothing that mdoc would take for a request."""
    prose = re.sub(r"\s+", " ", prose.strip()).replace("\\", "\\e")
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", prose)
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, 78, break_on_hyphens=False)]
    return "\n".join("\\&" + line if line[0] in ".'" else line for line in lines)


def word(argument: str) -> str:
    """A word after a macro; one that could be a macro or a delimiter itself is masked."""
    argument = argument.replace("\\", "\\e")
    argument = f'"{argument}"' if " " in argument else argument
    return "\\&" + argument if len(argument) < 4 else argument


def flag(action: argparse.Action, name: str) -> str:
    shown = value(action)
    optional = action.nargs in ("?", "*")
    argument = (f" Oo Ar {word(shown)} Oc" if optional else f" Ar {word(shown)}") if shown else ""
    return f"Fl {word(name[1:])}{argument}"


def man_options(parser: argparse.ArgumentParser, actions: Actions) -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for action in actions:
        yield ".It " + " , ".join(flag(action, name) for name in action.option_strings)
        sentence = explanation(parser, action)
        yield text(sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith(".") else "."))
    yield ".El"


def man_operands(parser: argparse.ArgumentParser) -> str:
    return "".join(f" Oo Ar {word(value(action))} Oc" if action.nargs in ("?", "*") else f" Ar {word(value(action))}"
                   for action in operands(parser))


def man_commands(subcommands: Dict[str, argparse.ArgumentParser], known: List[Sequence[str]]) -> Iterator[str]:
    """Each subcommand, with those of its options that the daemon does not have as well."""
    yield ".Sh COMMANDS"
    yield text("With one of these words for its first argument, gwlbtun does not run the daemon. "
               "The option --help after it explains it.")
    yield ".Bl -tag -width Ds"
    for name, parser in subcommands.items():
        yield f".It Cm {word(name)}{man_operands(parser)}"
        paragraphs = [parser.description or "", *re.split(r"\n\n+", parser.epilog or "")]
        yield "\n.Pp\n".join(text(paragraph) for paragraph in paragraphs if paragraph.strip())
        own = [action for action in options(parser) if action.option_strings not in known]
        if own:
            yield from man_options(parser, own)
    yield ".El"


def man(template: str) -> str:
    subcommands = parsers()
    daemon = subcommands.pop("")
    known = [action.option_strings for action in options(daemon)]
    synopsis = [".Nm", ".Op Ar options"]
    for name in subcommands:
        synopsis += [".Nm", f".Cm {word(name)}", ".Op Ar options"]
    parts = {"SYNOPSIS": synopsis, "OPTIONS": man_options(daemon, options(daemon)),
             "COMMANDS": man_commands(subcommands, known) if subcommands else []}
    for name, lines in parts.items():
        template = template.replace(f"@{name}@\n", "".join(line + "\n" for line in lines))
    return template


# ---- Completion

BASH = r"""# SPDX-License-Identifier: MIT-0
# bash's completion of gwlbtun, made from the list of its options by tools/reference.py.

_gwlbtun() {
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command='' offered='' equals=''
	COMPREPLY=()
	# --option=value is three words to bash.
	if [[ $current == = ]]; then
		current='' equals=1
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]} equals=1
	fi
	[[ ! $equals || $before == -* ]] || return # --logging geneve=
	((COMP_CWORD == 1)) || command=${COMP_WORDS[1]}
	case $command in
@COMMANDS@
	esac
	case $before in
@VALUES@
	*)
		mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
		return
		;;
	esac
	# Of a list, the last word is completed.
	local list=
	[[ $current != *,* ]] || list=${current%,*},
	mapfile -t COMPREPLY < <(compgen -P "$list" -W "$offered" -- "${current##*,}")
}

complete -F _gwlbtun gwlbtun gwlbtun.py
"""

FILES = """		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return"""
OFFERS = {"files": FILES, "interfaces": "\t\toffered=$(ls /sys/class/net)", "nothing": "\t\treturn"}


def values(found: Iterator[argparse.Action]) -> Dict[str, List[str]]:
    """By what bash offers for their value, the options that take one."""
    kinds: Dict[str, List[str]] = {}
    for action in found:
        words = next((WORDS[name] for name in action.option_strings if name in WORDS), action.choices)
        offer = f'\t\toffered="{" ".join(words)}"' if words else OFFERS[KINDS.get(value(action), "nothing")]
        if value(action):
            kinds.setdefault(offer, []).extend(name for name in action.option_strings if name not in sum(kinds.values(), []))
    return kinds


def case(labels: List[str], body: str) -> str:
    return f"\t{' | '.join(labels)})\n{body}\n\t\t;;"


def bash() -> str:
    found = parsers()
    commands: List[Tuple[List[str], str]] = []
    for name, parser in sorted(found.items(), key=lambda item: not item[0]):
        words = [max(action.option_strings, key=len) for action in options(parser)]
        words += [str(choice) for action in operands(parser) for choice in action.choices or ()]
        commands.append(([name or "*"], f'\t\toffered="{" ".join(words)}"'))
    first = f'\t\t((COMP_CWORD != 1)) || offered+=" {" ".join(cli.SUBCOMMANDS)}"'
    labels, body = commands[-1]
    commands[-1] = labels, f"{body}\n{first}"
    offers = values(action for parser in found.values() for action in options(parser))
    return (BASH.replace("@COMMANDS@", "\n".join(case(*command) for command in commands))
            .replace("@VALUES@", "\n".join(case(flags, offer) for offer, flags in offers.items())))


def main(arguments: List[str]) -> int:
    if arguments == ["bash"]:
        print(bash(), end="")
    elif len(arguments) == 2 and arguments[0] == "man":
        print(man(Path(arguments[1]).read_text(encoding="utf-8")), end="")
    else:
        print("usage: tools/reference.py man TEMPLATE | bash", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
