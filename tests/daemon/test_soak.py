# SPDX-License-Identifier: MIT-0
"""Some seconds of what `make soak` does for as long as it is told to."""
import soak


def test_nothing_grows_and_no_packet_is_missing(tmp_path):
    told = soak.soak(tmp_path, 5, 15)
    for what in "TCP bytes", "datagrams", "malformed", "interfaces deleted", "uplink down", "frozen", "restarts":
        assert f"\n{what}: " in "\n" + told, told
