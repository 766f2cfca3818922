# SPDX-License-Identifier: MIT-0
"""The hook with which docs/HOOKS.md begins."""
import re
import textwrap

import packets
from documents import ROOT
from expectations import Forwarded
from lab import CLIENT, ENI, SERVER

TEXT = (ROOT / "docs" / "HOOKS.md").read_text()
HOOK = textwrap.dedent(re.search(r"^    #!/bin/sh -e\n(?:(?:    .*)?\n)*", TEXT, re.MULTILINE)[0])


def test_two_endpoints_with_the_same_addresses_each_get_their_own_packets_back(lab):
    daemon = lab.start(hook=HOOK)
    endpoints = [lab.endpoint(ENI + number, Forwarded()) for number in range(2)]
    for endpoint in endpoints:
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"there and back", ttl=64))
    back = [packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"there and back", ttl=63)]
    assert lab.wait(lambda: [endpoint.received for endpoint in endpoints] == [back, back]), daemon.log()
    assert daemon.stop() == 0 and "failed" not in daemon.log()
    assert "iif gwi" not in lab.appliance.ip("rule")
