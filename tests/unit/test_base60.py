# SPDX-License-Identifier: MIT-0
"""The names of interfaces, in gwlbtun and in the load balancer of the tests."""
import pytest

import gwlb
from gwlbtun import identity


@pytest.mark.parametrize("number, text", [
    (0x0123456789AB0000, "887epl1g9A"), (0x076BC493B822CD32F, "e8WXgsTQDkf"), (2**64 - 1, "uur953OEv0f"),
    (0, "0"), (59, "X"), (60, "10"),
])
def test_base60(number, text):
    assert identity.base60(number) == text


def test_base60_names_interfaces_as_they_are_known():
    assert [gwlb.base60(eni) for eni in (0x0123456789AB0000, 0x076BC493B822CD32F, 2 ** 64 - 1)] == \
        ["887epl1g9A", "e8WXgsTQDkf", "uur953OEv0f"]
