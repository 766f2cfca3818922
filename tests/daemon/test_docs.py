# SPDX-License-Identifier: MIT-0
"""The documents held to what they are about: every key, option, reason, package and file is there, and no other."""
import dataclasses
import re
from pathlib import Path

import pytest

import packets
from gwlbtun import __version__, fastpath
from gwlbtun.settings import Settings
from lab import CLIENT, SERVER

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
HEALTH = (ROOT / "docs" / "HEALTH.md").read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def rows(text):
    """The cells of each row of all its tables, without the heads."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not re.match(r" (?:key|option|---) ", line)]


def coded(text):
    return re.findall(r"`([^`]+)`", text)


# ---- Health


def documented_keys():
    """All of them in full: enis[].tunnelIn.devname."""
    keys = set()
    for section in re.split(r"^## ", HEALTH, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        for prefix in coded(title) if keys else [""]:
            steps = prefix.split(".") if prefix else []
            keys.update(".".join(steps[:end]).replace("[]", "") for end in range(1, len(steps) + 1))
            keys.update(".".join([*steps, key]).replace("[]", "") for row in rows(body) for key in coded(row[0]))
    return keys


def live_keys(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}{key}"
            yield from live_keys(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from live_keys(inner, path)


def test_every_key_of_health_is_explained_and_no_other(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2)
    endpoint.send(packet)
    assert lab.wait(lambda: endpoint.received == [packet])
    assert set(live_keys(daemon.health())) == documented_keys()


def test_reasons_for_drops_are_said_as_the_log_says_them():
    section = HEALTH.partition("## `drops`")[2].partition("\n## ")[0]
    assert {coded(key)[0]: text for key, text in rows(section)} == {
        name[len("drop_"):]: text for name, text in fastpath.Shim().drop_texts.items()}


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


def test_reasons_named_in_readme_exist():
    named = re.findall(r"Dropped: N packets \((\w+)\)", README)
    assert named and {f"drop_{name}" for name in named} <= set(fastpath.Shim().drop_texts)


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
