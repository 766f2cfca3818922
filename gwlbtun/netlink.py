# SPDX-License-Identifier: MIT-0
"""Netlink (netlink(7)): its messages and attributes, whatever they are about, and sockets that hear of changes."""
import contextlib
import errno
import socket
import struct
from typing import Iterable, Iterator, Optional, Tuple

ROOM = 4 << 20    # bytes of reports that the kernel keeps for a listener; it takes memory for those only that are there
HELD = 1 << 14    # reports that there is room for
_BYTES = 1 << 16  # of a datagram

# <linux/netlink.h>
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_CREATE = 0x4, 0x8, 0x10, 0x300, 0x100, 0x400
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
_NLM_F_REQUEST = 0x1
_NLA_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")    # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")    # length, type
_ERROR = struct.Struct("=i")


def request(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body


def messages(data: bytes) -> Iterator[Tuple[int, int, bytes]]:
    """The type, the flags and the body of each message in a datagram. That of the last may have been cut short."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, data[at + _HEADER.size:at + length]
        at += length + -length % 4


def error_of(body: bytes) -> int:
    """The error number that a message of NLMSG_ERROR or NLMSG_DONE brings; 0 where all went well."""
    return -int(_ERROR.unpack_from(body)[0]) if len(body) >= _ERROR.size else 0


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """The type and the value of each attribute, up to one that is malformed."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[_ATTRIBUTE.size:length]
        data = data[length + -length % 4:]


def listen(protocol: int, groups: Iterable[int]) -> socket.socket:
    """A non-blocking socket that becomes readable when the kernel reports to one of the groups. Raises OSError."""
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        with contextlib.suppress(OSError):  # without CAP_NET_ADMIN on the host, the default has to do
            listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, ROOM)
        listener.bind((0, 0))
        for group in groups:
            join(listener, group)
        return listener
    except OSError:
        listener.close()
        raise


def join(listener: socket.socket, group: int) -> None:
    """Hears of the changes of another group as well. Raises OSError."""
    listener.setsockopt(SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)


def reports(listener: socket.socket, most: int) -> Iterator[Optional[bytes]]:
    """The datagrams from the kernel that wait, about so many at most.

    None, as the last, tells that there was no room for others after these: whatever they may be about has to be read afresh.
    """
    lost, left = False, most
    while left:
        left -= 1
        try:
            data, (port, _) = listener.recvfrom(_BYTES)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return
            # All that waits is older than what was lost. The kernel adds nothing until it has been taken.
            lost, left = True, max(left, HELD)
            continue
        if port == 0:  # the kernel
            yield data
    if lost:
        yield None
