# SPDX-License-Identifier: MIT-0
"""Chains as the kernel tells them, and messages that are none."""
import struct

import pytest

from gwlbtun import forwarding, nfnetlink
from gwlbtun.forwarding import Chain


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def chain(name=b"c", hook=2, policy=0):
    nested = attribute(1, struct.pack("!I", hook)) + attribute(2, struct.pack("!i", 0))
    return (attribute(1, b"t\0") + attribute(3, name + b"\0") + attribute(4 | 0x8000, nested)
            + attribute(5, struct.pack("!I", policy)))


@pytest.mark.parametrize("family, data, found", [
    (1, chain(), [("inet", "t", "c")]), (2, chain(), [("ip", "t", "c")]), (10, chain(), [("ip6", "t", "c")]),
    (7, chain(), []), (1, chain(hook=1), []), (1, chain(policy=1), []), (1, b"", []), (1, chain()[:30], []),
    (1, attribute(4, b"\1") + attribute(5, b"\0\0\0\0"), []), (1, attribute(4, b"") + attribute(5, b"\0"), []),
    (1, chain(b"\xff\xfe"), [("inet", "t", "\\xff\\xfe")]),
    (1, chain("é\n\x1b[2J".encode()), [("inet", "t", "é\\n\\x1b[2J")])])
def test_chains_that_drop_by_their_policy(monkeypatch, family, data, found):
    monkeypatch.setattr(nfnetlink, "dump", lambda kind: iter([(family, data)]))
    assert list(forwarding.dropping_chains()) == found


def test_the_command_is_safe_whatever_the_name():
    command = Chain("inet", "t", "c; reboot").acceptance()
    assert command == "nft insert rule inet t 'c; reboot' iifname 'gwi-*' accept"
