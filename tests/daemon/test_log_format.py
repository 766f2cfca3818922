# SPDX-License-Identifier: MIT-0
"""--log-format json, of a daemon."""
import datetime
import json

import packets
from lab import CLIENT, SERVER
from logbook import LINE


def test_each_line_is_an_object(lab):
    daemon = lab.start("--log-format", "json", "--logging", "all=debugdetail",
                       hook="#!/bin/sh\nprintf '\"\\\\\\033[1m\\377\\n'; seq 105; exit 3\n")
    endpoint = lab.endpoint()
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: "created." in daemon.log())
    assert daemon.stop() == 0
    objects = [json.loads(line) for line in daemon.log().splitlines()]
    assert all(list(entry) == ["time", "thread", "section", "level", "text"] for entry in objects)
    for entry in objects:
        assert datetime.datetime.fromisoformat(entry["time"]).tzinfo and entry["time"][19] == "." and len(entry["time"]) == 29
    texts = [entry["text"] for entry in objects]
    assert f"CREATE hook of {endpoint.gwi}: \"\\\x1b[1m\\udcff" in texts
    assert any("its last lines:\n    " in text for text in texts)
    dumps = [entry for entry in objects if entry["level"] == "debugdetail" and "\n" in entry["text"]]
    assert {entry["section"] for entry in dumps} >= {"udp", "geneve", "tunnel"}
    assert not any(LINE.fullmatch(line) for line in daemon.log().splitlines())
