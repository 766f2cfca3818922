# SPDX-License-Identifier: MIT-0
"""The documents name the reasons for drops that the shim has, as it says them."""
import re

from documents import HEALTH, ROOT, coded, rows
from gwlbtun import fastpath


def test_reasons_for_drops_are_said_as_the_log_says_them():
    section = HEALTH.partition("## `drops`")[2].partition("\n## ")[0]
    assert {coded(key)[0]: text for key, text in rows(section)} == {
        name[len("drop_"):]: text for name, text in fastpath.Shim().drop_texts.items()}


def test_reasons_named_in_operations_exist():
    named = re.findall(r"Dropped: N packets \((\w+)\)", (ROOT / "docs" / "OPERATIONS.md").read_text())
    assert named and {f"drop_{name}" for name in named} <= set(fastpath.Shim().drop_texts)
