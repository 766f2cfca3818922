# SPDX-License-Identifier: MIT-0
"""A restart in place: SIGHUP puts another program in this one's place, with its sockets, interfaces and flows."""
import os
import socket
import threading
import time
from pathlib import Path

import pytest

import packets
from lab import CLIENT, ENI, SERVER
from restarts import COUNTING, Restartable, again_and_again, streaming

ENDPOINTS = int(os.environ.get("TAKEOVER_ENDPOINTS", 30))
RATE = int(os.environ.get("TAKEOVER_RATE", 10_000))  # packets a second; CI has less to spare than a host of its own


@pytest.fixture
def restartable(lab, tmp_path):
    return Restartable(lab, tmp_path)


def test_the_process_and_all_that_it_has_stay(restartable):
    daemon = restartable.daemon
    restartable.exchange()
    before, interfaces = daemon.health(), restartable.interfaces()
    assert len(interfaces) == 2
    for _ in range(3):
        restartable.restart()
        restartable.exchange()
    after = daemon.health()
    assert restartable.interfaces() == interfaces
    assert restartable.ran() == ["CREATE"]
    assert after["totals"]["pktsFromGwlb"] == before["totals"]["pktsFromGwlb"] + 3
    assert after["uptimeSecs"] > before["uptimeSecs"]
    assert daemon.eni(restartable.endpoint)["state"] == "up"
    assert daemon.stop() == 0 and restartable.ran() == ["CREATE", "DESTROY"] and restartable.interfaces() == []


@pytest.mark.alone
def test_ten_restarts_under_load_lose_nothing(restartable):
    restartable.exchange()
    with streaming(restartable.lab, RATE) as found:
        time.sleep(1)
        for _ in range(10):
            restartable.restart()
    result, = found
    print(result, restartable.told())
    assert result["lost"] == result["wrong"] == result["twice"] == 0, (result, restartable.daemon.drops())
    assert restartable.ran() == ["CREATE"] and restartable.daemon.drops() == {}


@pytest.mark.alone
def test_what_linux_sends_meanwhile_is_not_lost(restartable):
    """Packets that arrive from Linux alone, as answers from the internet do, wait in the queues of gwo."""
    lab, endpoint = restartable.lab, restartable.endpoint
    for _ in range(80):  # it is lively then
        restartable.exchange()
    answer = packets.udp(SERVER[0], CLIENT[0], 2, 1, b"answer")
    name = restartable.daemon.eni(endpoint)["tunnelOut"]["devname"]
    time.sleep(1.2)
    sent, before = 0, restartable.daemon.eni(endpoint)["pktsDropped"]
    with lab.appliance.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    with raw:
        raw.bind((name, 0x0800))
        for _ in range(3):
            done = restartable.done()
            restartable.hang_up()
            end = time.monotonic() + 60
            while restartable.done() == done and time.monotonic() < end:
                for _ in range(200):
                    raw.sendto(answer, (name, 0x0800))
                sent += 200
                time.sleep(0.02)
    assert lab.wait(lambda: restartable.daemon.eni(endpoint)["tunnelOut"]["pktsIn"] >= sent), (
        sent, restartable.daemon.eni(endpoint)["tunnelOut"], lab.appliance.ip(f"-s link show {name}"))
    assert restartable.daemon.eni(endpoint)["pktsDropped"] == before == 0
    assert restartable.daemon.stop() == 0
    assert lab.wait(lambda: lab.balancer.returned >= sent + 80)
    lab.balancer.violations.clear()  # nobody had sent what came


def test_a_tcp_connection_goes_on(lab, tmp_path):
    pair = lab.pair()
    restartable = Restartable(lab, tmp_path)
    with pair.server.namespace.entered():
        listener = socket.create_server((SERVER[0], 80))
    with pair.client.namespace.entered():
        client = socket.create_connection((SERVER[0], 80), timeout=60)
    server, _ = listener.accept()
    with listener, client, server:
        server.settimeout(60)
        received, block = bytearray(), os.urandom(1 << 16)
        reader = threading.Thread(target=lambda: [received.extend(data) for data in iter(lambda: server.recv(1 << 16), b"")])
        reader.start()
        sent = 0
        for _ in range(3):
            done = restartable.done()
            restartable.hang_up()
            while restartable.done() == done:
                client.sendall(block)
                sent += len(block)
                time.sleep(0.005)
        client.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert len(received) == sent and received[-len(block):] == block
    assert restartable.ran() == ["CREATE"]


def test_many_endpoints_pass_over_and_nothing_piles_up(lab, tmp_path):
    restartable = Restartable(lab, tmp_path)
    endpoints = [lab.endpoint(ENI + 1 + number) for number in range(ENDPOINTS)]
    for endpoint in endpoints:
        restartable.exchange(endpoint)
    restartable.restart()
    interfaces, before = restartable.interfaces(), restartable.footprint()
    assert len(interfaces) == 2 * ENDPOINTS
    for _ in range(3):
        restartable.restart()
    descriptors, threads, memory = restartable.footprint()
    # A socket to the load balancer may come or go; a leak would be one for each restart at least.
    assert descriptors < before[0] + 3 and threads == before[1] and memory < before[2] + (8 << 20)
    for endpoint in endpoints:
        restartable.exchange(endpoint)
    assert restartable.interfaces() == interfaces and restartable.ran() == ["CREATE"] * ENDPOINTS
    assert restartable.daemon.health()["summary"]["eniCount"] == ENDPOINTS


def test_while_endpoints_are_being_made(lab, tmp_path):
    slow = COUNTING.replace('[ "$1"', 'sleep 0.3\n[ "$1"')
    restartable = Restartable(lab, tmp_path, hook=slow)
    endpoints = [lab.endpoint(ENI + 1 + number) for number in range(4)]
    for number, endpoint in enumerate(endpoints):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, number, b"first"))
        time.sleep(0.05)
    restartable.restart()
    assert lab.wait(lambda: all(len(endpoint.received) == 1 for endpoint in endpoints)), restartable.daemon.log()
    assert restartable.ran() == ["CREATE"] * 4


def test_while_endpoints_come_faster_than_their_hooks_end(lab, tmp_path):
    """Those whose turn has not come pass over, with the packets that wait for them."""
    slow = COUNTING.replace('echo "$1"', f'[ -e {tmp_path}/go ] || sleep 1\necho "$1"')
    restartable = Restartable(lab, tmp_path, hook=slow)
    endpoints = []

    def come():
        endpoints.append(lab.endpoint(ENI + 1 + len(endpoints)))
        endpoints[-1].send(packets.udp(CLIENT[0], SERVER[0], 1, len(endpoints), b"first"))
    with again_and_again(come, 0.1):
        assert lab.wait(lambda: len(endpoints) > 15)
        restartable.restart()
    (tmp_path / "go").touch()
    assert lab.wait(lambda: all(len(endpoint.received) == 1 for endpoint in endpoints)), restartable.daemon.log()
    assert restartable.ran() == ["CREATE"] * len(endpoints) and restartable.daemon.drops() == {}


def test_while_endpoints_make_room_for_others(lab, tmp_path):
    slow = COUNTING.replace('echo "$1"', 'sleep 0.3\necho "$1"')
    (tmp_path / "ran").touch()
    restartable = Restartable(lab, tmp_path, "--max-endpoints", 3, hook=slow)
    endpoints = []

    def come():
        endpoints.append(lab.endpoint(ENI + 1 + len(endpoints)))
        for number in range(4):
            endpoints[-1].send(packets.udp(CLIENT[0], SERVER[0], 1, number, b"%d" % len(endpoints)))
    with again_and_again(come, 0.05):
        assert lab.wait(lambda: "DESTROY" in restartable.ran())
        restartable.restart()
        before = restartable.ran().count("DESTROY")
        assert lab.wait(lambda: restartable.ran().count("DESTROY") > before)


def test_a_hook_that_hangs_holds_it_up_and_is_said(lab, tmp_path):
    hangs = COUNTING.replace('[ "$1"', f'until [ -e {tmp_path}/go ]; do sleep 0.05; done\n[ "$1"')
    (tmp_path / "ran").touch()
    restartable = Restartable(lab, tmp_path, hook=hangs)
    restartable.endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 1, b"first"))
    assert lab.wait(lambda: restartable.ran() == ["CREATE"])
    assert "1 endpoints are still coming up or going" in restartable.refuse()
    (tmp_path / "go").touch()
    assert lab.wait(lambda: len(restartable.endpoint.received) == 1)
    restartable.restart()
    restartable.exchange()


def test_what_a_hook_left_behind_is_still_heard(lab, tmp_path):
    left = COUNTING.replace('[ "$1"', f'(until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo still there) &\n[ "$1"')
    restartable = Restartable(lab, tmp_path, hook=left)
    restartable.exchange()
    restartable.restart()
    (tmp_path / "go").touch()
    assert lab.wait(lambda: "still there" in restartable.daemon.log()), restartable.daemon.log()


def test_counters_and_names_go_on(lab, tmp_path):
    restartable = Restartable(lab, tmp_path, options=f"--endpoint vpce-{ENI:017x}=blue --netns")
    for _ in range(5):
        restartable.exchange()
    before = restartable.daemon.eni(restartable.endpoint)
    restartable.restart()
    after = restartable.daemon.eni(restartable.endpoint)
    for key in "name", "netns", "pktsOut", "bytesOut", "pktsDropped", "hooksFailed":
        assert after[key] == before[key], key
    assert after["v4FlowCache"]["size"] == before["v4FlowCache"]["size"] == 5
    restartable.exchange()
    assert restartable.daemon.health()["hooks"]["create"]["ok"] == 1
    assert (Path(f"/proc/{restartable.daemon.pid}/comm").read_text()) == "gwlbtun\n"
