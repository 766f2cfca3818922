# SPDX-License-Identifier: MIT-0
"""What the FORWARD chain of iptables-legacy does with packets that no rule decides about. nf_tables knows nothing of it.

The kernel makes a table, which costs each packet, when somebody first asks for it. So gwlbtun asks only for one that is there.
It reports no change, and tells a table only as a whole.
"""
import ctypes
import errno
import os
import shutil
import socket
import struct
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from .worker import breathing

# <linux/netfilter_ipv4/ip_tables.h>, <linux/netfilter_ipv6/ip6_tables.h>, <linux/netfilter/x_tables.h>
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32s13I")    # name, hooks, where each of five begins, where the policy of each is, rules, bytes
_HEAD = struct.Struct("=32sI4x")    # of the rules: name, bytes
_OFFSETS = struct.Struct("=HH")     # of a rule: to its target, to the next rule
_TARGET = struct.Struct("=H29sBi")  # size, name, revision, verdict
_FORWARD, _DROP, _ACCEPT = 2, -1, -2
_NAME = 16  # bytes of the name of an interface
_TABLE = b"filter"
BYTES_MOST = 16 << 20  # of a table: a larger one is not looked at

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getsockopt.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint))


class _Family(NamedTuple):
    """Where things are in its rules."""

    program: str
    tables: str        # the file that names its tables
    family: int
    level: int
    interface_at: int  # by which a packet comes; its mask is two names behind
    conditions: int    # bytes of addresses, interfaces and protocol
    offsets_at: int
    head: int          # bytes of a rule up to its matches


_FAMILIES = {family.program: family for family in (
    _Family("iptables", "ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 16, 84, 88, 112),
    _Family("ip6tables", "ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 64, 136, 140, 168))}


class Policy(NamedTuple):
    """The FORWARD chain of one family, which drops what no rule accepts."""

    program: str
    table: str = "filter"

    def __str__(self) -> str:
        return f"FORWARD of {self.program}-legacy"

    def acceptance(self, interfaces: str) -> str:
        """The command that lets pass what appears on interfaces, as nft writes them."""
        legacy = f"{self.program}-legacy"  # some systems have no other, and call it by the short name
        return (f"{legacy if shutil.which(legacy) else self.program} -I FORWARD "
                f"-i {interfaces.replace('*', '+')} -j ACCEPT")

    def accepts(self, interfaces: Iterable[str]) -> bool:
        """Whether rules let pass all that appears on each of the interfaces. Raises OSError."""
        family, left = _FAMILIES[self.program], {name.encode() for name in interfaces}
        rules, begin, end = _rules(family)
        for rule in breathing(_each(family, rules, begin, end)):
            accepted = _accepted(family, rule)
            if accepted:
                name, mask = accepted
                left = {own for own in left if (int.from_bytes(own.ljust(_NAME, b"\0"), "big") ^ name) & mask}
        return not left


def there() -> bool:
    """Whether the network namespace of the calling thread has any such table, as far as gwlbtun may know."""
    return any(map(_is_there, _FAMILIES.values()))


def dropping() -> Iterator[Policy]:
    """Raises OSError."""
    for family in filter(_is_there, _FAMILIES.values()):
        try:
            rules, _, end = _rules(family)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
        else:
            if _verdict(family, rules[end:]) == _DROP:
                yield Policy(family.program)


def _is_there(family: _Family) -> bool:
    try:
        with open(f"/proc/thread-self/net/{family.tables}", "rb") as file:
            return _TABLE in file.read().split()
    except OSError:  # no such tables, or only root may read their names
        return False


def _rules(family: _Family) -> Tuple[bytes, int, int]:
    """All rules; where the first of FORWARD is, and where its policy. Raises OSError."""
    with socket.socket(family.family, socket.SOCK_DGRAM) as asking:
        _, *numbers = _INFO.unpack(_ask(asking, family, _GET_INFO, _INFO.pack(_TABLE, *[0] * 13)))
        size = numbers[12]
        if size > BYTES_MOST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        rules = _ask(asking, family, _GET_ENTRIES, _HEAD.pack(_TABLE, size) + bytes(size))
    return rules[_HEAD.size:], numbers[1 + _FORWARD], numbers[6 + _FORWARD]


def _ask(asking: socket.socket, family: _Family, option: int, question: bytes) -> bytes:
    """socket.getsockopt() passes no question on, and no more than 1,024 bytes. Raises OSError."""
    answer = ctypes.create_string_buffer(question, len(question))
    if _libc.getsockopt(asking.fileno(), family.level, option, answer, ctypes.byref(ctypes.c_uint(len(question)))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer.raw


def _each(family: _Family, rules: bytes, at: int, end: int) -> Iterator[bytes]:
    while at < end:
        _, following = _OFFSETS.unpack_from(rules, at + family.offsets_at)
        yield rules[at:at + following]
        at += max(following, family.head)


def _accepted(family: _Family, rule: bytes) -> Optional[Tuple[int, int]]:
    """The name of the interface whose packets a rule accepts, all of them, and the mask of that name."""
    name_at, mask_at = family.interface_at, family.interface_at + 2 * _NAME
    name, mask = rule[name_at:name_at + _NAME], rule[mask_at:mask_at + _NAME]
    conditions = rule[:name_at] + rule[name_at + _NAME:mask_at] + rule[mask_at + _NAME:family.conditions]
    target_at, _ = _OFFSETS.unpack_from(rule, family.offsets_at)
    if any(conditions) or target_at != family.head or _verdict(family, rule) != _ACCEPT:
        return None
    return int.from_bytes(name, "big"), int.from_bytes(mask, "big")


def _verdict(family: _Family, rule: bytes) -> Optional[int]:
    """None: something that is not a plain verdict decides."""
    target_at, _ = _OFFSETS.unpack_from(rule, family.offsets_at)
    _, name, _, verdict = _TARGET.unpack_from(rule, target_at)
    return verdict if not name.rstrip(b"\0") else None
