# SPDX-License-Identifier: MIT-0
"""The life of the daemon where parts meet: hooks that hang, stops in between, endpoints that come back early."""
import signal

import packets
from lab import CLIENT, PASSTHROUGH, SERVER, Daemon

OTHER = 0x076BC493B822CD32F

# The endpoint of ENI passes packets through at once; that of OTHER waits for a file.
HALF_HUNG = PASSTHROUGH.replace("[ \"$1\" = CREATE ] || exit 0\n", """
case "$2" in gwi-e8WXgsTQDkf) while [ ! -e {go} ]; do sleep 0.01; done;; esac
[ "$1" = CREATE ] || exit 0
""")


def udp(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x")


def test_a_hook_that_hangs_holds_up_no_one_else(lab, tmp_path):
    daemon = lab.start(hook=HALF_HUNG.format(go=tmp_path / "go"))
    hung, well = lab.endpoint(OTHER), lab.endpoint()
    hung.send(udp())
    assert lab.wait(lambda: daemon.eni(hung) is not None)
    for number in range(50):
        well.send(udp(number))
    assert lab.wait(lambda: lab.balancer.counters.returned == 50)
    assert daemon.eni(hung)["state"] == "being created"
    (tmp_path / "go").touch()
    assert lab.wait(lambda: lab.balancer.counters.returned == 51)


def test_a_stop_ends_a_create_hook_that_hangs(lab, tmp_path):
    daemon = lab.start(hook="#!/bin/sh\n[ $1 = CREATE ] || exit 0\nsleep 1000\n")
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) is not None)
    assert daemon.stop() == 0
    assert "still runs and is terminated: gwlbtun stops" in daemon.log()
    assert "created." not in daemon.log()  # and nothing has passed
    assert "gwi-" not in lab.appliance.ip("link")


def test_a_second_signal_ends_the_hooks_as_well(lab, tmp_path):
    hook = lab.hook(f"#!/bin/sh\n[ $1 = CREATE ] || echo $$ > {tmp_path}/pid\n[ $1 = CREATE ] || exec sleep 1000\n")
    daemon = Daemon(lab.appliance, tmp_path, ["-j", "-c", hook, "-r", hook]).wait_ready()
    try:
        endpoint = lab.endpoint()
        endpoint.send(udp())
        assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
        daemon.process.send_signal(signal.SIGINT)
        assert lab.wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        pid = (tmp_path / "pid").read_text().strip()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(10) == 128 + signal.SIGTERM
        alive = ("ps", "-o", "pid=", "-C", "sleep")
        assert lab.wait(lambda: pid not in lab.appliance.run(*alive, check=False).stdout.split())
    finally:
        daemon.kill()


def test_a_packet_while_its_endpoint_is_being_destroyed_waits_for_the_next_one(lab, tmp_path):
    daemon = lab.start("-t", "1", hook=PASSTHROUGH.replace(
        "exit 0\n", f"{{ while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 0; }}\n"))
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: lab.balancer.counters.returned == 1)
    assert lab.wait(lambda: daemon.eni(endpoint)["state"] == "being destroyed")
    for number in range(20):
        endpoint.send(udp(number))
    assert lab.wait(lambda: daemon.eni(endpoint)["state"] == "waiting for its predecessor to go")
    assert lab.balancer.counters.returned == 1
    (tmp_path / "go").touch()
    assert lab.wait(lambda: lab.balancer.counters.returned == 21)
    assert lab.wait(lambda: daemon.log().count("created.") == 2)


def test_packets_that_go_in_and_never_come_back_are_worth_a_hint(lab):
    daemon = lab.start(hook=None)
    endpoint = lab.endpoint()
    for number in range(20):
        endpoint.send(udp(number))
    assert lab.wait(lambda: "none has come back" in daemon.log(), timeout=30)
    hint, = [line for line in daemon.log().splitlines() if "none has come back" in line]
    for cause in "create hook", "ip_forward", "rp_filter", "source/destination check":
        assert cause in hint


def test_stopping_needs_no_new_thread_but_those_that_hear_hooks(lab, tmp_path):
    daemon = lab.start(hook=PASSTHROUGH.replace("|| exit 0\n", f"|| until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit\n"))
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    before = daemon.threads()
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: "gwlbtun Hook" in daemon.threads().values())
    assert {name for thread, name in daemon.threads().items() if thread not in before} == {"gwlbtun Hook"}
    (tmp_path / "go").touch()
    assert daemon.process.wait(20) == 0
