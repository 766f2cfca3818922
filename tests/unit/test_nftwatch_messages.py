# SPDX-License-Identifier: MIT-0
"""The watch over nftables: messages that are none, and a kernel without them."""
import errno
import struct

import pytest

from gwlbtun import nftwatch


@pytest.mark.parametrize("data", [
    b"", b"\1", struct.pack("=IHHII", 0, 0xA02, 0, 0, 0), struct.pack("=IHHII", 15, 0xA02, 0, 0, 0),
    struct.pack("=IHHII", 1 << 31, 0xA02, 0, 0, 0) + bytes(64), struct.pack("=IHHII", 16, 0xA02, 0, 0, 0),
    struct.pack("=IHHIIBBHHH", 24, 0xA02, 0, 0, 0, 1, 0, 0, 0, 1),
    struct.pack("=IHHIIBBHHH", 24, 0xA02, 0, 0, 0, 1, 0, 0, 60000, 1),
    struct.pack("=IHHIIBBHHH", 24, 0xA02, 0, 0, 0, 1, 0, 0, 4, 1)])
def test_malformed_messages_say_nothing(data):
    assert list(nftwatch._tables(data)) == []


@pytest.mark.parametrize("error", [errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPERM])
def test_where_there_is_nothing_to_hear_there_is_no_watch(monkeypatch, book, error):
    def refuse(*_):
        raise OSError(error, "no")
    monkeypatch.setattr(nftwatch.socket, "socket", refuse)
    assert nftwatch.watch(book.log, None) is None
