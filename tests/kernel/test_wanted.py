# SPDX-License-Identifier: MIT-0
"""Whether the path in the kernel is used, by what the options and the kernel say."""
import subprocess
import sys

import pytest

from documents import ROOT
from gwlbtun.kernel import probe, wanted
from gwlbtun.settings import Settings


@pytest.mark.parametrize("tcx, path, works", [(True, "auto", True), (True, "require", True), (False, "auto", False),
                                              (False, "require", True)])
def test_filters_of_clsact_are_used_on_request_only(monkeypatch, tcx, path, works):
    """Linux itself loses packets while it adds clsact: nobody shall have that without having asked."""
    monkeypatch.setattr(probe, "probe", lambda: probe.Finding(True, "", True, tcx))
    found = wanted.look(Settings(kernel_path=path))
    assert found.works is works and bool(found.reason) is not works


def test_a_time_namespace_has_another_clock_than_the_programs():
    program = "from gwlbtun.kernel import wanted; from gwlbtun.settings import Settings; print(wanted.look(Settings()).reason)"
    done = subprocess.run(["unshare", "--time", "--monotonic", "100", "--fork", sys.executable, "-c", program], cwd=ROOT,
                          stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert "a time namespace of its own" in done.stdout
