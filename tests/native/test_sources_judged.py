# SPDX-License-Identifier: MIT-0
"""The table that datagrams are judged by, looked up in."""
import ctypes
import errno
import random
import subprocess
from array import array
from ctypes import POINTER, byref, c_int, c_uint, c_uint32, c_void_p

import pytest

from gwlbtun.fastpath import NATIVE, Shim
from gwlbtun.sources import compile_ranges

LOOPBACK, OWN, REFUSED = 1, 2, 3


ADDRESSES = 1 << 32


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
