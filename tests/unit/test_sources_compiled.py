# SPDX-License-Identifier: MIT-0
"""The table that datagrams are judged by, compiled; and the kernel's messages that change it."""
import ipaddress

import pytest

from gwlbtun import sources
from gwlbtun.sources import EVERYWHERE, compile_ranges
from ranges import ranges

LOOPBACK, OWN, REFUSED = 1, 2, 3


def show(table):
    return [(str(ipaddress.IPv4Address(table[at])), table[at + 1]) for at in range(0, len(table), 2)]


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


@pytest.mark.parametrize("data", [b"", b"\0" * 3, b"\0" * 16, b"\xff" * 40, bytes([16, 0, 0, 0]) + bytes(12)])
def test_messages_that_are_none(data):
    assert not sources._concerns(data)
