# SPDX-License-Identifier: MIT-0
"""The watchdog is fed while every thread makes progress, and not while one is stuck. Threads are really stopped, by ptrace."""
import contextlib
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import lab as laboratory
import packets
from freezer import frozen
from gwlbtun import worker
from lab import CLIENT, ENI, PASSTHROUGH, PROGRAM, SERVER
from manager import manager

pytestmark = [pytest.mark.one_path, pytest.mark.alone]

# What a busy machine keeps from running for two seconds is not stuck.
WATCHDOG_S = 4.0
TICK_S = 0.25
PATIENCE_S = 2.5

# The command, which looks more often, with less patience, so that the tests need less.
HASTY = """
import sys
sys.path.insert(0, {root!r})
from gwlbtun import worker
worker.WAKE_S = 0.1
from gwlbtun import cli, progress, service
service.TICK_SHARE, service.PATIENCE_LEAST_S, progress.TELL_S = {share}, {patience}, 0.0
sys.exit(cli.main(sys.argv[1:]))
"""

CONTROL = ["gwlbtun Admission", "gwlbtun C000", "gwlbtun Health", "gwlbtun Patrol", "gwlbtun Report",
           "gwlbtun Starter", "gwlbtun Stop"]


def packet(number=0):
    return packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x")


def of_no_flow(number=0):
    """What is sent by Linux only to be counted."""
    return packets.udp(SERVER[0], CLIENT[0], 10000 + number, 2000, b"x")


@pytest.fixture
def told(tmp_path, started_by, monkeypatch):
    program = tmp_path / "gwlbtun.py"
    program.write_text(HASTY.format(root=str(PROGRAM.parent), share=TICK_S / WATCHDOG_S, patience=PATIENCE_S))
    monkeypatch.setattr(laboratory, "PROGRAM", program)
    with manager(tmp_path) as made:
        started_by(*made.command(WATCHDOG_S))
        yield made


def ids(daemon, *names):
    """The thread IDs of these threads, all that bear them."""
    found = [thread for thread, name in daemon.threads().items() if name in {name[:15] for name in names}]
    assert len(found) >= len(names)
    return found


@contextlib.contextmanager
def standing(told, threads):
    """As frozen(), but never while one of them holds the lock of the interpreter: all others would stand still, too."""
    while True:
        with frozen(threads):
            before = len(told.messages("WATCHDOG"))
            if told.wait(lambda: len(told.messages("WATCHDOG")) > before + 1, PATIENCE_S / 2):
                yield
                return


def starves(told, pause_s=2 * TICK_S):
    """Waits until the watchdog has not been fed for so long."""
    def starved():
        before = len(told.messages("WATCHDOG"))
        time.sleep(pause_s)
        return len(told.messages("WATCHDOG")) == before
    return told.wait(starved)


def starves_for(told, daemon, *names):
    """Waits until the log has named these threads, each at one look or another, and the watchdog is not fed any more."""
    return told.wait(lambda: set(names) <= set().union(*stuck(daemon))) and starves(told)


def fed(told):
    """Waits until the watchdog is fed again."""
    before = len(told.messages("WATCHDOG"))
    return told.wait(lambda: len(told.messages("WATCHDOG")) > before + 1)


def stuck(daemon):
    """The threads that the log names as stuck, line by line."""
    return [set(line.split(", ")) for line in re.findall(r"\(core,critical\) : Stuck, with work to do: (.*?)\.", daemon.log())]


def talk(lab, *endpoints, count=400):
    """Traffic from many flows, so that every receiver has its share."""
    for number in range(count):
        for endpoint in endpoints:
            endpoint.send(packet(number))


def carried(lab, told, *arguments, **named):
    """A daemon with an endpoint that has all its threads, and the endpoint."""
    daemon = lab.start("--udpthreads", 2, "--tunthreads", 2, *arguments, **named)
    endpoint = lab.endpoint()
    talk(lab, endpoint)
    assert lab.wait(lambda: len(endpoint.received) == 400)
    assert lab.wait(lambda: sum(name.startswith("gwlbtun T") for name in daemon.threads().values()) == 4)
    assert fed(told)
    return daemon, endpoint


def test_it_is_fed_in_good_time_and_with_traffic(lab, told):
    _, endpoint = carried(lab, told)
    times = []
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        talk(lab, endpoint, count=20)
        if len(told.messages("WATCHDOG")) > len(times):
            times += [time.monotonic()] * (len(told.messages("WATCHDOG")) - len(times))
    assert len(times) >= 4 and max(later - earlier for earlier, later in zip(times, times[1:])) < WATCHDOG_S


@pytest.mark.parametrize("names", [CONTROL, CONTROL[:1], CONTROL[1:2]])
def test_control_threads_that_stand_still_are_named_and_the_watchdog_starves(lab, told, names):
    daemon, _ = carried(lab, told)
    with standing(told, ids(daemon, *names)):
        assert starves_for(told, daemon, *names), daemon.log()
    assert set().union(*stuck(daemon)) == set(names)
    assert fed(told)
    assert lab.wait(lambda: "No thread is stuck any more." in daemon.log())


def test_the_thread_of_the_path_in_the_kernel_wakes_without_work_and_is_named_when_it_stands_still(lab, told):
    daemon, _ = carried(lab, told, kernel_path="require")
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        assert fed(told)
    with standing(told, ids(daemon, "gwlbtun-kernel")):
        assert starves_for(told, daemon, "gwlbtun-kernel"), daemon.log()
    assert set().union(*stuck(daemon)) == {"gwlbtun-kernel"}
    assert fed(told)


def test_it_is_as_patient_as_it_should_be(lab, tmp_path, started_by):
    """Threads that wake once a second are well for a watchdog of one second, too."""
    with manager(tmp_path) as told:
        started_by(*told.command(1.0))
        daemon, _ = carried(lab, told, "-s")  # without reports, which wake the health server
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert fed(told)
        assert stuck(daemon) == []


def test_receivers_without_packets_are_well_and_with_packets_are_stuck(lab, told):
    daemon, endpoint = carried(lab, told)
    with standing(told, ids(daemon, "gwlbtun U000", "gwlbtun U001")):
        time.sleep(WATCHDOG_S)
        assert fed(told) and stuck(daemon) == []
        talk(lab, endpoint)
        assert told.wait(lambda: {"gwlbtun U000", "gwlbtun U001"} in stuck(daemon)), daemon.log()
        assert starves(told)
    assert fed(told)
    assert lab.wait(lambda: len(endpoint.received) == 800)


def test_a_receiver_that_stands_in_for_a_tunnel_thread_is_the_one_that_is_named(lab, told):
    """It has nothing to receive, and yet what Linux sends waits for it."""
    daemon, endpoint = carried(lab, told)
    device = daemon.eni(endpoint)["tunnelOut"]["devname"]
    for number in range(40):  # one by one, so that the tunnel threads sleep
        endpoint.send(packet(number))
        assert lab.wait(lambda: len(endpoint.received) == 401 + number)
    with standing(told, ids(daemon, "gwlbtun U000", "gwlbtun U001")):
        for number in range(64):
            lab.emit(device, of_no_flow(number))
        assert told.wait(lambda: stuck(daemon)) and starves(told)
    assert set().union(*stuck(daemon)) <= {"gwlbtun U000", "gwlbtun U001"}
    assert fed(told)


def test_tunnel_threads_with_packets_are_stuck(lab, told):
    """More receivers than tunnel threads, so that those never stay on duty for these."""
    daemon = lab.start("--udpthreads", 2, "--tunthreads", 1)
    endpoint = lab.endpoint()
    talk(lab, endpoint)
    assert lab.wait(lambda: len(endpoint.received) == 400)
    eni = daemon.eni(endpoint)
    names = [f"gwlbtun T000 of {eni[tunnel]['devname']}" for tunnel in ("tunnelIn", "tunnelOut")]
    with standing(told, ids(daemon, "gwlbtun T000")):
        time.sleep(WATCHDOG_S)
        assert fed(told) and stuck(daemon) == []
        for tunnel in "tunnelIn", "tunnelOut":
            lab.emit(eni[tunnel]["devname"], of_no_flow())
        assert starves_for(told, daemon, *names), daemon.log()
    assert fed(told)


def test_the_logger_is_stuck_when_it_writes_nothing_that_a_reader_would_take(lab, told):
    daemon, endpoint = carried(lab, told, "--logging", "core=debug")
    with standing(told, ids(daemon, "gwlbtun Logger")):
        lab.endpoint(ENI + 1).send(packet())  # which is worth a line
        assert starves(told, WATCHDOG_S)
    assert lab.wait(lambda: {"gwlbtun Logger"} in stuck(daemon))
    assert fed(told)


def test_a_reader_of_the_log_that_never_reads_is_no_fault_of_the_daemon(lab, tmp_path, told, started_by):
    started_by("sh", "-c", f'mkfifo {tmp_path}/log; exec 3<>{tmp_path}/log; exec "$@" >{tmp_path}/log', "sh")
    daemon = lab.start("-x")
    endpoint = lab.endpoint()
    talk(lab, endpoint, count=1000)  # more than a pipe holds
    assert lab.wait(lambda: len(endpoint.received) == 1000)
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        talk(lab, endpoint, count=50)
        assert fed(told)
    assert "write" in Path(f"/proc/{daemon.pid}/task/{ids(daemon, 'gwlbtun Logger')[0]}/wchan").read_text()


def test_a_hook_that_hangs_is_no_fault_of_the_daemon(lab, told, tmp_path):
    lab.start(hook=PASSTHROUGH + f"until [ -e {tmp_path}/go ]; do sleep 0.1; done\n")
    lab.endpoint().send(packet())
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        assert fed(told)
    (tmp_path / "go").touch()


def test_a_main_thread_that_stands_still_starves_it_and_shows_where_all_threads_are(lab, told):
    daemon, _ = carried(lab, told)
    lab.daemons.remove(daemon)
    with frozen([daemon.pid]):
        assert starves(told)
    daemon.process.send_signal(signal.SIGABRT)  # as systemd does then
    assert daemon.process.wait(60) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in daemon.errors()
    assert all(part in daemon.errors() for part in ("in _loop", "in _receive", "admission.py"))


def test_it_is_fed_while_a_stop_takes_its_time(lab, told, tmp_path):
    hook = PASSTHROUGH.replace("|| exit 0\n", f"|| {{ until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit 0; }}\n")
    daemon, endpoint = carried(lab, told, hook=hook)
    talk(lab, endpoint, count=2000)  # under load
    daemon.process.send_signal(signal.SIGTERM)
    assert told.wait_for("STOPPING")
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        assert fed(told)
    assert stuck(daemon) == []
    (tmp_path / "go").touch()
    assert daemon.process.wait(60) == 0


def test_a_thread_that_pauses_for_long_goes_on_waking(monkeypatch):
    naps = []
    monkeypatch.setattr(worker, "WAKE_S", 0.25)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: sum(naps), sleep=naps.append))
    worker.pause(2.5)
    assert naps == [0.25] * 10
