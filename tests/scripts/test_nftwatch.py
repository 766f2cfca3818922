# SPDX-License-Identifier: MIT-0
"""The line about an nftables table that has been deleted."""
import socket

import pytest

import gwlb
import netns
import packets
from gwlbtun import nftwatch
from gwlbtun.identity import Identity
from lab import CLIENT, ENI, SERVER
from scripts import FIRST, SCRIPTS, SECOND, start

pytestmark = pytest.mark.one_path

NAME = gwlb.base60(ENI)
TABLE = f"gwlbtun-{NAME}"
UP = [Identity(ENI)]


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0
    monkeypatch.setattr(nftwatch.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def namespace():
    with netns.Namespace("host") as made, made.entered():
        yield made


@pytest.fixture
def watch(namespace, book, clock):
    made = nftwatch.watch(book.log, "/opt/hook.sh")
    with made._source:
        yield made


def said(watch, clock, book, up=UP):
    watch.hear()
    clock.now += nftwatch.GRACE_S
    watch.look(lambda: up)
    book.log.stop()
    return book.texts()


def test_a_table_that_is_gone_is_told_once_with_what_to_run(namespace, watch, clock, book):
    namespace.run("nft", f"add table inet {TABLE}")
    watch.hear()
    namespace.run("nft", "flush ruleset")
    watch.hear()
    watch.look(lambda: UP)  # too early
    for _ in range(2):
        clock.now += nftwatch.GRACE_S
        watch.look(lambda: UP)
    book.log.stop()
    line, = book.lines()
    assert "(core,important)" in line and f"inet {TABLE} has been deleted" in line
    assert line.endswith(f"Run: /opt/hook.sh CREATE gwi-{NAME} gwo-{NAME} {ENI:017x}")


def test_a_table_that_is_made_anew_is_not(namespace, watch, clock, book):
    namespace.run("nft", f"add table inet {TABLE}")
    namespace.run("nft", f"delete table inet {TABLE}")
    namespace.run("nft", f"add table inet {TABLE}")
    assert said(watch, clock, book) == []


def test_nor_is_that_of_an_endpoint_that_goes_nor_any_other(namespace, watch, clock, book):
    for table in f"inet {TABLE}", f"ip {TABLE}", "inet mine", "inet gwlbtun":
        namespace.run("nft", f"add table {table}")
    namespace.run("nft", "flush ruleset")
    assert said(watch, clock, book, up=[]) == []


@pytest.mark.parametrize("table", [f"ip {TABLE}", "inet mine", "inet gwlbtun", f"inet {TABLE}x"])
def test_tables_of_others_are_not_told(namespace, watch, clock, book, table):
    namespace.run("nft", f"add table {table}")
    namespace.run("nft", f"delete table {table}")
    assert said(watch, clock, book) == []


def overrun(namespace, watch):
    """From now on the kernel has no room for reports, until those that wait have been heard."""
    watch._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(3):
        namespace.run("nft", "".join(f"add table inet t{number}; add chain inet t{number} c;" for number in range(200)))
        namespace.run("nft", "".join(f"delete table inet t{number};" for number in range(200)))


@pytest.mark.parametrize("before", ["heard", "waiting", "waiting as made anew"])
def test_a_table_is_gone_that_the_kernel_had_no_room_to_report(namespace, watch, clock, book, before):
    namespace.run("nft", f"add table inet {TABLE}")
    if before != "waiting":
        watch.hear()
    if before == "waiting as made anew":
        namespace.run("nft", f"delete table inet {TABLE}; add table inet {TABLE}")
    overrun(namespace, watch)
    namespace.run("nft", f"delete table inet {TABLE}")
    lines = said(watch, clock, book)
    assert len(lines) == 1 and TABLE in lines[0] and watch.missing == {TABLE}


def test_a_table_is_back_that_the_kernel_had_no_room_to_report(namespace, watch, clock):
    namespace.run("nft", f"add table inet {TABLE}")
    namespace.run("nft", f"delete table inet {TABLE}")
    watch.hear()
    clock.now += nftwatch.GRACE_S
    watch.look(lambda: UP)
    assert watch.missing == {TABLE}
    overrun(namespace, watch)
    namespace.run("nft", f"add table inet {TABLE}")
    watch.hear()
    watch.look(lambda: UP)
    assert watch.missing == set()


def test_a_table_that_outlasts_an_overrun_is_not_told(namespace, watch, clock, book):
    namespace.run("nft", f"add table inet {TABLE}")
    watch.hear()
    overrun(namespace, watch)
    assert said(watch, clock, book) == [] and watch._there == {TABLE}


def test_without_the_right_to_hear_it_there_is_no_watch(namespace):
    """Root without CAP_NET_ADMIN."""
    root = SCRIPTS.parent
    done = namespace.run("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "python3", "-c",
                         "from gwlbtun import nftwatch; print(nftwatch.watch(None, None))", cwd=root)
    assert done.stdout == "None\n"


@pytest.mark.parametrize("script", ["create-firewall.sh", "create-local.sh"])
def test_the_daemon_tells_of_a_flush_and_the_command_it_names_mends_it(lab, script):
    daemon = start(lab, script)
    endpoints = [lab.endpoint(eni, gwlb.WellFormed()) for eni in (FIRST, SECOND)]
    for endpoint in endpoints:
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert lab.wait(lambda: daemon.log().count("created.") == 2)
    lab.appliance.run("nft", "flush ruleset")
    assert lab.wait(lambda: daemon.log().count("has been deleted") == 2)
    for endpoint in endpoints:
        line, = (line for line in daemon.log().splitlines() if "has been deleted" in line and endpoint.gwi in line)
        lab.appliance.run(*line.partition("Run: ")[2].split())
    tables = lab.appliance.run("nft", "list tables").stdout
    assert all(f"inet gwlbtun-{endpoint.gwi[4:]}\n" in tables for endpoint in endpoints)
    # That command, and the destroy hooks, delete tables as well.
    assert not lab.wait(lambda: daemon.log().count("has been deleted") != 2, 2.5)
    assert daemon.stop() == 0
    assert daemon.log().count("has been deleted") == 2
