# SPDX-License-Identifier: MIT-0
"""Some seconds of what `make soak` does for as long as it is told to."""
import pytest

import soak
from lab import KERNEL_PATHS


@pytest.mark.parametrize("carried_by", KERNEL_PATHS, scope="module", indirect=True)
def test_nothing_grows_and_no_packet_is_missing(tmp_path, carried_by):
    told = soak.soak(tmp_path, 5, 15)
    assert ("took the kernel: 0 in, 0 back" in told) == (carried_by == "off"), told
    for what in soak.EACH:
        assert f"\n{what}: " in "\n" + told, told
