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


def test_the_table_of_options_is_that_of_the_settings():
    table = README.partition("\n## Options\n")[2].partition("\n## ")[0]
    shown = {}
    for option, text, default in rows(table):
        words = [word.split() for word in coded(option)]
        shown[frozenset(word[0] for word in words)] = words[-1][1:], text, default
    options = {frozenset(field.metadata["flags"]): field for field in dataclasses.fields(Settings)}
    assert set(shown) == set(options) | {frozenset(["-h", "-?", "--help"]), frozenset(["--version"])}
    for flags, field in options.items():
        metavar, text, default = shown[flags]
        assert metavar == ([field.metadata["metavar"]] if field.metadata["metavar"] else [])
        if isinstance(field.default, int) and metavar:
            assert default == str(field.default)
        if "threads" in field.name:
            bound = re.search(r"at most (\d+)", text)[1]
            field.metadata["check"](bound)
            with pytest.raises(ValueError):
                field.metadata["check"](str(int(bound) + 1))


def test_the_unit_and_the_templates_unit_have_the_same_limits():
    template = (ROOT / "example-scripts" / "gwlbtun.yaml").read_text()
    for limit in "LimitNOFILE", "TasksMax":
        value, = set(re.findall(rf"{limit}=(\w+)\n", README))
        assert re.findall(rf"{limit}=(\w+)\n", template) == [value]


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
def test_files_named_are_there(document):
    """By the end of their path: a table may name a directory once."""
    there = [f"/{path.relative_to(ROOT)}" for top in ("gwlbtun", "native", "tests", "bench", "example-scripts", "docs", "tools")
             for path in (ROOT / top).rglob("*.*")] + [f"/{path.name}" for path in ROOT.iterdir()]
    text = document.read_text().replace("/opt/gwlbtun/", "")
    named = re.findall(r"(?:[\w-]+/)*[\w*-]+\.(?:(?:sh|py|md|yaml|nft|svg|so)\b|\[ch\]|[ch]\b)", text)
    for name in named:
        for one in [name.replace("[ch]", letter) for letter in "ch"]:
            assert any(path.endswith(f"/{one}") for path in there), one
