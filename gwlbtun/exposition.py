# SPDX-License-Identifier: MIT-0
"""Metrics as text: the format of Prometheus, version 0.0.4, and OpenMetrics 1.0, which differ in what they say of a family."""
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Tuple, Union

COUNTER, GAUGE, HISTOGRAM, INFO = "counter", "gauge", "histogram", "info"

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS_END = "# EOF\n"

UNITS = "seconds", "bytes"

Value = Union[int, float]
Sample = Tuple[str, Value]  # what follows the name of the family: labels(), after the suffix that a histogram's sample has


class Family(NamedTuple):
    """Metrics of one name. A counter's ends in _total, that of an info in _info."""

    name: str
    kind: str
    help: str
    samples: Callable[[Any], Iterable[Sample]]  # of whatever they are taken from


def labels(**values: object) -> str:
    """The labels of a sample, whatever characters their values hold."""
    return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in values.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def text_of(family: Family, source: Any) -> Iterator[str]:
    """A family for Prometheus, line by line."""
    kind = GAUGE if family.kind == INFO else family.kind
    yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {kind}\n"
    for suffix, value in family.samples(source):
        yield f"{family.name}{suffix} {value}\n"


def openmetrics_of(family: Family, source: Any) -> Iterator[str]:
    """A family as OpenMetrics has it, line by line."""
    suffixes: Dict[str, str] = {COUNTER: "_total", INFO: "_info"}
    name = family.name[:-len(suffixes[family.kind])] if family.kind in suffixes else family.name
    yield f"# TYPE {name} {family.kind}\n"
    unit = name.rpartition("_")[2]
    if unit in UNITS:
        yield f"# UNIT {name} {unit}\n"
    yield f"# HELP {name} {_escaped(family.help)}\n"
    for suffix, value in family.samples(source):
        yield f"{family.name}{suffix} {value}\n"
