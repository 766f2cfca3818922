# SPDX-License-Identifier: MIT-0
"""Threads as ps and top show them: their names, their number, and the cores they run on."""
import os

import pytest

import packets
from gwlbtun.endpoint import LIVELY_PACKETS
from lab import CLIENT, SERVER

pytestmark = pytest.mark.one_path

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")
CORES = sorted(os.sched_getaffinity(0))


def started(lab, *arguments):
    """A daemon with an endpoint that carries enough traffic to have all its threads."""
    daemon = lab.start(*arguments)
    endpoint = lab.endpoint()
    for _ in range(LIVELY_PACKETS):
        endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET] * LIVELY_PACKETS)

    def all_there():
        eni, = daemon.health()["enis"]
        return all(len(eni[tunnel]["threads"]) == eni[tunnel]["queues"] for tunnel in ("tunnelIn", "tunnelOut"))
    assert lab.wait(all_there)
    return daemon


def names(daemon, letter):
    return sorted(name for name in daemon.threads().values() if name.startswith(f"gwlbtun {letter}"))


def cores_of(daemon, name):
    return [os.sched_getaffinity(thread) for thread, known in daemon.threads().items() if known == name]


@pytest.mark.parametrize("receivers, tunnels", [(1, 1), (3, 2), (1, 4), (130, 1)])
def test_threads_are_as_many_as_asked_and_bear_their_names(lab, receivers, tunnels):
    daemon = started(lab, "--udpthreads", receivers, "--tunthreads", tunnels)
    # The first receivers carry traffic while the last are being started.
    assert lab.wait(lambda: names(daemon, "U") == [f"gwlbtun U{number:03d}" for number in range(receivers)])
    assert lab.wait(lambda: names(daemon, "T") == sorted([f"gwlbtun T{number:03d}" for number in range(tunnels)] * 2))
    assert names(daemon, "Logger") == ["gwlbtun Logger"]


def test_there_is_one_of_each_for_every_core_by_default(lab):
    daemon = started(lab)
    assert names(daemon, "U") == [f"gwlbtun U{number:03d}" for number in range(len(CORES))]
    assert names(daemon, "T") == sorted([f"gwlbtun T{number:03d}" for number in range(len(CORES))] * 2)
    assert cores_of(daemon, "gwlbtun U000") == [set(CORES)]


def test_affinity_pins_each_thread_and_wins_over_the_number(lab):
    cores = ",".join(map(str, CORES))
    daemon = started(lab, "--udpaffinity", cores, "--tunaffinity", CORES[-1], "--udpthreads", "1", "--tunthreads", "7")
    assert names(daemon, "U") == [f"gwlbtun UA{core:03d}" for core in CORES]
    assert names(daemon, "T") == [f"gwlbtun TA{CORES[-1]:03d}"] * 2
    for core in CORES:
        assert cores_of(daemon, f"gwlbtun UA{core:03d}") == [{core}]
    assert cores_of(daemon, f"gwlbtun TA{CORES[-1]:03d}") == [{CORES[-1]}] * 2


def test_tunnel_threads_interrupt_no_receiver(lab):
    daemon = started(lab)
    policies = {(name[:9], os.sched_getscheduler(thread)) for thread, name in daemon.threads().items()
                if name[:9] in ("gwlbtun U", "gwlbtun T")}
    assert policies == {("gwlbtun U", os.SCHED_OTHER), ("gwlbtun T", os.SCHED_BATCH)}


def test_a_real_time_policy_chosen_by_the_operator_stays(lab):
    daemon = lab.start()
    for thread in daemon.threads():
        os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    endpoint = lab.endpoint()
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    assert {os.sched_getscheduler(thread) for thread, name in daemon.threads().items()
            if name.startswith("gwlbtun T")} == {os.SCHED_RR}


def test_health_shows_the_kernels_thread_ids(lab):
    daemon = started(lab, "--udpthreads", "3", "--tunthreads", "2")
    health, threads = daemon.health(), daemon.threads()
    shown = {thread["threadId"]: f"gwlbtun U{thread['threadNumber']:03d}"
             for thread in health["udp"]["UDPPacketReceiver"]["threads"]}
    for tunnel in health["enis"][0]["tunnelIn"], health["enis"][0]["tunnelOut"]:
        shown.update({thread["threadId"]: f"gwlbtun T{thread['threadNumber']:03d}" for thread in tunnel["threads"]})
    assert len(shown) == 3 + 2 * 2
    assert shown == {number: name for number, name in threads.items() if name[:9] in ("gwlbtun U", "gwlbtun T")}


def test_receivers_share_flows_and_none_is_idle(lab):
    daemon = lab.start("--udpthreads", "4")
    endpoint = lab.endpoint()
    for number in range(400):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2, b"x"))
    assert lab.wait(lambda: len(endpoint.received) == 400)
    counts = [thread["pktsIn"] for thread in daemon.health()["udp"]["UDPPacketReceiver"]["threads"]]
    assert sum(counts) == 400 and min(counts) > 20


def test_no_python_runs_for_packets(lab):
    daemon = started(lab)
    endpoint, = lab.balancer.endpoints
    before = daemon.health()["totals"]
    for number in range(5000):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000 + number % 500, 2, b"x"))
        if number % 64 == 0:
            assert lab.wait(lambda: number - len(endpoint.received) < 256)
    assert lab.wait(lambda: len(endpoint.received) == 5000 + LIVELY_PACKETS)
    after = daemon.health()["totals"]
    assert after["pktsFromGwlb"] - before["pktsFromGwlb"] == 5000
    for entries in "receiverEntries", "tunnelEntries":
        assert after[entries] == before[entries]
