# SPDX-License-Identifier: MIT-0
"""Health, of a report by itself."""
import json
import threading
import time
from types import SimpleNamespace

import pytest

from forms import rendered
from gwlbtun import forms, health
from gwlbtun.draining import Draining
from gwlbtun.endpoint import State
from gwlbtun.identity import Identity
from gwlbtun.settings import Settings
from lab import ENI


def test_hostile_text_is_no_markup():
    report = {"healthy": False, "reasons": ["<script>alert('&')</script>"], "enis": [], "drops": {"no_eni": 3},
              "udp": {"UDPPacketReceiver": {"portNumber": 6081, "threads": [], "receiveBufferBytes": 1,
                                              "socketDrops": 0}},
              "totals": dict.fromkeys(["pktsFromGwlb", "pktsToLinux", "pktsFromLinux", "pktsToGwlb"], 0),
              "noReturn": False, "notes": ["<script>"], "ebpf": {"active": False, "reason": "<script>"},
              "flows": {"size": 0, "bound": 1}, "endpoints": {"size": 0, "bound": 1}, "hooksFailed": 0}
    page = rendered(forms.HTML, report)
    assert "&lt;script&gt;" in page and "<script>" not in page
    assert "Dropped: 3 packets (no_eni)." in page
    assert json.loads(rendered(forms.JSON, report)) == report


@pytest.mark.parametrize("carried", [False, True])
def test_an_endpoint_that_is_down_is_a_reason_if_it_has_carried_traffic(carried):
    endpoint = down(Identity(ENI), State.FAILED, "no room", carried)
    assert reasons([endpoint]) == [f"endpoint {ENI:017x} failed to come up: no room"] * carried


@pytest.mark.parametrize("state, failure, text", [
    (State.WAITING, None, "is waiting for its turn"), (State.CREATING, None, "is being created"),
    (State.FAILED, "no room", "failed to come up: no room"),
])
def test_a_named_endpoint_is_a_reason_until_it_is_up(state, failure, text):
    assert reasons([down(Identity(ENI, "blue", named=True), state, failure)]) == [f"endpoint {ENI:017x} (blue) {text}"]
    assert reasons([], [(Identity(ENI, named=True), "no room")]) == [f"endpoint {ENI:017x} failed to come up: no room"]


def test_a_thousand_named_endpoints_are_no_thousand_reasons():
    told = reasons([down(Identity(eni, named=True), State.WAITING) for eni in range(1000)])
    assert len(told) == health.NAMED_TOLD + 1 and told[-1] == "990 more endpoints of --endpoint are not up"


def down(identity, state, failure=None, carried=False):
    return SimpleNamespace(identity=identity, state=state, failure=failure, carried=carried, tunnels=())


def reasons(endpoints, unmade=()):
    table = SimpleNamespace(glance=lambda: endpoints, unmade=lambda: unmade)
    return health.Health(Settings(), [], table, [], lambda: 0, 0, threading.Event(), Draining(0), list, dict).reasons()


def test_a_health_that_drains_or_stops_is_no_health():
    draining, stopping = Draining(60), threading.Event()
    table = SimpleNamespace(glance=list, unmade=list)
    made = health.Health(Settings(), [], table, [], lambda: 0, 0, stopping, draining, list, dict)
    assert not made.stopping and made.reasons() == []
    begin = time.monotonic()
    draining.begin()
    assert made.stopping and made.reasons() == ["gwlbtun is draining, and stops then"]
    left_s = draining.left_s
    assert 60 - (time.monotonic() - begin) <= left_s <= 60
    stopping.set()
    assert made.stopping and made.reasons() == ["gwlbtun is stopping"]
