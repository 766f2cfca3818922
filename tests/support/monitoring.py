# SPDX-License-Identifier: MIT-0
"""The alert rules and the dashboard, and the metrics that they ask for."""
import json
import re
from typing import Iterator, List, Set

from documents import ROOT

RULES = ROOT / "packaging" / "prometheus" / "gwlbtun.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "gwlbtun.json"

_VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$job": "gwlbtun", "$instance": ".*"}


def queries() -> List[str]:
    """All queries of the dashboard, with its variables filled in."""
    return [re.sub(r"\$\w+", lambda found: _VARIABLES[found[0]], text)
            for text in _expressions(json.loads(DASHBOARD.read_text()))]


def _expressions(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "expr" in value:
            yield value["expr"]
        if "definition" in value:  # of a variable: label_values(METRIC, LABEL)
            yield re.sub(r"label_values\((.*), \w+\)", r"\1", value["definition"])
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _expressions(inner)


def metrics_asked_for() -> Set[str]:
    """By the rules and the dashboard. Descriptions of alerts count, too."""
    return set(re.findall(r"\b(?:gwlbtun|process)_\w+", "\n".join([RULES.read_text(), *queries()])))
