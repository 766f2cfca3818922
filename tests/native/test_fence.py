# SPDX-License-Identifier: MIT-0
"""What thread K says to be through is through, whoever handles the packets: under the sanitizers, as any user."""
import pytest

import programs


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize("under_way", [2, 50, 400])
def test_what_is_said_to_be_through_is_through(sanitizer, under_way):
    programs.run([programs.sanitized(sanitizer, "stress_fence"), 4, under_way])
