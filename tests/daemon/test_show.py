# SPDX-License-Identifier: MIT-0
"""`gwlbtun show`, asked of a live daemon with traffic."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import packets
from lab import CLIENT, ENI, PROGRAM, SERVER

OTHER = 0x0FEDCBA987654321


def command(daemon, *arguments):
    return [sys.executable, str(PROGRAM), "show", *map(str, arguments), "--socket", str(daemon.control)]


def show(daemon, *arguments, status=0):
    """What it prints; with another status than 0, to standard error."""
    done = subprocess.run(command(daemon, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert (done.stderr if status == 0 else done.stdout) == ""
    return done.stderr if status else done.stdout


def flows(daemon, *filters):
    return json.loads(show(daemon, "flows", "--json", *filters))["flows"]


@pytest.fixture
def busy(lab):
    """A daemon with two endpoints and some flows."""
    daemon = lab.start()
    first, second = lab.endpoint(ENI), lab.endpoint(OTHER)
    for packet in (packets.udp(CLIENT[0], SERVER[0], 1000, 53), packets.tcp(SERVER[1], CLIENT[1], 443, 2000),
                   packets.echo(CLIENT[0], SERVER[0], 77)):
        first.send(packet)
    second.send(packets.udp(CLIENT[0], SERVER[0], 1000, 53))
    assert lab.wait(lambda: lab.balancer.awaited == 0)
    return daemon, first, second


def test_endpoints(busy):
    daemon, first, second = busy
    lines = show(daemon).splitlines()
    assert f"process {daemon.pid}: healthy, 4 of at most 2097152 flows" in lines[0]
    assert lines[1].split() == ["ENDPOINT", "GWI", "GWO", "STATE", "FLOWS", "TO", "LINUX", "TO", "GWLB", "IDLE"]
    shown = {line.split()[0]: line.split()[1:7] for line in lines[2:]}
    assert shown == {f"vpce-{first.id}": [first.gwi, first.gwo, "up", "3", "3", "3"],
                     f"vpce-{second.id}": [second.gwi, second.gwo, "up", "1", "1", "1"]}
    fields = show(daemon, "endpoints", "dump", "--endpoint", first.id).split("\t")
    assert fields[:7] == [f"vpce-{first.id}", first.gwi, first.gwo, "up", "2", "1", "3"]
    report = json.loads(show(daemon, "endpoints", "--json"))
    assert report["healthy"] and report["pid"] == daemon.pid and len(report["endpoints"]) == 2


def test_flows(busy):
    daemon, first, second = busy
    found = flows(daemon)
    assert len(found) == 4
    for flow in found:
        endpoint = first if flow["endpoint"] == f"vpce-{first.id}" else second
        sent, = [each for each in endpoint.flows.values() if f"{each.cookie:08x}" == flow["cookie"]]
        assert (flow["gwlbAddress"], flow["gwlbPort"]) == (sent.envelope.address, sent.envelope.port)
        assert flow["attachment"] == f"{endpoint.attachment:016x}" and flow["ownAddress"] == "192.0.2.10"
        assert 0 <= flow["secsSinceLastPacket"] < 60
    table = show(daemon, "flows", "--endpoint", first.gwi)
    assert f"{CLIENT[0]}:1000  " in table and f"[{SERVER[1]}]:443" in table and "icmp 77" in table
    assert len(table.splitlines()) == 4
    assert [len(flows(daemon, *filters)) for filters in (
        ["--endpoint", f"vpce-{second.id}"], ["--protocol", "tcp"], ["--port", 53], ["--port", 53, "--endpoint", second.gwo],
        ["--address", "10.0.0.0/8"], ["--address", SERVER[1]], ["--port", 0], ["--protocol", 0], ["--limit", 2], ["--limit", 0])
    ] == [1, 1, 2, 1, 3, 1, 0, 0, 2, 4]
    assert show(daemon, "flows", "--port", 9) == "There is no such flow.\n"
    assert "There are more flows: --limit 0 shows all. The table holds 4 of" in show(daemon, "flows", "--limit", 3)
    assert len(show(daemon, "flows", "dump").splitlines()) == 4


def test_threads_and_drops(busy, lab):
    daemon, first, _ = busy
    threads = json.loads(show(daemon, "threads", "--json"))["threads"]
    kernel = daemon.threads()
    for thread in threads:
        assert kernel[thread["tid"]] == thread["name"][:15] and thread["state"] == "runs"
        assert set(thread["cores"]) == os.sched_getaffinity(thread["tid"])
    assert {thread["tid"] for thread in threads} <= set(kernel)
    assert sum(thread["pkts"] for thread in threads if thread["role"] == "from GWLB") == 4
    own = json.loads(show(daemon, "threads", "--json", "--endpoint", first.gwi))["threads"]
    assert {thread["interface"] for thread in own} <= {first.gwi, first.gwo}
    assert show(daemon, "drops") == "No packet has been dropped.\n"
    lab.balancer.inject(b"short")
    assert lab.wait(lambda: "header_short" in show(daemon, "drops"))
    assert show(daemon, "drops").splitlines()[1].split(None, 2) == ["header_short", "1", "the Geneve header is cut short"]
    assert "socket\t0\t" in show(daemon, "drops", "dump")


def test_an_endpoint_that_is_not_there(busy):
    daemon, *_ = busy
    assert "there is no endpoint 'gwi-nowhere'" in show(daemon, "flows", "--endpoint", "gwi-nowhere", status=1)


def test_watch_shows_rates_until_it_is_interrupted(busy, lab):
    daemon, first, _ = busy
    with subprocess.Popen(command(daemon, "endpoints", "--watch", "--json"), stdout=subprocess.PIPE, text=True) as watching:
        looks = [json.loads(watching.stdout.readline())]
        first.send(packets.udp(CLIENT[0], SERVER[0], 1000, 53))
        looks.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
    rates = [max(row.get("pktsToLinuxPerSec", -1) for row in look["endpoints"]) for look in looks]
    assert rates[0] == -1 and rates[1] >= 0


def test_a_reader_that_has_seen_enough(busy):
    daemon, *_ = busy
    script = f"{' '.join(command(daemon, 'flows', 'dump'))} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.splitlines()[1:] == ["0"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(daemon, "flows"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "gwlbtun: cannot write: No space left on device\n")


def test_many_flows_are_shown_while_they_come_and_packets_return(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    looks = []
    for number in range(3000):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1 + number, 53))
        if number % 1000 == 500:
            looks.append(flows(daemon))
    assert lab.wait(lambda: lab.balancer.awaited == 0)
    for found in (*looks, flows(daemon)):
        ports = [flow["port1"] for flow in found]
        assert len(set(ports)) == len(ports), "a flow is shown twice"
    assert sorted(ports) == list(range(1, 3001))
    assert daemon.drops() == {}


def test_clients_that_hang_hold_up_neither_packets_nor_others(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            hanging = stack.enter_context(socket.socket(socket.AF_UNIX))
            hanging.connect(str(daemon.control))
            with contextlib.suppress(OSError):
                hanging.sendall(b'{"control": 1, "ask": "threads"}\n')
        for number in range(200):
            endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1 + number, 53))
        assert lab.wait(lambda: lab.balancer.awaited == 0)
        assert len(flows(daemon)) == 200
        begin = time.monotonic()
        assert daemon.stop() == 0 and time.monotonic() - begin < 30
    assert not daemon.control.exists()
