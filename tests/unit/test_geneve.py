# SPDX-License-Identifier: MIT-0
"""The Geneve codec against bytes written out by hand."""
import random
import struct

import pytest

from gwlbtun import geneve
from gwlbtun.geneve import GeneveError, Header, Option, gwlb_header, parse

ENI = 0x0123456789AB0000
ATTACHMENT = 0x1122334455667788
COOKIE = 0xDEADBEEF

HEADER = bytes.fromhex(
    "08 00 08 00 00 00 00 00"
    "01 08 01 02 01 23 45 67 89 ab 00 00"
    "01 08 02 02 11 22 33 44 55 66 77 88"
    "01 08 03 01 de ad be ef")
IPV4 = bytes.fromhex("45 00 00 1c 00 01 40 00 40 11 00 00 0a 00 00 01 0a 00 00 02 00 01 00 02 00 08 00 00")
IPV6 = bytes.fromhex("60 00 00 00 00 08 11 40") + bytes(15) + b"\1" + bytes(15) + b"\2" + IPV4[20:]


def edited(offset, value, data=HEADER + IPV4):
    return data[:offset] + bytes([value]) + data[offset + 1:]


def with_options(options, protocol=0x0800, inner=IPV4):
    return struct.pack("!BBHI", len(options) // 4, 0, protocol, 0) + options + inner


def test_header_of_gwlb_is_40_bytes_as_it_sends_them():
    header = gwlb_header(ENI, ATTACHMENT, COOKIE)
    assert header.pack() == HEADER
    assert header.size == len(HEADER) == 40
    assert parse(HEADER + IPV4) == header
    assert (header.eni, header.attachment, header.cookie) == (ENI, ATTACHMENT, COOKIE)
    assert gwlb_header(ENI, ATTACHMENT, COOKIE, geneve.PROTOCOL_IPV6).pack()[2:4] == b"\x86\xdd"


def test_text_names_what_a_person_looks_for():
    text = str(parse(with_options(HEADER[8:] + b"\x0f\xff\x07\x01abcd")))
    assert text == ("Geneve IPv4, eni 0123456789ab0000, attachment 1122334455667788, cookie deadbeef, "
                    "option 0x0fff/0x07 61626364")


def test_foreign_options_are_carried_along():
    foreign = Option(0x0167, 1, b"12345678"), Option(0xFFFF, 0x7F)
    header = gwlb_header(ENI, ATTACHMENT, COOKIE, extra_options=foreign)
    assert parse(header.pack() + IPV4).options[3:] == foreign
    assert header.size == 40 + 12 + 4


def test_options_may_come_in_any_order_and_the_first_of_two_counts():
    second = Option(geneve.AWS, 3, b"\0\0\0\1")
    options = gwlb_header(ENI, ATTACHMENT, COOKIE).options
    header = parse(Header(0x0800, options[::-1] + (second,)).pack() + IPV4)
    assert (header.eni, header.attachment, header.cookie) == (ENI, ATTACHMENT, COOKIE)


def test_every_bit_survives_a_round_trip():
    wire = bytearray(HEADER + IPV4)
    wire[1] = 0x7F          # the C bit and all reserved flags
    wire[4:8] = b"\xab\xcd\xef\x12"
    wire[8 + 3] |= 0xE0     # an option's reserved bits
    header = parse(bytes(wire))
    assert header.pack() == wire[:40]
    assert (header.critical, header.vni, header.reserved, header.options[0].reserved) == (True, 0xABCDEF, 0x12, 7)


def test_padding_after_the_inner_packet_is_no_error():
    assert geneve.check_inner(IPV4 + bytes(18), 4) == len(IPV4)
    parse(HEADER + IPV4 + bytes(18))


@pytest.mark.parametrize("reason, payload", [
    ("drop_header_short", b""),
    ("drop_header_short", HEADER[:7]),
    ("drop_version", edited(0, 0x4A)),
    ("drop_version", edited(0, 0xCA)),
    ("drop_options_length", HEADER[:39]),
    ("drop_options_length", edited(0, 0x3F)),
    ("drop_control", edited(1, 0x80)),
    ("drop_protocol", edited(2, 0x65)),
    ("drop_protocol", edited(3, 0x06)),
    ("drop_option_overrun", edited(11, 31)),
    ("drop_option_overrun", with_options(HEADER[8:-4])),
    ("drop_option_size", with_options(b"\x01\x08\x01\x01\0\0\0\1" + HEADER[20:])),
    ("drop_option_size", with_options(HEADER[8:32] + b"\x01\x08\x03\x00")),
    ("drop_critical_option", with_options(HEADER[8:] + b"\x0f\xff\x80\x00")),
    ("drop_critical_option", with_options(HEADER[8:] + b"\x01\x08\x81\x02" + bytes(8))),
    ("drop_no_eni", with_options(b"")),
    ("drop_no_eni", with_options(HEADER[20:])),
    ("drop_no_attachment", with_options(HEADER[8:20] + HEADER[32:])),
    ("drop_no_cookie", with_options(HEADER[8:32])),
    ("drop_inner_truncated", HEADER),
    ("drop_inner_truncated", HEADER + IPV4[:1]),
    ("drop_inner_truncated", HEADER + IPV4[:19]),
    ("drop_inner_truncated", HEADER + IPV4[:-1]),
    ("drop_inner_mismatch", HEADER + IPV6),
    ("drop_inner_mismatch", with_options(HEADER[8:], 0x86DD, IPV4 + bytes(20))),
    ("drop_inner_mismatch", edited(40, 0x44)),
    ("drop_inner_mismatch", edited(43, 19)),
    ("drop_inner_truncated", with_options(HEADER[8:], 0x86DD, IPV6[:39])),
    ("drop_inner_truncated", with_options(HEADER[8:], 0x86DD, IPV6[:-1])),
])
def test_refused_with_its_own_reason(reason, payload):
    with pytest.raises(GeneveError) as error:
        parse(payload)
    assert error.value.reason == reason


@pytest.mark.parametrize("reason, payload", [
    ("drop_version", edited(0, 0x7F, edited(1, 0x80))),
    ("drop_options_length", edited(0, 0x3F, edited(1, 0x80))),
    ("drop_control", edited(1, 0x80, edited(2, 0))),
    ("drop_protocol", edited(2, 0, edited(11, 31))),
    ("drop_option_overrun", with_options(b"\x0f\xff\x80\x01")),
    ("drop_critical_option", with_options(b"\x0f\xff\x80\x00")),
    ("drop_no_eni", with_options(b"\x0f\xff\x00\x00", inner=b"")),
    ("drop_no_cookie", with_options(HEADER[8:32], inner=b"")),
])
def test_the_outermost_fault_is_the_one_named(reason, payload):
    with pytest.raises(GeneveError) as error:
        parse(payload)
    assert error.value.reason == reason


def test_noise_is_refused_or_survives_a_round_trip():
    rng = random.Random(1)
    parsed = 0
    for _ in range(20000):
        wire = bytearray(HEADER + IPV4)
        for _ in range(rng.randrange(4)):
            wire[rng.randrange(44)] = rng.randrange(256)
        try:
            header = parse(bytes(wire))
        except GeneveError as error:
            assert error.reason.startswith("drop_")
        else:
            parsed += 1
            assert header.pack() == wire[:header.size]
    assert parsed > 5000


@pytest.mark.parametrize("option", [Option(1, 1, b"123"), Option(1, 1, bytes(128))])
def test_an_option_that_cannot_be_written_is_refused(option):
    with pytest.raises(ValueError):
        option.pack()


def test_more_options_than_the_length_can_say_are_refused():
    with pytest.raises(ValueError):
        gwlb_header(1, 2, 3, extra_options=[Option(1, 1, bytes(124))] * 2).pack()
