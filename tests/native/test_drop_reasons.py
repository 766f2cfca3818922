# SPDX-License-Identifier: MIT-0
"""Each reason for a drop is provoked by a test somewhere."""
import re
from pathlib import Path

from gwlbtun import fastpath, geneve
from gwlbtun.geneve import MEANINGS
from malformed import MALFORMED

TESTS = Path(__file__).resolve().parents[1]


def test_every_reason_for_which_a_header_is_refused_is_tried():
    with open(geneve.__file__) as file:
        source = file.read()
    raised = set(re.findall(r'"drop_([a-z_]+)"', source)) | {f"no_{meaning}" for meaning in MEANINGS}
    assert {reason for reason, _ in MALFORMED} == raised


def test_each_reason_for_a_drop_is_provoked_by_a_test():
    tests = "".join(path.read_text() for path in TESTS.glob("**/test_*.py"))
    headers = {f"drop_{reason}" for reason, _ in MALFORMED}

    def named(name: str) -> bool:
        reason = name[len("drop_"):]
        return bool(re.search(rf'{{"{reason}": |"{reason}"\),|"{name}"', tests))

    assert [name for name in fastpath.Shim().drop_texts if name not in headers and not named(name)] == []
