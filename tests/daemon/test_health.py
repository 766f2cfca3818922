# SPDX-License-Identifier: MIT-0
"""Health: its forms, key for key and sentence for sentence, and whether it tells the truth."""
import json
import re
import signal

import pytest

import packets
from forms import rendered
from gwlbtun import forms
from lab import CLIENT, ENI, PASSTHROUGH, PROGRAM, SERVER, Daemon

GWI, GWO = "gwi-887epl1g9A", "gwo-887epl1g9A"

THREAD = {"valid": bool, "healthy": bool, "threadNumber": int, "threadId": int, "pktsIn": int, "bytesIn": int}
TUNNEL_THREAD = {**THREAD, "secsSincelastPacket": float}
TUNNEL = {"devname": str, "pktsOut": int, "bytesOut": int, "secsSincelastPacket": float, "threads": [TUNNEL_THREAD]}
FLOW_CACHE = {"cacheName": str, "size": int, "timedOut": int, "idleTimeoutSecs": int}
SCHEMA = {
    "udp": {"UDPPacketReceiver": {"portNumber": int, "threads": [{**THREAD, "secsSinceLastPacket": float}]}},
    "enis": [{"eniStr": str, "tunnelIn": TUNNEL, "tunnelOut": TUNNEL, "v4FlowCache": FLOW_CACHE,
              "v6FlowCache": FLOW_CACHE}],
}


def check(value, schema, where="health"):
    """That it has all that the schema has, of just those types; there may be more."""
    if isinstance(schema, dict):
        for key in schema:
            assert key in value, f"{where} has no {key}"
            check(value[key], schema[key], f"{where}.{key}")
    elif isinstance(schema, list):
        assert value, f"{where} is empty"
        for item in value:
            check(item, schema[0], where)
    else:
        assert type(value) is schema, f"{where} is {value!r}"


def udp(number=0, **fields):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x" * 50, **fields)


def udp6(number=0):
    return packets.udp(CLIENT[1], SERVER[1], 1000 + number, 2000, b"x" * 50)


def flood(lab, endpoint, count, make=udp):
    """Sends packets of as many flows, and waits until they are back."""
    returned = lab.balancer.counters.returned + count
    for number in range(count):
        endpoint.send(make(number))
    assert lab.wait(lambda: lab.balancer.counters.returned == returned)


def reasons(daemon):
    """What health says is wrong, having checked that the status and each form say so, too."""
    status, _, body = daemon.get()
    report = json.loads(body)
    assert status == (200 if report["healthy"] else 503)
    assert report["healthy"] == (not report["reasons"])
    return report["reasons"]


def test_counters_agree_with_what_was_sent(lab):
    daemon = lab.start("--udpthreads", "2", "--tunthreads", "3")
    endpoint = lab.endpoint()
    flood(lab, endpoint, 64)
    flood(lab, endpoint, 10, udp6)
    flood(lab, endpoint, 64)
    assert lab.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] == 138)  # a packet is counted after it is sent
    # Once it carries as much, an endpoint gets all its threads.
    assert lab.wait(lambda: [len(daemon.eni(endpoint)[tunnel]["threads"]) for tunnel in ("tunnelIn", "tunnelOut")] == [3, 3])
    report = daemon.health()
    check(report, SCHEMA)
    assert report["healthy"] and report["reasons"] == []

    inner = 128 * len(udp()) + 10 * len(udp6())
    receiver = report["udp"]["UDPPacketReceiver"]
    assert receiver["portNumber"] == 6081
    assert [thread["threadNumber"] for thread in receiver["threads"]] == [0, 1]
    assert sum(thread["pktsIn"] for thread in receiver["threads"]) == 138
    assert sum(thread["bytesIn"] for thread in receiver["threads"]) == inner + 138 * 40

    eni, = report["enis"]
    assert eni["eniStr"] == f"{ENI:017x}"
    assert (eni["tunnelIn"]["devname"], eni["tunnelOut"]["devname"]) == (GWI, GWO)
    assert (eni["tunnelIn"]["pktsOut"], eni["tunnelIn"]["bytesOut"]) == (138, inner)
    assert (eni["tunnelOut"]["pktsOut"], eni["tunnelOut"]["bytesOut"]) == (0, 0)
    assert [len(eni[tunnel]["threads"]) for tunnel in ("tunnelIn", "tunnelOut")] == [3, 3]
    assert sum(thread["pktsIn"] for thread in eni["tunnelOut"]["threads"]) == 138
    assert sum(thread["bytesIn"] for thread in eni["tunnelOut"]["threads"]) == inner
    for family, flows in (4, 64), (6, 10):
        assert {key: eni[f"v{family}FlowCache"][key] for key in FLOW_CACHE} == {
            "cacheName": f"IPv{family} Flow Cache for ENI {ENI:017x}", "size": flows, "timedOut": 0,
            "idleTimeoutSecs": 350}
    assert (report["totals"]["pktsFromGwlb"], report["totals"]["pktsToLinux"], report["totals"]["pktsToGwlb"]) \
        == (138, 138, 138)
    threads = daemon.threads()
    assert {threads[thread["threadId"]] for thread in receiver["threads"]} == {"gwlbtun U000", "gwlbtun U001"}
    assert [threads[thread["threadId"]] for thread in eni["tunnelIn"]["threads"]] \
        == [threads[thread["threadId"]] for thread in eni["tunnelOut"]["threads"]] \
        == ["gwlbtun T000", "gwlbtun T001", "gwlbtun T002"]


def test_totals_outlive_their_endpoint(lab):
    daemon = lab.start("-t", "1")
    flood(lab, lab.endpoint(), 10)
    assert lab.wait(lambda: daemon.health()["enis"] == [])
    totals = daemon.health()["totals"]
    assert (totals["pktsFromGwlb"], totals["pktsToLinux"], totals["pktsToGwlb"]) == (10, 10, 10)


def test_flows_that_have_just_timed_out_are_told_to_all_who_ask(lab):
    daemon = lab.start("--udp-idle", "3", "--endpoint", f"vpce-{ENI:017x}")
    assert lab.wait(lambda: daemon.get()[0] == 200)
    endpoint = lab.endpoint()
    flood(lab, endpoint, 7)

    def timed_out():
        return [daemon.eni(endpoint)["v4FlowCache"][key] for key in ("timedOut", "timedOutTotal")]
    assert lab.wait(lambda: timed_out()[0] > 0)
    assert [timed_out() for _ in range(3)] == [timed_out()] * 3
    assert lab.wait(lambda: timed_out() == [0, 7])


def test_status_only(lab):
    daemon = lab.start("-s")
    for method in "GET", "HEAD":
        status, headers, body = daemon.get("/any", "::1", method)
        assert (status, headers["Content-Length"], body) == (200, "0", b"")


NUMBER, SECONDS = r"\d+", r"\d+\.\d{3}s"
SENTENCES = [
    rf"UDP receiver thread 0 \(ID {NUMBER}\): Healthy, 3 packets in, {3 * (78 + 40)} bytes in, {SECONDS} since last "
    r"packet\.",
    rf"Handler for ENI {ENI:017x}.*",
    rf"Interface {GWI}: 3 packets out to OS, {3 * 78} bytes out to OS, {SECONDS} since last packet\.",
    rf"Interface {GWO}: 0 packets out to OS, 0 bytes out to OS, {SECONDS} since last packet\.",
    rf"Tunnel handler thread 0 \(ID {NUMBER}\): Healthy, 3 packets in from OS, {3 * 78} bytes in from OS, {SECONDS} "
    r"since last packet\.",
    rf"IPv4 Flow Cache for ENI {ENI:017x} : Contains 3 elements, of which 0 were just timed out \(idle timeout is 77 "
    r"seconds\)\.",
    rf"IPv6 Flow Cache for ENI {ENI:017x} : Contains 0 elements, of which 0 were just timed out \(idle timeout is 77 "
    r"seconds\)\.",
]


def test_text(lab, tmp_path):
    hook = lab.hook(PASSTHROUGH)
    daemon = Daemon(lab.appliance, tmp_path, ["-c", hook, "--udpthreads", "1", "--tunthreads", "1", "-i", "77"])
    lab.daemons.append(daemon.wait_ready())
    flood(lab, lab.endpoint(), 3)
    assert lab.wait(lambda: b"3 back to the load balancer." in daemon.get()[2])
    status, headers, body = daemon.get()
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert int(headers["Content-Length"]) == len(body)
    assert re.match(r"<!DOCTYPE html>\s*<html", page) and page.rstrip().endswith("</html>")
    text = re.search(r"<pre>\n(.*)</pre>", page, re.DOTALL)[1].splitlines()
    for sentence in SENTENCES:
        assert sum(re.fullmatch(sentence, line) is not None for line in text) == 1, sentence


def test_an_endpoint_that_is_being_made_again_is_named(lab, tmp_path):
    daemon = lab.start("--tunthreads", "1", hook=PASSTHROUGH.replace("tc qdisc", f"""
until [ ! -e {tmp_path}/hold ]; do sleep 0.02; done
tc qdisc""", 1))
    endpoint = lab.endpoint()
    flood(lab, endpoint, 1)
    assert reasons(daemon) == []
    (tmp_path / "hold").touch()
    lab.appliance.ip("link delete", GWI)
    reason = f"endpoint {ENI:017x} is being created: the interface {GWI} has been deleted"
    assert lab.wait(lambda: reasons(daemon) == [reason])
    assert f"- {reason}" in rendered(forms.HTML, daemon.health())
    assert "(core,important)" in daemon.log()
    (tmp_path / "hold").unlink()
    assert lab.wait(lambda: reasons(daemon) == [])


# The command, with a second receiver whose socket is none any more, for its next call, once there is a file.
ONE_RECEIVER_DIES = """
import os, sys
sys.path.insert(0, {root!r})
from gwlbtun import cli, daemon

tick = daemon.Daemon._tick

def take_the_socket(self):
    if os.path.exists({go!r}):
        os.dup2(os.open(os.devnull, os.O_RDONLY), self._receivers[1]._socket.fileno())
        os.unlink({go!r})
    tick(self)

daemon.Daemon._tick = take_the_socket
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_dead_receiver_is_named_and_the_daemon_stops(lab, tmp_path, monkeypatch):
    program, go, end = tmp_path / "gwlbtun.py", tmp_path / "go", tmp_path / "end"
    program.write_text(ONE_RECEIVER_DIES.format(root=str(PROGRAM.parent), go=str(go)))
    monkeypatch.setattr("lab.PROGRAM", program)
    hook = lab.hook(PASSTHROUGH.replace("exit 0", f"{{ until [ -e {end} ]; do sleep 0.01; done; echo destroyed; exit; }}"))
    daemon = Daemon(lab.appliance, tmp_path, ["-j", "-c", hook, "-r", hook, "--udpthreads", "3"]).wait_ready()
    try:
        endpoint = lab.endpoint()
        flood(lab, endpoint, 100)
        assert reasons(daemon) == []
        go.touch()
        assert lab.wait(lambda: not go.exists())
        for number in range(100):
            endpoint.send(udp(number))
        dead = "thread gwlbtun U001 is dead: Socket operation on non-socket"
        assert lab.wait(lambda: reasons(daemon) == ["gwlbtun is stopping", dead])
        threads = daemon.health()["udp"]["UDPPacketReceiver"]["threads"]
        assert threads[1]["healthy"] is False and daemon.get()[0] == 503
        end.touch()
        assert daemon.process.wait(60) == 1
    finally:
        daemon.kill()
    assert f"DESTROY hook of {GWI}: destroyed" in daemon.log()
    for told in "Thread gwlbtun U001 has failed", "Stopping with status 1":
        assert len(re.findall(rf"\(core,critical\) : {told}", daemon.log())) == 1


def test_an_endpoint_that_fails_to_come_up_is_shown_and_tried_again(lab, impatient):
    """It is no reason to be unhealthy: whoever can send a packet can name an endpoint."""
    daemon = lab.start()
    lab.appliance.ip(f"link add {GWO} type veth peer name other")
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "failed to come up")
    assert reasons(daemon) == []
    assert daemon.eni(endpoint)["failure"] == (f"somebody else has an interface {GWO}: "
                                               f"delete it with ip link delete {GWO}")
    page = rendered(forms.HTML, daemon.health())
    assert f"Handler for ENI {ENI:017x}: failed to come up (somebody else has an interface {GWO}" in page
    assert GWI not in lab.appliance.ip("link")
    assert len(re.findall(r"\(core,critical\) : Cannot create gwi-", daemon.log())) == 1
    lab.appliance.ip(f"link delete {GWO}")
    assert lab.wait(lambda: daemon.eni(endpoint)["failure"] == "")
    assert lab.wait(lambda: lab.balancer.counters.returned == 1)  # the packet has waited in its queue all the time


def test_an_endpoint_whose_hook_runs_is_healthy(lab, tmp_path):
    daemon = lab.start(hook=f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint))
    assert reasons(daemon) == []
    assert (daemon.eni(endpoint)["state"], daemon.eni(endpoint)["tunnelIn"]["threads"]) == ("being created", [])
    assert lab.wait(lambda: daemon.eni(endpoint)["queueBytes"] > 0)
    (tmp_path / "go").touch()
    assert lab.wait(lambda: daemon.eni(endpoint)["state"] == "up")


def test_stopping_is_unhealthy(lab, tmp_path):
    daemon = lab.start(hook=f"[ $1 = CREATE ] || while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: reasons(daemon) == ["gwlbtun is stopping"])
    (tmp_path / "go").touch()
    assert daemon.process.wait(60) == 0


@pytest.mark.parametrize("asked", [1, 8])
def test_the_receive_buffer_is_as_asked(lab, asked):
    daemon = lab.start("--rcvbuf", asked)
    assert daemon.health()["udp"]["UDPPacketReceiver"]["receiveBufferBytes"] == asked << 20
    assert f"receive buffer of {asked} MB" in daemon.log()
