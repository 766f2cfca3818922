# SPDX-License-Identifier: MIT-0
"""The documents held to what they are about: every option, limit, link and file is there, and no other."""
import dataclasses
import re

import pytest

from documents import README, ROOT, coded, rows
from gwlbtun import __version__
from gwlbtun.settings import Settings

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


# ---- README


def test_the_options_in_readme_are_those_there_are():
    table = README.partition("\n## Options\n")[2].partition("\n## ")[0]
    shown = [words.split() for _, options in rows(table) for words in coded(options)]
    flags = {words[0] for words in shown}
    assert len(flags) == len(shown)
    options = [field.metadata for field in dataclasses.fields(Settings)]
    assert flags == {flag for option in options for flag in option["flags"]} | {"-h", "-?", "--help", "--version"}
    for option in options:
        given = [words[1:] for words in shown if words[0] == option["flags"][-1]]
        assert given == [[option["metavar"]] if option["metavar"] else []], option["flags"]


def test_readme_is_short():
    assert len(README.splitlines()) < 200


# ---- Every document


def test_the_newest_version_is_this_one():
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == __version__


def slug(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_named_are_there(document):
    for file, names in re.findall(r"(test_\w+\.py): ((?:`test_\w+`(?:, )?)+)", document.read_text()):
        text = "".join(path.read_text() for path in (ROOT / "tests").rglob(file))
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in text, (file, name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_are_there(document):
    """By the end of their path: a table may name a directory once."""
    tops = "gwlbtun", "native", "tests", "bench", "example-scripts", "docs", "tools", "packaging"
    there = [f"/{path.relative_to(ROOT)}" for top in tops
             for path in (ROOT / top).rglob("*.*")] + [f"/{path.name}" for path in ROOT.iterdir()]
    text = re.sub(r"/(opt|usr/share)/gwlbtun/", "", document.read_text())
    named = re.findall(r"(?:[\w-]+/)*[\w*-]+\.(?:(?:sh|py|md|yaml|nft|svg|so)\b|\[ch\]|[ch]\b)", text)
    for name in named:
        for one in [name.replace("[ch]", letter) for letter in "ch"]:
            assert any(path.endswith(f"/{one}") for path in there), one
