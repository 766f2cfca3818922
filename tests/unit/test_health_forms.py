# SPDX-License-Identifier: MIT-0
"""Health, of a report by itself."""
import json
import threading
from types import SimpleNamespace

import pytest

from forms import rendered
from gwlbtun import health
from gwlbtun.endpoint import State
from gwlbtun.settings import Settings
from lab import ENI


def test_hostile_text_is_no_markup():
    report = {"healthy": False, "reasons": ["<script>alert('&')</script>"], "enis": [], "drops": {"no_eni": 3},
              "udp": {"UDPPacketReceiver": {"portNumber": 6081, "threads": [], "receiveBufferBytes": 1,
                                              "socketDrops": 0}},
              "totals": dict.fromkeys(["pktsFromGwlb", "pktsToLinux", "pktsFromLinux", "pktsToGwlb"], 0),
              "flows": {"size": 0, "bound": 1}, "endpoints": {"size": 0, "bound": 1}, "hooksFailed": 0}
    page = rendered(health.HTML, report)
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert "Dropped: 3 packets (no_eni)." in page
    assert json.loads(rendered(health.JSON, report)) == report


@pytest.mark.parametrize("carried", [False, True])
def test_an_endpoint_that_is_down_is_a_reason_if_it_has_carried_traffic(carried):
    endpoint = SimpleNamespace(eni=ENI, state=State.FAILED, failure="no room", carried=carried, tunnels=())
    known = health.Health(Settings(), [], SimpleNamespace(glance=lambda: [endpoint]), [], lambda: 0, 0, threading.Event())
    assert known.reasons() == [f"endpoint {ENI:017x} failed to come up: no room"] * carried
