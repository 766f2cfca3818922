# SPDX-License-Identifier: MIT-0
"""The table that datagrams are judged by: compiled, read from the kernel, looked up in, and replaced while in use."""
import subprocess
import threading
from array import array

import pytest

import netns
from gwlbtun import sources
from gwlbtun.fastpath import Shim
from gwlbtun.settings import Settings
from gwlbtun.sources import Sources
from logbook import Logbook
from ranges import ranges
from workbench import Bench, drops, encapsulated

LOOPBACK, OWN, REFUSED = 1, 2, 3


# ---- Read from the kernel


def test_own_addresses_are_what_the_kernel_has_for_its_own():
    with netns.Namespace("own") as namespace, namespace.entered():
        assert set(sources.own_addresses()) == set(ranges("127.0.0.0/8", "127.0.0.1/32"))
        namespace.ip("address add 198.18.0.1/32 dev lo")
        namespace.ip("route add local 203.0.113.0/25 dev lo")
        namespace.ip("route add 203.0.113.128/25 dev lo")               # of another table,
        namespace.ip("route add local 192.0.2.0/24 dev lo table 100")   # of another,
        namespace.ip("route add broadcast 192.0.2.9 dev lo table local")  # and of another type
        assert set(sources.own_addresses()) - set(ranges("127.0.0.0/8", "127.0.0.1/32")) \
            == set(ranges("198.18.0.1/32", "203.0.113.0/25"))


def test_more_addresses_than_one_message_holds():
    with netns.Namespace("own") as namespace, namespace.entered():
        lines = "".join(f"address add 198.18.{number >> 8}.{number & 255}/32 dev lo\n" for number in range(2000))
        subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
        assert len(sources.own_addresses()) == 2002


# ---- Replaced while in use


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def test_what_was_allowed_a_moment_ago(bench):
    """Packets of one batch are judged by one table, those of the next by the newest."""
    index = Shim().counters.index
    bench.add(7)
    bench.send(encapsulated(7))
    old = bench.handler.set_sources(array("I", (0, index("drop_source_own"))), array("I"), False)
    assert old is None
    bench.handler.retire_sources(old)
    bench.send_together([encapsulated(7)] * 5)
    counters = bench.receive()
    assert drops(counters) == {"source_loopback": 6}  # the interface counts first
    assert counters["packets_in"] == 6


def test_a_table_is_replaced_while_receivers_use_it(bench):
    """With the receiver in the midst of batches, and asleep; AddressSanitizer would tell of a table freed too early."""
    over = threading.Event()
    bench.add(7)

    def replace():
        while not over.is_set():
            bench.handler.retire_sources(bench.handler.set_sources(array("I", (0, 0)), array("I", range(2, 500)), False))

    replacer = threading.Thread(target=replace)
    replacer.start()
    try:
        for _ in range(50):
            bench.send_together([encapsulated(7)] * 200)
        counters = bench.receive()
    finally:
        over.set()
        replacer.join()
    assert counters["packets_in"] == 10000
    assert set(drops(counters)) <= {"source_loopback"}


def test_tunnel_interfaces_come_and_go(tmp_path, monkeypatch):
    book = Logbook(tmp_path)
    installed = []

    class Handler:
        shim = Shim()

        def set_sources(self, table, interfaces, uplinks):
            installed.append((list(interfaces), uplinks))

        def retire_sources(self, old):
            pass

    with netns.Namespace("own") as namespace, namespace.entered():
        several = Sources(Handler(), Settings(), book.log)
        for index in 9, 5, 7:
            several.add_own(index)
        several.remove_own(7)
        several.remove_own(9)
        several.tick()  # what came by them may still wait
        several.add_own(9)
        assert installed.pop() == installed[-1] == ([5, 7, 9], False)
        monkeypatch.setattr(sources, "LINGER_S", 0)
        several.remove_own(7)
        several.tick()
        few = Sources(Handler(), Settings(uplinks=("lo", "nowhere")), book.log)
        few.add_own(1)
    assert installed == [([], False), ([9], False), ([5, 9], False), ([5, 7, 9], False), ([5, 9], False), ([1], True),
                         ([], True)]
    book.wait_for("There is no interface nowhere")
    book.close()
