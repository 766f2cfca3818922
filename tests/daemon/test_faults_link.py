# SPDX-License-Identifier: MIT-0
"""What somebody does to an endpoint's interfaces by hand: traffic resumes, and health and the log say what happened."""
import time

import gwlb
import netns
import packets
from lab import CLIENT, PASSTHROUGH, ROUTE, SERVER
from restarts import Restartable

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")


def routed(lab):
    """A daemon whose create hook sets routes, which Linux removes with an interface that goes down."""
    lab.route()
    daemon = lab.start(hook=ROUTE)
    endpoint = lab.endpoint(expectation=gwlb.Forwarded())
    assert passes(lab, endpoint)
    return daemon, endpoint


def passes(lab, endpoint):
    """Whether a packet returns, sooner or later."""
    before = len(endpoint.received)

    def try_again():
        endpoint.send(PACKET)
        time.sleep(0.05)
        return len(endpoint.received) > before
    return lab.wait(try_again)


def test_one_that_is_set_down_is_told_and_traffic_resumes_with_all_routes_when_it_is_up(lab):
    daemon, endpoint = routed(lab)
    name = endpoint.gwo
    lab.appliance.ip("link set", name, "down")
    assert lab.wait(lambda: f"Somebody has set {name} down" in daemon.log())
    assert daemon.get()[0] == 503 and daemon.health()["reasons"] == [f"{name} is down"]
    lab.appliance.ip("link set", name, "up")
    assert passes(lab, endpoint)
    assert lab.wait(lambda: daemon.get()[0] == 200)
    assert f"{name} has been down, so Linux has removed its routes: gwlbtun makes it again" in daemon.log()


def test_down_and_up_faster_than_anybody_looks_and_again_and_again(lab):
    daemon, endpoint = routed(lab)
    lab.appliance.run("sh", "-c", f"ip link set {endpoint.gwo} down; ip link set {endpoint.gwo} up")
    assert passes(lab, endpoint)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        lab.appliance.run("sh", "-c", f"ip link set {endpoint.gwo} down; sleep 0.3; ip link set {endpoint.gwo} up")
        time.sleep(0.5)
    assert daemon.log().count("gwlbtun makes it again.") == 1  # in a minute
    assert daemon.log().count(" down: ") <= 1


def test_without_a_create_hook_nobody_but_the_operator_knows_the_routes(lab):
    daemon = lab.start(hook=None)
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    lab.appliance.ip("link set", endpoint.gwo, "down")
    assert lab.wait(lambda: f"Somebody has set {endpoint.gwo} down" in daemon.log())
    lab.appliance.ip("link set", endpoint.gwo, "up")
    assert lab.wait(lambda: f"{endpoint.gwo} is up again. Linux has removed its routes" in daemon.log())
    assert daemon.get()[0] == 200


def test_a_new_name_changes_nothing_but_is_told(lab):
    daemon = lab.start(hook=PASSTHROUGH)
    endpoint = lab.endpoint()
    assert passes(lab, endpoint)
    for change in f"{endpoint.gwi} down", f"{endpoint.gwi} name other", "other up":
        lab.appliance.ip("link set", change)
    assert lab.wait(lambda: f"Somebody has renamed {endpoint.gwi}: it is other now" in daemon.log())
    assert passes(lab, endpoint)
    assert daemon.get()[0] == 200
    assert daemon.stop() == 0
    assert "other" not in lab.appliance.ip("link")


def test_one_that_is_moved_is_told_and_works_there_and_back(lab):
    daemon = lab.start(hook=PASSTHROUGH)
    endpoint = lab.endpoint()
    assert passes(lab, endpoint)
    with netns.Namespace("elsewhere") as elsewhere:
        lab.appliance.ip("link set", endpoint.gwi, "netns", elsewhere.name)
        assert lab.wait(lambda: f"Somebody has moved {endpoint.gwi} to another network namespace" in daemon.log())
        assert lab.wait(lambda: daemon.health()["reasons"] == [f"{endpoint.gwi} is down"])
        elsewhere.ip("link set", endpoint.gwi, "up")
        assert lab.wait(lambda: daemon.get()[0] == 200)
        elsewhere.ip("link del", endpoint.gwi)
        assert lab.wait(lambda: "has been deleted: gwlbtun makes it again" in daemon.log())
        assert passes(lab, endpoint)
    assert daemon.get()[0] == 200


def test_a_program_that_takes_over_looks_after_them_as_well(lab, tmp_path):
    restartable = Restartable(lab, tmp_path)
    daemon, name = restartable.daemon, restartable.endpoint.gwo
    restartable.exchange()
    restartable.restart()
    lab.appliance.ip("link set", name, "down")
    assert lab.wait(lambda: daemon.get()[0] == 503)
    assert f"Set it up again: ip link set {name} up." in daemon.log()
    restartable.restart()
    assert daemon.get()[0] == 503 and daemon.health()["reasons"] == [f"{name} is down"]
    lab.appliance.ip("link set", name, "up")
    assert lab.wait(lambda: f"{name} has been down, so Linux has removed its routes: gwlbtun makes it again" in daemon.log())
    restartable.exchange()
    assert lab.wait(lambda: daemon.get()[0] == 200)
