# SPDX-License-Identifier: MIT-0
"""What decides whether Linux forwards a packet that appears on gwi: settings of the network, and chains that drop by policy.

xtables.py is about the chains of iptables-legacy, which are not in nf_tables.
"""
import shlex
import struct
from typing import Dict, Iterable, Iterator, NamedTuple, Optional

from . import netlink, nfnetlink
from .worker import breathing

RP_FILTER = "net.ipv4.conf.all.rp_filter"
IPV4, IPV6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"

_FAMILIES = {nfnetlink.NFPROTO_INET: "inet", nfnetlink.NFPROTO_IPV4: "ip", nfnetlink.NFPROTO_IPV6: "ip6"}
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5  # enum nft_chain_attributes
_HOOK_NUMBER = 1
_NF_INET_FORWARD, _NF_DROP, _NF_ACCEPT = 2, 0, 1
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_META_KEY, _META_IIFNAME = 2, 6
_CMP_OP, _CMP_DATA, _CMP_EQ = 2, 3, 0
_IMMEDIATE_DATA = 2
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE = 1, 2, 1
_NUMBER = struct.Struct("!I")

Attributes = Dict[int, bytes]


def setting(name: str) -> Optional[int]:
    """The value of a sysctl where the calling thread is, or None when there is none."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


class Chain(NamedTuple):
    """A base chain of nf_tables; those of iptables-nft are such, too."""

    family: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"

    def acceptance(self, interfaces: str = "gwi-*") -> str:
        """The command that lets pass what appears on interfaces."""
        return f"nft insert rule {' '.join(map(shlex.quote, self))} iifname '{interfaces}' accept"

    def accepts(self, interfaces: Iterable[str]) -> bool:
        """Whether rules of its own let pass all that appears on each of the interfaces. Raises OSError."""
        family, = (number for number, name in _FAMILIES.items() if name == self.family)
        left = {name.encode() for name in interfaces}
        for _, data in breathing(nfnetlink.dump(nfnetlink.GETRULE, family, nfnetlink.text_attribute(_RULE_TABLE, self.table)
                                                + nfnetlink.text_attribute(_RULE_CHAIN, self.name))):
            name = _accepted(_attributes(data))
            if name is not None:
                left = {own for own in left if not (own + b"\0").startswith(name)}
        return not left


def dropping_chains() -> Iterator[Chain]:
    """Those that forwarded packets pass, and that drop what no rule accepts. Raises OSError.

    The kernel tells the chains without their rules, so it does not matter how many rules there are.
    """
    for family, data in breathing(nfnetlink.dump(nfnetlink.GETCHAIN)):
        found = _attributes(data) if family in _FAMILIES else {}
        if _CHAIN_HOOK not in found or _number(found.get(_CHAIN_POLICY)) != _NF_DROP:
            continue
        if _number(_attributes(found[_CHAIN_HOOK]).get(_HOOK_NUMBER)) == _NF_INET_FORWARD:
            yield Chain(_FAMILIES[family], *(nfnetlink.text_of(found.get(key, b"")) for key in (_CHAIN_TABLE, _CHAIN_NAME)))


def _accepted(rule: Attributes) -> Optional[bytes]:
    """What the names of interfaces begin with, whose packets a rule accepts, all of them. An end of the name is part of it."""
    name, verdict, reads_name = b"", None, False
    for _, expression in netlink.attributes(rule.get(_RULE_EXPRESSIONS, b"")):
        found = _attributes(expression)
        kind, data = found.get(_EXPRESSION_NAME, b"").rstrip(b"\0"), _attributes(found.get(_EXPRESSION_DATA))
        if kind == b"meta" and _number(data.get(_META_KEY)) == _META_IIFNAME and not reads_name:
            reads_name = True
        elif kind == b"cmp" and _number(data.get(_CMP_OP)) == _CMP_EQ and reads_name and not name:
            value = _attributes(data.get(_CMP_DATA)).get(_DATA_VALUE, b"")
            name = value.rstrip(b"\0") + b"\0" * value.endswith(b"\0")
        elif kind == b"immediate":
            verdict = _number(_attributes(_attributes(data.get(_IMMEDIATE_DATA)).get(_DATA_VERDICT)).get(_VERDICT_CODE))
        elif kind != b"counter":
            return None
    return name if verdict == _NF_ACCEPT else None


def _attributes(value: Optional[bytes]) -> Attributes:
    return dict(netlink.attributes(value or b""))


def _number(value: Optional[bytes]) -> Optional[int]:
    return _NUMBER.unpack(value)[0] if value and len(value) == _NUMBER.size else None
