# SPDX-License-Identifier: MIT-0
"""Health tells how many hooks ran, how they ended and how long they took."""
import packets
from lab import CLIENT, ENI, SERVER

# The create hook of the second endpoint fails, and so do all destroy hooks. None takes less than a tenth of a second.
HOOK = f"""#!/bin/sh
sleep 0.1
[ "$1" = CREATE ] || exit 7
[ "$4" = {ENI + 1:017x} ] && exit 3
exit 0
"""


def test_hooks_are_counted_by_action_and_end_also_of_endpoints_that_are_gone(lab):
    daemon = lab.start("-t", "1", hook=HOOK)
    for index in range(3):
        lab.endpoint(ENI + index).send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToLinux"] == 3)
    assert lab.wait(lambda: daemon.health()["enis"] == [])
    health = daemon.health()
    create, destroy = health["hooks"]["create"], health["hooks"]["destroy"]
    assert (create["ok"], create["failed"]) == (2, 1)
    assert (destroy["ok"], destroy["failed"]) == (0, 3)
    assert health["hooksFailed"] == 4
    for runs in create, destroy:
        assert runs["seconds"] >= 0.3
        counts = {bucket["le"]: bucket["count"] for bucket in runs["buckets"]}
        assert counts[0.05] == 0 and counts[60.0] == 3
