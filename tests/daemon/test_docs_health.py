# SPDX-License-Identifier: MIT-0
"""docs/HEALTH.md explains every key that a daemon shows, and no other."""
import re

import packets
from documents import HEALTH, coded, rows
from lab import CLIENT, SERVER


def documented_keys():
    """All of them in full: enis[].tunnelIn.devname."""
    keys = set()
    for section in re.split(r"^## ", HEALTH, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        for prefix in coded(title) if keys else [""]:
            steps = prefix.split(".") if prefix else []
            keys.update(".".join(steps[:end]).replace("[]", "") for end in range(1, len(steps) + 1))
            keys.update(".".join([*steps, key]).replace("[]", "") for row in rows(body) for key in coded(row[0]))
    return keys


def live_keys(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}{key}"
            yield from live_keys(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from live_keys(inner, path)


def test_every_key_of_health_is_explained_and_no_other(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    packet = packets.udp(CLIENT[0], SERVER[0], 1, 2)
    endpoint.send(packet)
    assert lab.wait(lambda: endpoint.received == [packet])
    assert set(live_keys(daemon.health())) == documented_keys()
