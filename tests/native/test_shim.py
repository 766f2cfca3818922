# SPDX-License-Identifier: MIT-0
"""The shim, when it is loaded: Python and C must agree on all that both sides know."""
import pytest

from gwlbtun import StartError, layout, shim


def test_python_mirrors_all_that_the_shim_lists():
    names = {*layout.mirrored(), *shim.Shim()._layout()}
    assert {"GW_STOPPED", "GW_SLOTS_MAX", "gw_trace_record", "gw_trace_record.eni", "gw_trace_record.data"} <= names
    assert shim.Shim()._layout() == layout.mirrored()


@pytest.mark.parametrize("name", layout.mirrored())
def test_a_constant_or_an_offset_that_differs_stops_the_start(monkeypatch, name):
    differing = {**layout.mirrored(), name: layout.mirrored()[name] + 1}
    monkeypatch.setattr(shim, "mirrored", lambda: differing)
    with pytest.raises(StartError, match=r"gwlbtun\.so does not match .*layout\.py: install both"):
        shim.Shim()
