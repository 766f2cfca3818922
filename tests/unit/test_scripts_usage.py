# SPDX-License-Identifier: MIT-0
"""Hook scripts that are called the wrong way say how to call them."""
import pytest

import netns
from scripts import HOOKS, SCRIPTS


@pytest.mark.parametrize("arguments", [[], ["CREATE"], ["create", "gwi-1", "gwo-1", "0" * 16 + "1"]])
@pytest.mark.parametrize("script", HOOKS)
def test_wrong_arguments_are_told_how_to_be_right(script, arguments):
    done = netns.run(SCRIPTS / script, *arguments, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr and "CREATE|DESTROY" in done.stderr
