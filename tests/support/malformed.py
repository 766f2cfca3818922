# SPDX-License-Identifier: MIT-0
"""Payloads that are wrong, each with the reason for which it is dropped."""
import struct

import packets
from gwlbtun import geneve
from gwlbtun.geneve import AWS, Option
from lab import CLIENT, ENI, SERVER

GOOD = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"good")
GOOD6 = packets.udp(CLIENT[1], SERVER[1], 1, 2, b"good")
HEADER = geneve.gwlb_header(ENI, 1, 2).pack()
HEADER6 = geneve.gwlb_header(ENI, 1, 2, geneve.PROTOCOL_IPV6).pack()
OPTIONS = geneve.gwlb_header(ENI, 1, 2).options


def edited(data, offset, value):
    return data[:offset] + bytes([value]) + data[offset + 1:]


def with_options(*options, inner=GOOD):
    return geneve.Header(geneve.PROTOCOL_IPV4, options).pack() + inner


def cut_options(size):
    """A header that says it has size bytes of options, and has them."""
    return struct.pack("!BBHI", size // 4, 0, 0x0800, 0) + HEADER[8:8 + size] + GOOD


MALFORMED = [
    ("header_short", b""),
    ("header_short", b"\0"),
    ("header_short", HEADER[:7]),
    ("version", edited(HEADER + GOOD, 0, 0x4A)),
    ("version", edited(HEADER + GOOD, 0, 0xFF)),
    ("options_length", edited(HEADER + GOOD, 0, 0x3F)),
    ("options_length", HEADER[:8]),
    ("options_length", HEADER[:39]),
    ("control", edited(HEADER + GOOD, 1, 0x80)),
    ("protocol", edited(HEADER + GOOD, 2, 0x65)),
    ("protocol", edited(HEADER + GOOD, 3, 0x06)),
    ("option_overrun", edited(HEADER + GOOD, 8 + 3, 31)),
    ("option_overrun", cut_options(28)),
    ("option_size", with_options(Option(AWS, 1, bytes(4)), *OPTIONS[1:])),
    ("option_size", with_options(*OPTIONS[:2], Option(AWS, 3, bytes(8)))),
    ("option_size", with_options(*OPTIONS, Option(AWS, 2))),
    ("critical_option", with_options(*OPTIONS, Option(0x0FFF, 0x80))),
    ("critical_option", with_options(*OPTIONS, Option(AWS, 0x81, bytes(8)))),
    ("no_eni", with_options()),
    ("no_eni", with_options(*OPTIONS[1:])),
    ("no_attachment", with_options(OPTIONS[0], OPTIONS[2])),
    ("no_cookie", with_options(*OPTIONS[:2])),
    ("inner_truncated", HEADER),
    ("inner_truncated", HEADER + GOOD[:1]),
    ("inner_truncated", HEADER + GOOD[:19]),
    ("inner_truncated", HEADER + GOOD[:-1]),
    ("inner_truncated", HEADER6),
    ("inner_truncated", HEADER6 + GOOD6[:1]),
    ("inner_truncated", HEADER6 + GOOD6[:-1]),
    ("inner_mismatch", HEADER + GOOD6),
    ("inner_mismatch", HEADER6 + GOOD + bytes(40)),
    ("inner_mismatch", HEADER + b"\x44" + GOOD[1:]),
    ("inner_mismatch", HEADER + edited(GOOD, 3, 19)),
    ("inner_mismatch", HEADER + bytes(40)),
]
