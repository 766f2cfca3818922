# SPDX-License-Identifier: MIT-0
"""Checksums (native/checksum.c), against packets.py."""
import ctypes
import random
import struct

import pytest

import packets
from offload import offload_fixture  # noqa: F401  # a fixture
from superpackets import each_kind, make


def test_sum_is_the_internet_checksum_at_any_length_and_alignment(offload):
    rng = random.Random(1)
    for length in [*range(0, 300), 1499, 1500, 8499, 8500, 65535]:
        data = rng.randbytes(length)
        for shift in range(0, 4):
            memory = (ctypes.c_char * (length + shift)).from_buffer_copy(bytes(shift) + data)
            total = offload.library.gw_sum(ctypes.addressof(memory) + shift, length, 0)
            folded = struct.pack("=H", offload.library.gw_fold(total) ^ 0xFFFF)
            assert int.from_bytes(folded, "big") == packets.checksum(data), (length, shift)
            out = ctypes.create_string_buffer(b"\xa5" * (length + 1), length + 1)
            copied = offload.library.gw_sum_copy(out, ctypes.addressof(memory) + shift, length, 0)
            assert offload.library.gw_fold(copied) == offload.library.gw_fold(total)
            assert out.raw == data + b"\xa5"


def test_sum_may_be_taken_in_pieces_of_even_length(offload):
    rng = random.Random(2)
    for _ in range(200):
        data = rng.randbytes(rng.randrange(2000))
        cut = rng.randrange(len(data) + 1) & ~1
        assert offload.checksum(data[:cut], data[cut:]) == packets.checksum(data)


@pytest.mark.parametrize("byte", [0x00, 0xFF], ids=["zeros", "ones"])
def test_sum_of_extremes(offload, byte):
    for length in (0, 1, 2, 7, 8, 20, 64, 65, 128, 65535):
        data = bytes([byte]) * length
        assert offload.checksum(data) == packets.checksum(data)


def test_sum_keeps_every_carry(offload):
    ones = 2 ** 64 - 1
    for length in (2, 4, 8, 16, 64, 72):
        total = offload.library.gw_sum(b"\xff" * length, length, ones)
        assert offload.library.gw_fold(total) == 0xFFFF
    one = offload.library.gw_sum(struct.pack("=H", 1), 2, ones)
    assert offload.library.gw_fold(one) == 1


@pytest.mark.parametrize("value, folded", [(0, 0), (1, 1), (0xFFFF, 0xFFFF), (0x10000, 1), (2 ** 64 - 1, 0xFFFF),
                                           (0xFFFF0001FFFFFFFF, 1), (0x0001000100010001, 4)])
def test_fold(offload, value, folded):
    assert offload.library.gw_fold(value) == folded


@each_kind
def test_pseudo_header(offload, version, protocol):
    for length in (8, 1500, 65535):
        packet = make(version, protocol, b"x")
        parsed = packets.parse(packet)
        expected = packets.checksum(packets.pseudo_header(version, parsed.source, parsed.destination, protocol, length))
        folded = offload.library.gw_fold(offload.library.gw_pseudo_sum(packet, protocol, length))
        assert int.from_bytes(struct.pack("=H", folded ^ 0xFFFF), "big") == expected
