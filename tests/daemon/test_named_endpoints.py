# SPDX-License-Identifier: MIT-0
"""--endpoint: endpoints that are ready from the start, and stay, with their names."""
import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER

VPCE = f"vpce-{ENI:017x}"
OTHER = 0x076BC493B822CD32F
PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x" * 100)


def passes(lab, endpoint, times=1):
    before = len(endpoint.received)
    for _ in range(times):
        endpoint.send(PACKET)
    return lab.wait(lambda: len(endpoint.received) == before + times)


def test_it_is_up_before_the_first_packet_and_its_name_is_everywhere(lab):
    record = 'echo "$1 $4 $GWLBTUN_ENDPOINT_NAME"; ip link show "$2" >/dev/null\n'
    daemon = lab.start("--endpoint", f"{VPCE}=blue", "--endpoint", f"{OTHER:x}", "--logging", "all=debug",
                       hook=PASSTHROUGH.replace("\n", "\n" + record, 1))
    assert lab.wait(lambda: daemon.get()[0] == 200)
    endpoint, other = lab.endpoint(), lab.endpoint(OTHER)
    links = lab.appliance.ip("link")
    assert all(f"{name}:" in links for one in (endpoint, other) for name in (one.gwi, one.gwo))
    assert [daemon.eni(one)["name"] for one in (endpoint, other)] == ["blue", ""]
    assert daemon.eni(endpoint)["tunnelIn"]["pktsOut"] == 0
    assert passes(lab, endpoint)
    assert lab.wait(lambda: f"{endpoint.gwi} (blue): to Linux" in daemon.log())
    assert daemon.stop() == 0
    for line in (f"New interface {endpoint.gwi} and {endpoint.gwo} for ENI ID {endpoint.id} (blue) created.",
                 f"CREATE hook of {endpoint.gwi} (blue): CREATE {endpoint.id} blue",
                 f"CREATE hook of {other.gwi}: CREATE {other.id} ", f"DESTROY hook of {endpoint.gwi} (blue): DESTROY"):
        assert line in daemon.log()


def test_its_name_is_in_the_text(lab):
    daemon = lab.start("--endpoint", f"{VPCE}=blue", json_health=False)
    assert lab.wait(lambda: daemon.get()[0] == 200)
    assert f"Handler for ENI {ENI:017x} (blue): up" in daemon.get()[2].decode()


def test_until_its_hook_has_ended_health_says_so_and_others_go_on(lab):
    hanging = f'while [ "$4" = {ENI:017x} ] && [ ! -e "$0.go" ]; do sleep 0.05; done\n'
    daemon = lab.start("--endpoint", f"{VPCE}=blue,{OTHER:x}", hook=PASSTHROUGH.replace("\n", "\n" + hanging, 1))
    assert daemon.get()[0] == 503
    assert passes(lab, lab.endpoint(OTHER)), "the hook that hangs has lost its turn"
    assert daemon.health()["reasons"] == [f"endpoint {ENI:017x} (blue) is being created"]
    (lab.directory / "hook.sh.go").touch()
    assert lab.wait(lambda: daemon.get()[0] == 200)


def test_one_whose_hook_fails_is_a_reason_if_it_must_not(lab):
    daemon = lab.start("--endpoint", VPCE, "--require-hook", hook="#!/bin/sh\n[ $1 != CREATE ]\n")
    assert lab.wait(lambda: "create hook ended with status 1" in str(daemon.health()["reasons"]))
    assert daemon.get()[0] == 503


def test_it_outlasts_all_idleness_and_others_do_not(lab):
    daemon = lab.start("--endpoint", VPCE, "-t", "1")
    endpoint, other = lab.endpoint(), lab.endpoint(OTHER)
    assert passes(lab, other)
    assert lab.wait(lambda: daemon.eni(other) is None)
    assert daemon.eni(endpoint)["state"] == "up" and daemon.log().count("Destroying") == 1
    assert passes(lab, endpoint)


def test_it_makes_room_for_nobody(lab):
    daemon = lab.start("--endpoint", VPCE, "--max-endpoints", "1")
    assert lab.wait(lambda: daemon.get()[0] == 200)
    newcomer = lab.endpoint(OTHER)
    for _ in range(20):
        newcomer.send(PACKET)
    assert lab.wait(lambda: daemon.drops().get("endpoints_full") == 20)
    assert newcomer.received == [] and passes(lab, lab.endpoint())


def test_it_is_allowed_beside_those_that_are(lab):
    daemon = lab.start("--endpoint", VPCE, "--allow-endpoint", f"{OTHER:x}")
    assert passes(lab, lab.endpoint()) and passes(lab, lab.endpoint(OTHER))
    stranger = lab.endpoint(1)
    stranger.send(PACKET)
    assert lab.wait(lambda: daemon.drops().get("endpoint_not_allowed") == 1)


def test_a_stop_before_it_has_begun_ends_cleanly(lab):
    daemon = lab.start("--endpoint", ",".join(f"{number:x}" for number in range(1, 101)), hook="#!/bin/sh\nsleep 0.2\n")
    assert len(daemon.health()["reasons"]) == 11
    assert daemon.stop() == 0
    assert "gwi-" not in lab.appliance.ip("link")
