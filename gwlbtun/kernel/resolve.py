# SPDX-License-Identifier: MIT-0
"""How a packet of ours gets to the load balancer: by which interface, with which Ethernet header, and how large it may be.

The kernel is asked for the route as it is asked for each datagram that a T thread sends, with our own address as the source, so
that rules by source address count. Whatever is not plain Ethernet with a neighbour that is known has a reason, and is no way
for the programs.
"""
import errno
import socket
import struct
from typing import Dict, List, NamedTuple, Optional, Tuple

from .. import netlink, rtnetlink
from ..geneve import PORT
from . import ipsec

# <linux/rtnetlink.h>, <linux/neighbour.h>, <linux/if_link.h>, <linux/if_arp.h>, <linux/if.h>
RTM_NEWLINK, RTM_DELLINK, RTM_NEWNEIGH, RTM_DELNEIGH = 16, 17, 28, 29
_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH = 22, 26, 30
_ROUTE, _NEIGHBOUR = struct.Struct("=8BI"), struct.Struct("=B3xiHBB")
_ADDRESS, _RT_SCOPE_UNIVERSE = struct.Struct("=B2xBI"), 0  # family, scope, interface
_NUMBER = struct.Struct("=I")
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_MULTIPATH, _RTA_VIA, _RTA_ENCAP = 1, 2, 4, 5, 8, 9, 18, 22
_RTA_IP_PROTO, _RTA_DPORT, _RTA_NH_ID = 27, 29, 30
_RTAX_MTU, _RTN_UNICAST, _RTM_F_FIB_MATCH = 2, 1, 0x2000
_NDA_DST, _NDA_LLADDR, _NTF_USE = 1, 2, 0x01
_PERMANENT = 0x80
_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | _PERMANENT  # reachable, stale, delay, probe
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_ARPHRD_ETHER, _IFF_UP, _IFF_NOARP, _IFF_LOWER_UP = 1, 0x1, 0x80, 0x10000
_IPV4 = b"\x08\x00"

Neighbour = Tuple[int, bytes]  # the index of the interface, and the address


class Way(NamedTuple):
    """What is known of a way."""

    reason: str = ""  # why the programs cannot take it; empty: they can
    lasting: bool = False  # the reason lies in the kind of interface or route: it is to be told
    interface: int = 0  # its index
    name: str = ""
    mtu: int = 0
    ethernet: bytes = bytes(14)
    neighbour: Optional[Neighbour] = None


class Interface(NamedTuple):
    kind: int
    flags: int
    name: str
    mtu: int
    address: bytes


class Resolver:
    """Asks the kernel. What it says of interfaces and policies counts for all questions until forget()."""

    def __init__(self) -> None:
        self._interfaces: Dict[int, Interface] = {}
        self._policies: Optional[List[ipsec.Policy]] = None

    def forget(self) -> None:
        self._interfaces.clear()
        self._policies = None

    def way(self, own: bytes, gwlb: bytes) -> Way:
        """Raises no OSError: a kernel that does not answer is a reason, too."""
        try:
            return self._way(own, gwlb)
        except OSError as error:
            return Way(f"the kernel does not tell the route ({error.strerror})")

    def _way(self, own: bytes, gwlb: bytes) -> Way:
        route, found = _route(own, gwlb, 0)
        if route is None:
            return Way("there is no route")
        if route[7] != _RTN_UNICAST or _RTA_OIF not in found:
            return Way("it is an address of this host" if route[7] == 2 else "the route leads nowhere")
        entry = _route(own, gwlb, _RTM_F_FIB_MATCH)[1]
        # With net.ipv4.nexthop_compat_mode=0 the kernel tells the number of a nexthop alone, which may be a group.
        if _RTA_MULTIPATH in entry or _RTA_NH_ID in entry and _RTA_OIF not in entry:
            return Way("the route has several next hops", True)
        if _RTA_ENCAP in found or _RTA_VIA in found or len(found.get(_RTA_GATEWAY, bytes(4))) != 4:
            return Way("the route encapsulates, or has a next hop by IPv6", True)
        index = _number(found[_RTA_OIF])
        interface = self._interface(index)
        if interface.kind != _ARPHRD_ETHER or interface.flags & _IFF_NOARP or len(interface.address) != 6:
            return Way(f"{interface.name} is no Ethernet interface", True, index, interface.name)
        if not interface.flags & _IFF_UP or not interface.flags & _IFF_LOWER_UP:
            return Way(f"{interface.name} is down", False, index, interface.name)
        if self._wants_ipsec(own, gwlb, index):
            return Way("a policy of IPsec is for it", True, index, interface.name)
        metrics = dict(netlink.attributes(found.get(_RTA_METRICS, b"")))
        mtu = min(interface.mtu, _number(metrics[_RTAX_MTU]) if _RTAX_MTU in metrics else interface.mtu)
        neighbour = index, found.get(_RTA_GATEWAY, gwlb)
        address = _address_of(neighbour)
        if not address:
            return Way(f"the Ethernet address of {socket.inet_ntoa(neighbour[1])} is not known", False, index, interface.name,
                       neighbour=neighbour)
        return Way("", False, index, interface.name, mtu, address + interface.address + _IPV4, neighbour)

    def _wants_ipsec(self, own: bytes, gwlb: bytes, index: int) -> bool:
        if self._policies is None:
            self._policies = ipsec.policies()
        return next((not policy.plain for policy in self._policies if policy.is_for(own, gwlb, index)), False)

    def _interface(self, index: int) -> Interface:
        known = self._interfaces.get(index)
        if not known:
            known = self._interfaces[index] = interface_at(index)
        return known


def only_interface() -> List[str]:
    """The Ethernet interface of a host that has just one with IPv4 addresses."""
    try:
        answers = rtnetlink.ask(_RTM_GETADDR, netlink.NLM_F_DUMP, _ADDRESS.pack(socket.AF_INET, 0, 0))
        indices = {index for _, scope, index in map(_ADDRESS.unpack_from, answers) if scope == _RT_SCOPE_UNIVERSE}
        found = [interface_at(index) for index in indices]
    except OSError:
        return []
    return [only.name for only in found if len(found) == 1 and only.kind == _ARPHRD_ETHER]


def interface_at(index: int) -> Interface:
    """Raises OSError."""
    kind, flags, found = rtnetlink.link(index)
    return Interface(kind, flags, found[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace"), _number(found[_IFLA_MTU]),
                     found.get(_IFLA_ADDRESS, b""))


def _route(own: bytes, gwlb: bytes, flags: int) -> Tuple[Optional[Tuple[int, ...]], Dict[int, bytes]]:
    """The route that a datagram of ours takes, or with RTM_F_FIB_MATCH the entry that it comes from. None: there is none."""
    body = (_ROUTE.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, flags) + netlink.attribute(_RTA_DST, gwlb)
            + netlink.attribute(_RTA_SRC, own) + netlink.attribute(_RTA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
            + netlink.attribute(_RTA_DPORT, struct.pack("!H", PORT)))
    try:
        answer = rtnetlink.ask(_RTM_GETROUTE, 0, body)[0]
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.ESRCH):
            return None, {}
        raise
    return _ROUTE.unpack_from(answer), dict(netlink.attributes(answer[_ROUTE.size:]))


def _address_of(neighbour: Neighbour) -> bytes:
    """Its Ethernet address; empty when it is not known, or not certain."""
    state, address = _entry(neighbour)
    return address if state & _USABLE and len(address) == 6 and not address[0] & 1 and any(address) else b""


def _entry(neighbour: Neighbour) -> Tuple[int, bytes]:
    """State and Ethernet address in the neighbour table."""
    try:
        answer = rtnetlink.ask(_RTM_GETNEIGH, 0, _about(neighbour, 0))[0]
    except OSError as error:
        if error.errno == errno.ENOENT:
            return 0, b""
        raise
    _, _, state, *_ = _NEIGHBOUR.unpack_from(answer)
    return state, dict(netlink.attributes(answer[_NEIGHBOUR.size:])).get(_NDA_LLADDR, b"")


def freshen(neighbour: Neighbour) -> None:
    """Has the kernel find the neighbour's address, or see whether it still holds, as if a packet were sent to it.

    NTF_USE would make a permanent entry one that the kernel changes (since Linux 5.16). There is nothing to see there.
    """
    try:
        if _entry(neighbour)[0] & _PERMANENT:
            return
        rtnetlink.ask(RTM_NEWNEIGH, netlink.NLM_F_CREATE, _about(neighbour, _NTF_USE))
    except OSError:  # the interface is gone, or down: the link is not valid then
        pass


def _about(neighbour: Neighbour, flags: int) -> bytes:
    index, address = neighbour
    return _NEIGHBOUR.pack(socket.AF_INET, index, 0, flags, 0) + netlink.attribute(_NDA_DST, address)


def neighbours_in(data: bytes) -> Tuple[List[Neighbour], bool]:
    """The neighbours that reports of the kernel are about, and whether there are reports about anything else."""
    found, others = [], False
    for kind, _, body in netlink.messages(data):
        if kind not in (RTM_NEWNEIGH, RTM_DELNEIGH) or len(body) < _NEIGHBOUR.size:
            others = True
            continue
        family, index, *_ = _NEIGHBOUR.unpack_from(body)
        if family == socket.AF_INET:
            found.append((index, dict(netlink.attributes(body[_NEIGHBOUR.size:])).get(_NDA_DST, b"")))
    return found, others


def _number(value: bytes) -> int:
    number: int = _NUMBER.unpack_from(value)[0]
    return number
