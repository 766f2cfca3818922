# SPDX-License-Identifier: MIT-0
"""The life of the daemon where parts meet: hooks that hang, stops in between, endpoints that come back early."""
import re
import signal

import pytest

import gwlb
import packets
from lab import CLIENT, ENI, PASSTHROUGH, PROGRAM, SERVER, Daemon

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


def test_a_destroy_hook_runs_without_a_create_hook(lab, tmp_path):
    hook = lab.hook(f'#!/bin/sh\necho "$1" >> {tmp_path}/runs\n')
    daemon = lab.start("-r", hook, hook=None)
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    assert daemon.stop() == 0
    assert (tmp_path / "runs").read_text() == "DESTROY\n"


def test_a_stop_ends_a_create_hook_that_hangs(lab, tmp_path):
    daemon = lab.start(hook=f"#!/bin/sh\n[ $1 = CREATE ] || exit 0\ntouch {tmp_path}/begun\nsleep 1000\n")
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait((tmp_path / "begun").exists)
    assert daemon.stop() == 0
    assert "still runs. gwlbtun terminates it" in daemon.log()
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
        assert daemon.process.wait(60) == 128 + signal.SIGTERM
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


def test_packets_that_go_in_and_never_come_back_are_worth_a_hint(lab, impatient):
    daemon = lab.start(hook=None)
    endpoint = lab.endpoint()
    for number in range(20):
        endpoint.send(udp(number))
    assert lab.wait(lambda: "none has come back" in daemon.log())
    hint, = [line for line in daemon.log().splitlines() if "none has come back" in line]
    for cause in "create hook", "ip_forward", "rp_filter", "source/destination check":
        assert cause in hint


def test_stopping_needs_no_new_thread_but_those_that_hear_hooks(lab, tmp_path):
    daemon = lab.start(hook=PASSTHROUGH.replace("|| exit 0\n", f"|| until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit\n"))
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    daemon.wait_hooks_read()
    before = daemon.threads_but_tunnels()
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: "gwlbtun Hook" in daemon.threads().values())
    assert {name for thread, name in daemon.threads_but_tunnels().items() if thread not in before} == {"gwlbtun Hook"}
    (tmp_path / "go").touch()
    assert daemon.process.wait(60) == 0


# The command, whose readers of hooks are slow.
SLOW_READERS = """
import sys, time
sys.path.insert(0, {root!r})
from gwlbtun import cli, listener

hear = listener.Listener._hear
listener.Listener._hear = lambda self, text: (time.sleep(0.3), hear(self, text))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_the_last_words_of_a_hook_are_in_the_log(lab, tmp_path, monkeypatch):
    program = tmp_path / "gwlbtun.py"
    program.write_text(SLOW_READERS.format(root=str(PROGRAM.parent)))
    monkeypatch.setattr("lab.PROGRAM", program)
    daemon = lab.start(hook=PASSTHROUGH.replace("exit 0", "{ echo going; echo gone; exit 0; }"))
    endpoint = lab.endpoint()
    assert lab.carries(endpoint, udp())
    assert daemon.stop() == 0
    hook = f"DESTROY hook of {endpoint.gwi}: "
    assert re.findall(f"{hook}(.*)", daemon.log()) == ["going", "gone"]
    assert daemon.log().splitlines()[-1].endswith("Stopped.")


# The command, to which no child is granted until there is a file.
NO_CHILD = """
import errno, os, sys
sys.path.insert(0, {root!r})
from gwlbtun import cli, endpoint

endpoint.RETRY_S = 0.5

spawn = os.posix_spawn

def spawn_later(*arguments, **options):
    if not os.path.exists({go!r}):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return spawn(*arguments, **options)

os.posix_spawn = spawn_later
sys.exit(cli.main(sys.argv[1:]))
"""

# A routing table of its own for each endpoint, numbered by what is there, as hooks in the wild do.
LAST_TABLE_PLUS_ONE = """#!/bin/sh -e
[ "$1" = CREATE ] || exit 0
last=$(ip rule list | sed -n 's/.*lookup \\([0-9]*\\)$/\\1/p' | sort -n | tail -1)
table=$((${last:-99} + 1))
ip rule add iif "$2" lookup "$table"
ip route add default dev "$3" table "$table"
"""


def test_hooks_that_number_what_they_make_work_for_endpoints_that_come_at_once(lab):
    lab.route()
    lab.start(hook=LAST_TABLE_PLUS_ONE)
    endpoints = [lab.endpoint(ENI + number, gwlb.Forwarded()) for number in range(12)]
    for endpoint in endpoints:
        endpoint.send(udp())
    assert lab.wait(lambda: all(endpoint.received for endpoint in endpoints))


@pytest.mark.parametrize("jobs, pause", [(1, 0.5), (4, 2)])
def test_no_create_hook_begins_after_a_stop(lab, tmp_path, jobs, pause):
    hook = lab.hook(f'#!/bin/sh\necho "$1" >> {tmp_path}/runs\n[ "$1" = DESTROY ] || sleep {pause}\n')
    daemon = lab.start("--hook-jobs", jobs, "-c", hook, "-r", hook, hook=None)
    endpoints = [lab.endpoint(ENI + number) for number in range(40)]
    for endpoint in endpoints:
        endpoint.send(udp())
    assert lab.wait(lambda: len(daemon.health()["enis"]) == 40)
    assert lab.wait(lambda: (tmp_path / "runs").exists())
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: "SIGTERM: stopping" in daemon.log())
    begun = (tmp_path / "runs").read_text().split().count("CREATE")
    assert daemon.process.wait(60) == 0
    runs = (tmp_path / "runs").read_text().split()
    assert runs.count("CREATE") == runs.count("DESTROY") <= begun + jobs < 40


def test_a_hook_that_cannot_be_started_is_tried_again_and_nothing_passes_before(lab, tmp_path, monkeypatch):
    program = tmp_path / "gwlbtun.py"
    program.write_text(NO_CHILD.format(root=str(PROGRAM.parent), go=str(tmp_path / "go")))
    monkeypatch.setattr("lab.PROGRAM", program)
    daemon = lab.start()
    endpoint = lab.endpoint()
    endpoint.send(udp())
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "failed to come up")
    assert "Resource temporarily unavailable" in daemon.eni(endpoint)["failure"]
    assert daemon.eni(endpoint)["tunnelIn"]["pktsOut"] == 0
    (tmp_path / "go").touch()
    assert lab.wait(lambda: endpoint.received == [udp()])
    assert daemon.health()["hooksFailed"] == 0 and daemon.get()[0] == 200
