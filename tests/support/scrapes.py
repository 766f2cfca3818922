# SPDX-License-Identifier: MIT-0
"""What a monitor gets from /metrics, and what the tools of its users say of it."""
import shutil
import subprocess
from typing import Dict, FrozenSet, Iterable, NamedTuple, Set, Tuple

PROMETHEUS = ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
              "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")  # what version 2.42 asks for

Labels = FrozenSet[Tuple[str, str]]


class Scrape(NamedTuple):
    """Samples by name and labels, and the type and labels of each family."""

    samples: Dict[Tuple[str, Labels], float]
    types: Dict[str, str]

    def value(self, name: str, /, **labels: object) -> float:
        return self.samples[name, frozenset((key, str(value)) for key, value in labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all other labels."""
        return sum(value for (sample, had), value in self.samples.items() if sample == name and had >= set(labels.items()))

    @property
    def names(self) -> Set[str]:
        return {name for name, _ in self.samples}

    def labels(self, name: str) -> Set[FrozenSet[str]]:
        """The sets of labels that samples of that name have."""
        return {frozenset(key for key, _ in labels) for sample, labels in self.samples if sample == name}


def parse(text: str) -> Scrape:
    """Reads either format by the Python client's parser; no sample may be there twice."""
    from prometheus_client import parser  # late, for the tests of other files that need no more than promtool
    from prometheus_client.openmetrics import parser as openmetrics
    return _read((openmetrics if text.endswith("# EOF\n") else parser).text_string_to_metric_families(text))


def _read(families: Iterable) -> Scrape:
    scrape = Scrape({}, {})
    for family in families:
        assert family.name not in scrape.types, family.name
        assert family.documentation, family.name
        scrape.types[family.name] = family.type
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in scrape.samples, key
            scrape.samples[key] = sample.value
    return scrape


def scrape(daemon, accept: str = "") -> Scrape:
    status, _, body = daemon.get("/metrics", accept=accept)
    assert status == 200
    return parse(body.decode())


def promtool(*arguments: object, given: str = "") -> None:
    """Fails when promtool finds something, or is missing."""
    assert shutil.which("promtool"), "there is no promtool: on Debian, the package prometheus has it"
    done = subprocess.run(["promtool", *map(str, arguments)], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "warn" not in done.stdout.lower(), done.stdout
