# SPDX-License-Identifier: MIT-0
"""The life of an endpoint: made by its first packet, held by its hook, destroyed when idle, and made anew."""
import signal
import time

import pytest

import gwlb
import packets
from lab import CLIENT, ENI, HEALTH_PORT, PASSTHROUGH, SERVER, command_line
from restarts import again_and_again

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")

PASS = PASSTHROUGH.split("\n", 2)[2]
HEADER = "#!/bin/sh -e\n"

# Waits for the test to say go, through a file beside the hook that is named for the endpoint.
HELD = HEADER + """
[ "$1" = CREATE ] || exit 0
touch "$(dirname "$0")/begun-$4"
until [ -e "$(dirname "$0")/go-$4" ]; do sleep 0.02; done
""" + PASS

RECORDED = HEADER + """
echo "$#" "$@" $(ip -br link show "$2" | grep -c .) $(ip -br link show "$3" | grep -c .) >> "$(dirname "$0")/calls"
[ "$1" = CREATE ] || exit 0
""" + PASS


def numbered(number, version=4):
    return packets.udp(CLIENT[version == 6], SERVER[version == 6], 1, 2, b"%d" % number)


def interfaces(lab):
    return [name for name in os_interfaces(lab) if name.startswith("gw")]


def os_interfaces(lab):
    return [line.split()[0] for line in lab.appliance.ip("-br link").splitlines()]


def calls(lab):
    path = lab.directory / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_interfaces_are_as_they_should_be(lab):
    lab.start("--tunthreads", "3")
    assert interfaces(lab) == []
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    for name in endpoint.gwi, endpoint.gwo:
        shown = lab.appliance.ip("-d link show", name)
        assert "mtu 8500 " in shown and "UP" in shown and "tun type tun" in shown and "multi_queue" in shown
        assert "numqueues 3 " in shown
    assert lab.appliance.run("cat", f"/proc/sys/net/ipv4/conf/{endpoint.gwi}/rp_filter").stdout == "0\n"


def test_the_hook_gets_its_arguments_while_the_interfaces_stand(lab):
    daemon = lab.start(hook=RECORDED)
    endpoint = lab.endpoint(0x076BC493B822CD32F)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    names = "gwi-e8WXgsTQDkf gwo-e8WXgsTQDkf 076bc493b822cd32f"
    assert calls(lab) == [f"4 CREATE {names} 1 1"]
    assert daemon.stop() == 0
    assert calls(lab)[1:] == [f"4 DESTROY {names} 1 1"]
    assert interfaces(lab) == []


def test_nothing_passes_before_the_hook_is_done_and_nothing_is_lost(lab):
    daemon = lab.start(hook=HELD)
    endpoint, other = lab.endpoint(), lab.endpoint(ENI + 1)
    sent = [numbered(number, (4, 6)[number % 2]) for number in range(1000)]
    for packet in sent:
        endpoint.send(packet)
    assert lab.wait(lambda: (lab.directory / f"begun-{endpoint.id}").exists())
    assert lab.wait(lambda: daemon.health()["totals"]["pktsFromGwlb"] == 1000)
    # Another endpoint comes up and carries traffic meanwhile.
    (lab.directory / f"go-{other.id}").touch()
    other.send(PACKET)
    assert lab.wait(lambda: other.received == [PACKET])

    report = daemon.eni(endpoint)
    assert report["tunnelIn"]["pktsOut"] == 0 and report["queueBytes"] > 0 and report["state"] == "being created"
    shown = lab.appliance.ip("-s -s link show", endpoint.gwi).split("RX:")[1].splitlines()[1]
    assert shown.split()[1] == "0"
    assert endpoint.received == []
    (lab.directory / f"go-{endpoint.id}").touch()
    assert lab.wait(lambda: len(endpoint.received) == 1000)
    assert lab.balancer.awaited == 0
    assert daemon.eni(endpoint)["state"] == "up"
    assert daemon.eni(endpoint)["queueDrops"] == 0


def test_what_a_waiting_endpoint_cannot_hold_is_dropped_and_counted(lab):
    daemon = lab.start("--udpthreads", "1", hook=HELD)
    endpoint = lab.endpoint()
    large = [packets.udp(CLIENT[0], SERVER[0], 1, 2, number.to_bytes(4, "big") * 2000) for number in range(4000)]
    for number, packet in enumerate(large):
        endpoint.send(packet)
        if number % 200 == 199:  # the socket's own buffer must not be what overflows
            assert lab.wait(lambda: daemon.health()["totals"]["pktsFromGwlb"] == lab.balancer.counters.sent)
    (lab.directory / f"go-{endpoint.id}").touch()
    # Not before: a packet is counted as received before it is known whether there is room for it.
    assert lab.wait(lambda: len(endpoint.received) + daemon.drops().get("ring_full", 0) == 4000)
    dropped = daemon.drops()["ring_full"]
    assert 0 < dropped < 4000
    assert daemon.drops() == {"ring_full": dropped}
    assert daemon.eni(endpoint)["queueDrops"] == dropped
    assert daemon.health()["udp"]["UDPPacketReceiver"]["socketDrops"] == 0
    assert lab.balancer.awaited == dropped


def test_a_hook_that_fails_is_told_and_counted_and_its_endpoint_works(lab):
    daemon = lab.start(hook=HEADER + PASSTHROUGH.split("\n", 1)[1] + "echo out of luck\nexit 3\n")
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    assert daemon.health()["hooksFailed"] == daemon.eni(endpoint)["hooksFailed"] == 1
    assert lab.wait(lambda: "status 3" in daemon.log() and "out of luck" in daemon.log())


def test_without_a_hook_packets_reach_linux_and_end_there(lab):
    daemon = lab.start(hook=None)
    endpoint = lab.endpoint()
    for _ in range(5):
        endpoint.send(PACKET)
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToLinux"] == 5)
    assert endpoint.received == []


def test_an_idle_endpoint_is_destroyed_and_made_anew_by_its_next_packet(lab):
    daemon = lab.start("-t", "4", hook=RECORDED)
    endpoint, busy = lab.endpoint(), lab.endpoint(ENI + 1)
    with again_and_again(lambda: busy.send(PACKET), 0.1):
        for life in 1, 2:
            endpoint.send(numbered(life))
            assert lab.wait(lambda: endpoint.received == [numbered(number) for number in range(1, life + 1)])
            assert daemon.eni(endpoint)["v4FlowCache"]["size"] == 1
            assert lab.wait(lambda: daemon.eni(endpoint) is None)
            assert lab.wait(lambda: endpoint.gwi not in interfaces(lab))
        assert busy.gwi in interfaces(lab)
    assert [line.split()[1] for line in calls(lab) if endpoint.gwi in line] == ["CREATE", "DESTROY"] * 2
    assert [line.split()[1] for line in calls(lab) if busy.gwi in line] == ["CREATE"]
    assert lab.wait(lambda: len(busy.received) == lab.balancer.counters.sent - 2)
    # What the first lives carried is still in the totals.
    assert daemon.health()["totals"]["pktsToLinux"] == lab.balancer.counters.sent


@pytest.mark.parametrize("direction", ["in", "out"])
def test_traffic_in_one_direction_keeps_an_endpoint(lab, direction):
    """Packets from the load balancer, or packets from Linux, for twice the time after which it would go."""
    daemon = lab.start("-t", "3", hook=RECORDED)
    endpoint, clock = lab.endpoint(expectation=gwlb.WellFormed()), lab.endpoint(ENI + 1)
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    if direction == "in":
        lab.appliance.run("tc", "filter", "del", "dev", endpoint.gwi, "ingress")

    def send():
        if direction == "in":
            lab.balancer.inject(endpoint.flow(PACKET).envelope.header + PACKET)
        else:
            lab.emit(endpoint.gwo, PACKET)

    with again_and_again(send, 0.1):
        for _ in range(2):  # an endpoint without traffic tells the time: it goes twice
            clock.send(PACKET)
            assert lab.wait(lambda: daemon.eni(clock) is not None)
            assert lab.wait(lambda: daemon.eni(clock) is None)
    assert [line.split()[1] for line in calls(lab) if endpoint.gwi in line] == ["CREATE"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_lets_what_has_come_through_and_destroys_all(lab, number):
    daemon = lab.start(hook=RECORDED)
    endpoints = [lab.endpoint(ENI + index) for index in range(5)]
    for endpoint in endpoints:
        for index in range(20):
            endpoint.send(numbered(index))
    assert lab.wait(lambda: all(len(endpoint.received) == 20 for endpoint in endpoints))
    begin = time.monotonic()
    daemon.process.send_signal(number)
    assert daemon.process.wait(60) == 0
    assert time.monotonic() - begin < 20
    assert sorted(line.split()[1] for line in calls(lab)) == ["CREATE"] * 5 + ["DESTROY"] * 5
    assert interfaces(lab) == []
    assert daemon.log().splitlines()[-1].endswith("Stopped.")
    assert daemon.errors() == ""


def test_a_second_signal_stops_at_once(lab):
    daemon = lab.start(hook=HEADER + PASSTHROUGH.split("\n", 1)[1].replace("exit 0", "sleep 1000"))
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: "SIGTERM: stopping" in daemon.log())
    assert daemon.process.poll() is None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 128 + signal.SIGTERM
    assert lab.wait(lambda: interfaces(lab) == [])
    lab.daemons.remove(daemon)


def test_an_interface_taken_by_someone_else_is_told_and_tried_again(lab, impatient):
    daemon = lab.start()
    endpoint = lab.endpoint()
    lab.appliance.ip("link add", endpoint.gwo, "type veth peer name theirs")
    endpoint.send(PACKET)
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "failed to come up")
    assert endpoint.gwo in daemon.eni(endpoint)["failure"]
    assert daemon.get()[0] == 200  # it has carried nothing: whoever invents ENI IDs must not make the appliance unhealthy
    assert lab.wait(lambda: endpoint.gwo in daemon.log())
    lab.appliance.ip("link del", endpoint.gwo)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    assert daemon.eni(endpoint)["failure"] == ""


@pytest.mark.parametrize("side", ["gwi", "gwo"])
def test_an_interface_deleted_under_the_daemon_is_made_again(lab, side):
    """With its hook and its flows; what comes meanwhile waits, or is counted."""
    daemon = lab.start(hook=RECORDED)
    endpoint, other = lab.endpoint(expectation=gwlb.WellFormed()), lab.endpoint(ENI + 1)
    for one in endpoint, other:
        one.send(PACKET)
        assert lab.wait(lambda: one.received == [PACKET])
    lab.appliance.ip("link del", getattr(endpoint, side))
    for number in range(500):
        endpoint.send(numbered(number))
        other.send(numbered(number))
    assert lab.wait(lambda: f"The interface {getattr(endpoint, side)} has been deleted" in daemon.log())
    assert lab.wait(lambda: len(other.received) == 501)
    if side == "gwi":
        assert lab.wait(lambda: len(endpoint.received) + sum(daemon.drops().values()) == 501), daemon.drops()
    else:  # what went in to Linux before it was noticed found no way out there
        assert lab.wait(lambda: daemon.health()["totals"]["pktsToLinux"] + sum(daemon.drops().values()) == 1002)
    assert set(daemon.drops()) <= {"tun_write"}
    assert lab.wait(lambda: daemon.eni(endpoint)["state"] == "up")
    lab.emit(endpoint.gwo, PACKET)  # the way back is still known
    assert lab.wait(lambda: endpoint.received[-1] == PACKET)
    assert daemon.health()["drops"]["no_flow"] == 0
    assert [line.split()[1] for line in calls(lab) if endpoint.gwi in line] == ["CREATE", "DESTROY", "CREATE"]
    assert daemon.get()[0] == 200


def test_an_interface_that_is_down_loses_packets_under_their_own_reason(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    lab.appliance.ip("link set", endpoint.gwi, "down")
    endpoint.send(PACKET)
    assert lab.wait(lambda: daemon.drops() == {"tun_write": 1})
    lab.appliance.ip("link set", endpoint.gwi, "up")
    endpoint.send(PACKET)
    assert lab.wait(lambda: len(endpoint.received) == 2)
    assert lab.balancer.awaited == 1


def test_rp_filter_stays_off_whatever_sets_it(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    path = f"/proc/sys/net/ipv4/conf/{endpoint.gwi}/rp_filter"
    for _ in range(2):
        lab.appliance.sysctl("net.ipv4.conf.default.rp_filter", 2)
        lab.appliance.sysctl(f"net.ipv4.conf.{endpoint.gwi}.rp_filter", 2)
        assert lab.wait(lambda: lab.appliance.run("cat", path).stdout == "0\n")
    assert daemon.log().count("rp_filter") == 1


def test_rp_filter_set_while_the_create_hook_runs_is_put_back(lab):
    for scope in "all", "default":
        lab.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
    lab.start(hook=PASSTHROUGH + """
(sleep 0.05; echo 2 > "/proc/sys/net/ipv4/conf/$2/rp_filter"; touch "$(dirname "$0")/set") &
sleep 0.2
""")
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET] and (lab.directory / "set").exists())
    path = f"/proc/sys/net/ipv4/conf/{endpoint.gwi}/rp_filter"
    assert lab.wait(lambda: lab.appliance.run("cat", path).stdout == "0\n")


def test_sixty_endpoints_at_once(lab):
    daemon = lab.start("--tunthreads", "1")
    endpoints = [lab.endpoint(ENI + number) for number in range(60)]
    for endpoint in endpoints:
        for number in range(5):
            endpoint.send(numbered(number))
    assert lab.wait(lambda: all(len(endpoint.received) == 5 for endpoint in endpoints), 60)
    assert len(daemon.health()["enis"]) == 60
    assert daemon.drops() == {}


def test_descriptors_and_threads_of_endpoints_that_went_are_given_back(lab):
    daemon = lab.start("-t", "1")
    endpoint = lab.endpoint()
    counts = []
    for life in range(3):
        endpoint.send(PACKET)
        assert lab.wait(lambda: len(endpoint.received) == life + 1)
        assert lab.wait(lambda: daemon.eni(endpoint) is None)
        assert lab.wait(lambda: endpoint.gwi not in interfaces(lab))
        assert lab.wait(lambda: not any(" T0" in name for name in daemon.threads().values()))
        daemon.wait_hooks_read()
        counts.append((daemon.descriptors(), len(daemon.threads())))
        assert lab.wait(lambda: (daemon.descriptors(), len(daemon.threads())) == counts[0]), counts


def test_a_second_daemon_is_refused_and_disturbs_nothing(lab):
    lab.start()
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    second = lab.appliance.run(*command_line("-p", HEALTH_PORT + 1), check=False)
    assert second.returncode == 1
    assert len(second.stderr.splitlines()) == 1 and "6081" in second.stderr
    endpoint.send(PACKET)
    assert lab.wait(lambda: len(endpoint.received) == 2)
