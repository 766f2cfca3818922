# SPDX-License-Identifier: MIT-0
"""The table that datagrams are judged by: compiled, read from the kernel, looked up in, and replaced while in use."""
import ctypes
import errno
import ipaddress
import random
import subprocess
import threading
from array import array
from ctypes import POINTER, byref, c_int, c_uint, c_uint32, c_void_p

import pytest

import netns
from gwlbtun import checks, sources
from gwlbtun.fastpath import NATIVE, Shim
from gwlbtun.settings import Settings
from gwlbtun.sources import EVERYWHERE, Sources, compile_ranges
from logbook import Logbook
from test_receiver import Bench, drops, encapsulated

LOOPBACK, OWN, REFUSED = 1, 2, 3
ADDRESSES = 1 << 32


def ranges(*texts):
    return [(int(network[0]), int(network[-1])) for network in map(ipaddress.IPv4Network, texts)]


def show(table):
    return [(str(ipaddress.IPv4Address(table[at])), table[at + 1]) for at in range(0, len(table), 2)]


# ---- Compiled


def test_layers_of_a_host():
    table = compile_ranges([(LOOPBACK, [sources.LOOPBACK]), (OWN, ranges("127.0.0.0/8", "10.0.1.5/32", "10.0.1.6/32")),
                            (0, ranges("10.0.1.0/24"))], REFUSED)
    assert show(table) == [("0.0.0.0", REFUSED), ("10.0.1.0", 0), ("10.0.1.5", OWN), ("10.0.1.7", 0),
                           ("10.0.2.0", REFUSED), ("127.0.0.0", LOOPBACK), ("128.0.0.0", REFUSED)]


@pytest.mark.parametrize("layers, rest, expected", [
    ([], 7, [("0.0.0.0", 7)]),
    ([(0, [EVERYWHERE])], 7, [("0.0.0.0", 0)]),
    ([(5, ranges("255.255.255.255/32")), (0, [EVERYWHERE])], 7, [("0.0.0.0", 0), ("255.255.255.255", 5)]),
    ([(5, ranges("0.0.0.0/32"))], 0, [("0.0.0.0", 5), ("0.0.0.1", 0)]),
    ([(5, ranges("0.0.0.0/1", "128.0.0.0/1"))], 0, [("0.0.0.0", 5)]),
    ([(5, ranges("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16"))], 0, [("0.0.0.0", 0), ("10.0.0.0", 5), ("11.0.0.0", 0)]),
])
def test_edges(layers, rest, expected):
    assert show(compile_ranges(layers, rest)) == expected


def test_thousands_of_addresses_compile_in_no_time():
    many = [(number * 7, number * 7) for number in range(20000)]
    assert len(compile_ranges([(OWN, many), (0, [EVERYWHERE])], REFUSED)) == 2 * (2 * len(many))


# ---- Looked up in


class Source(ctypes.Structure):
    _fields_ = [("address", c_uint32), ("destination", c_uint32), ("own_address", c_uint32), ("interface", c_uint32)]


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    library = tmp_path_factory.mktemp("native") / "source.so"
    subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
                    "-o", library, NATIVE / "source.c"], check=True)
    loaded = ctypes.CDLL(str(library), use_errno=True)
    loaded.gw_sources_new.restype = c_void_p
    loaded.gw_sources_new.argtypes = (c_void_p, c_uint, c_void_p, c_uint, c_int)
    loaded.gw_sources_free.argtypes = (c_void_p,)
    loaded.gw_sources_judge.argtypes = (c_void_p, POINTER(Source))
    return loaded


def native_table(native, table, interfaces=(), uplinks=False):
    listed = array("I", interfaces)
    return native.gw_sources_new(table.buffer_info()[0], len(table) // 2, listed.buffer_info()[0], len(listed), uplinks)


def swapped(number):
    return int.from_bytes(number.to_bytes(4, "big"), "little" if array("H", [1]).tobytes()[0] else "big")


def random_range(rng):
    first = rng.choice((rng.randrange(ADDRESSES), rng.randrange(64), ADDRESSES - 1 - rng.randrange(64)))
    return first, min(first + rng.choice((0, 1, 15, 1 << 20)), ADDRESSES - 1)


def test_each_address_has_the_verdict_of_the_first_layer_it_is_in(native):
    rng, seen = random.Random(6081), set()
    for _ in range(300):
        layers = [(verdict, [random_range(rng) for _ in range(rng.randrange(6))]) for verdict in (LOOPBACK, OWN, 0)]
        table = compile_ranges(layers, REFUSED)
        judged = native_table(native, table)
        edges = [edge for _, several in layers for one in several for edge in one]
        points = {max(0, min(edge + by, ADDRESSES - 1)) for edge in edges for by in (-1, 0, 1)}
        for address in points | {0, ADDRESSES - 1, rng.randrange(ADDRESSES)}:
            expected = next((verdict for verdict, several in layers
                             if any(first <= address <= last for first, last in several)), REFUSED)
            source = Source(address=swapped(address), interface=2)
            assert native.gw_sources_judge(judged, byref(source)) == expected
            seen.add(expected)
        native.gw_sources_free(judged)
    assert seen == {0, LOOPBACK, OWN, REFUSED}


@pytest.mark.parametrize("interfaces", [[], [2], [2, 3, 9], [5, 6, 7, 8, 100], list(range(2, 3000, 3))])
@pytest.mark.parametrize("uplinks", [False, True])
def test_interfaces(native, interfaces, uplinks):
    index = Shim().counters.index
    judged = native_table(native, array("I", (0, 0)), interfaces, uplinks)
    for interface in range(3002):
        found = native.gw_sources_judge(judged, byref(Source(interface=interface)))
        if interface == 1:
            assert found == index("drop_source_loopback")
        else:
            assert found == (0 if (interface in interfaces) == uplinks else index("drop_interface"))
    native.gw_sources_free(judged)


@pytest.mark.parametrize("table, interfaces", [
    ([], []), ([1, 0], []), ([0, 0, 5, 0, 5, 1], []), ([0, 0, 5, 0, 4, 1], []), ([0, 10_000], []),
    ([0, 0], [3, 3]), ([0, 0], [3, 2]),
])
def test_a_table_that_is_none_is_refused(native, table, interfaces):
    assert not native_table(native, array("I", table), interfaces)
    assert ctypes.get_errno() == errno.EINVAL


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


@pytest.mark.parametrize("data", [b"", b"\0" * 3, b"\0" * 16, b"\xff" * 40, bytes([16, 0, 0, 0]) + bytes(12)])
def test_messages_that_are_none(data):
    assert not sources._concerns(data)


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


# ---- The options


def test_networks():
    assert checks.networks("10.0.0.0/8,192.0.2.1") == ((0x0A000000, 0x0AFFFFFF), (0xC0000201, 0xC0000201))
    assert checks.networks("0.0.0.0/0") == (EVERYWHERE,)


def test_endpoint_ids():
    assert checks.endpoint_ids("vpce-0123456789abcdef0,0123456789ABCDEF0,1,00000000000000001") \
        == (0x123456789ABCDEF0, 0x123456789ABCDEF0, 1, 1)
