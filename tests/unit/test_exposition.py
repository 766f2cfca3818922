# SPDX-License-Identifier: MIT-0
"""Metrics as text: what the formats ask of names, labels and values, read back by the Python client's parser."""
import pytest

from gwlbtun.exposition import (COUNTER, GAUGE, HISTOGRAM, INFO, OPENMETRICS_END, Family, labels, openmetrics_of, text_of)
from scrapes import parse, promtool

HOSTILE = ['"', "\\", "\n", '\\"', "\\n", "a\\", '"} 1\nup{x="', "é\u2028\0", "{},=", " ", ""]


def plain(family, source=None):
    return "".join(text_of(family, source))


def openmetrics(family, source=None):
    return "".join(openmetrics_of(family, source)) + OPENMETRICS_END


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("write", [plain, openmetrics])
def test_label_values_come_back_whatever_is_in_them(write, value):
    found = parse(write(Family("x", GAUGE, "Help.", lambda source: [(labels(a=value, b="c"), 1)])))
    assert found.samples == {("x", frozenset({("a", value), ("b", "c")})): 1}


def test_a_family_is_told_of_as_each_format_has_it():
    counter = Family("x_bytes_total", COUNTER, "Help.", lambda source: [("", source)])
    info = Family("x_info", INFO, "Help.", lambda source: [(labels(a="b"), 1)])
    assert plain(counter, 3) == "# HELP x_bytes_total Help.\n# TYPE x_bytes_total counter\nx_bytes_total 3\n"
    assert openmetrics(counter, 3) == ("# TYPE x_bytes counter\n# UNIT x_bytes bytes\n# HELP x_bytes Help.\n"
                                       "x_bytes_total 3\n# EOF\n")
    assert plain(info) == '# HELP x_info Help.\n# TYPE x_info gauge\nx_info{a="b"} 1\n'
    assert openmetrics(info) == '# TYPE x info\n# HELP x Help.\nx_info{a="b"} 1\n# EOF\n'


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1, 0.001, 1e-9, 1.5e300])
@pytest.mark.parametrize("write", [plain, openmetrics])
def test_numbers_come_back(write, value):
    assert parse(write(Family("x", GAUGE, "Help.", lambda source: [("", value)]))).value("x") == value


@pytest.mark.debian
@pytest.mark.parametrize("write", [plain, openmetrics])
def test_a_histogram_is_one(write):
    samples = [('_bucket{le="0.5"}', 1), ('_bucket{le="+Inf"}', 2), ("_sum", 1.25), ("_count", 2)]
    text = write(Family("x_seconds", HISTOGRAM, "Help.", lambda source: samples))
    assert parse(text).value("x_seconds_bucket", le="0.5") == 1
    if write is plain:
        promtool("check", "metrics", given=text)
