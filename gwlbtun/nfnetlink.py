# SPDX-License-Identifier: MIT-0
"""Messages of nfnetlink, by which nf_tables reports and answers (netlink(7), <linux/netfilter/nf_tables.h>)."""
import errno
import os
import socket
import struct
from typing import Iterator, Tuple

from . import netlink

ANSWER_S = 0.1  # for the kernel to say something; it answers at once

# <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, _, GETRULE = (10 << 8 | message for message in range(8))
FAMILY = struct.Struct("=BBH")  # nfgenmsg


def text_of(value: bytes) -> str:
    """A name, for people: the kernel takes any bytes as one."""
    text = value.rstrip(b"\0").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def text_attribute(kind: int, text: str) -> bytes:
    return netlink.attribute(kind, text.encode() + b"\0")


def exists(kind: int, family: int, body: bytes) -> bool:
    """Whether the kernel knows what a GET request of this kind asks for. Raises OSError, also when it does not answer."""
    with _asking() as asking:
        asking.sendto(_request(kind, 0, family, body), (0, 0))
        for kind_of_answer, _, answer in netlink.messages(asking.recv(65536)):
            if kind_of_answer == netlink.NLMSG_ERROR:
                return netlink.error_of(answer) != errno.ENOENT
    return True


def dump(kind: int, family: int = 0, body: bytes = b"") -> Iterator[Tuple[int, bytes]]:
    """The family of each object that a GET request of this kind finds, and its attributes. Raises OSError."""
    with _asking() as asking:
        asking.sendto(_request(kind, netlink.NLM_F_DUMP, family, body), (0, 0))
        while True:
            for answer, flags, body in netlink.messages(asking.recv(65536)):
                if flags & netlink.NLM_F_DUMP_INTR:
                    raise OSError(errno.EINTR, os.strerror(errno.EINTR))  # something changed meanwhile, and may be missing
                if answer == netlink.NLMSG_DONE:
                    return
                if answer == netlink.NLMSG_ERROR:
                    error = netlink.error_of(body)
                    raise OSError(error, os.strerror(error))
                yield body[0], body[FAMILY.size:]


def _asking() -> socket.socket:
    asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    asking.settimeout(ANSWER_S)
    return asking


def _request(kind: int, flags: int, family: int, body: bytes) -> bytes:
    return netlink.request(kind, flags, FAMILY.pack(family, 0, 0) + body)
