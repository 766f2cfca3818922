# SPDX-License-Identifier: MIT-0
"""Whether the path in the kernel works on this host, found out by running the programs on packets that nobody sees."""
import contextlib
import errno
import os
import socket
import struct
from typing import Iterator, List, NamedTuple, Tuple

from . import bpf, layout, programs
from .maps import Maps

_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 12, 21, 38, 39  # <linux/capability.h>
_REDIRECT = 7                                          # TC_ACT_REDIRECT
_LOOPBACK = 1                                          # where packets of BPF_PROG_TEST_RUN come from, in every namespace
_ETHERNET = bytes.fromhex("000000000000" "020000000001" "0800")  # to the address of the loopback interface
_GWLB, _OWN, _GWLB_PORT, _ENI = "192.0.2.1", "192.0.2.2", 50_000, 0x1122334455667788
_IPV4 = struct.Struct("!BBHHHBBH4s4s")


class Finding(NamedTuple):
    """What probe() has found."""

    works: bool
    reason: str  # a clause for people, without a full stop: why it does not work; empty when it does
    ipv6: bool   # packets of IPv6 are carried as well
    tcx: bool    # programs are attached by links that vanish with the process


class _Fails(Exception):
    """The text is a reason."""


def probe() -> Finding:
    """Takes some milliseconds."""
    opened: List[int] = []
    maps = None
    try:
        maps = _maps()
        for name in programs.INGRESS, programs.EGRESS, programs.EGRESS_PROBE:
            opened.append(_load(name, maps))
        ingress, _, egress = opened
        _fill(maps)
        _try(maps, ingress, egress, 4)
        try:
            _try(maps, ingress, egress, 6)
            ipv6 = True
        except _Fails:
            ipv6 = False
        return Finding(True, "", ipv6, _has_tcx(ingress))
    except _Fails as failure:
        return Finding(False, str(failure), False, False)
    except OSError as error:
        return Finding(False, f"the kernel does not run a program on a packet ({error.strerror})", False, False)
    finally:
        for fd in opened:
            os.close(fd)
        if maps is not None:
            maps.close()


def _maps() -> Maps:
    try:
        return Maps(flows=2, slots=1)
    except OSError as error:
        raise _Fails(_refusal(error)) from None


def _load(name: str, maps: Maps) -> int:
    try:
        return programs.load(name, maps.fd)
    except bpf.Refused as error:
        if not _capable(_CAP_PERFMON, _CAP_SYS_ADMIN):
            raise _Fails("it takes the capability CAP_PERFMON, by which programs may do more with addresses") from None
        raise _Fails(f"the kernel does not take the program {name}: {(error.strerror or '').splitlines()[-1]}") from None
    except OSError as error:
        raise _Fails(_refusal(error)) from None


def _refusal(error: OSError) -> str:
    """Why bpf(2) fails altogether."""
    if error.errno == errno.ENOSYS:
        return "this kernel or machine has no system call bpf(2) (CONFIG_BPF_SYSCALL)"
    if error.errno == errno.EINVAL:
        return "the kernel does not know maps in shared memory, which came with Linux 5.5"
    if error.errno == errno.ENOENT:
        return "there is no /sys, which tells how many processors there may be"
    if error.errno != errno.EPERM:
        return f"the system call bpf(2) fails ({error.strerror})"
    if not _capable(_CAP_BPF, _CAP_SYS_ADMIN):
        return "it takes the capability CAP_BPF (before Linux 5.8, CAP_SYS_ADMIN)"
    if not _capable(_CAP_NET_ADMIN, _CAP_NET_ADMIN):
        return "it takes the capability CAP_NET_ADMIN"
    return ("something forbids the system call bpf(2): a filter of the container's runtime, a security module, or before "
            "Linux 5.11 the limit for locked memory (ulimit -l)")


def _capable(*any_of: int) -> bool:
    """Whether the calling thread has one of the capabilities in effect. Where that cannot be read, yes."""
    with contextlib.suppress(OSError, ValueError), open("/proc/thread-self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return any(int(line.split()[1], 16) >> number & 1 for number in any_of)
    return True


def _has_tcx(program: int) -> bool:
    with contextlib.suppress(OSError):
        os.close(bpf.link_create(program, _LOOPBACK, bpf.TCX_INGRESS))
        return True
    return False


# ---- Packets ---------------------------------------------------------------------------------------------------------


def _packets(version: int) -> Tuple[bytes, bytes, layout.Key]:
    """A Geneve header, a packet of UDP, and the key of its flow."""
    header = (struct.pack("!BBHI", 8, 0, 0x0800 if version == 4 else 0x86DD, 0) + struct.pack("!HBBQ", 0x0108, 1, 2, _ENI)
              + struct.pack("!HBBQ", 0x0108, 2, 2, 1) + struct.pack("!HBBI", 0x0108, 3, 1, 1))
    body = struct.pack("!HHHH", 1024, 1025, 8 + 16, 0) + b"tried, not sent."
    if version == 4:
        ends = [socket.inet_aton(f"198.51.100.{number}") for number in (1, 2)]
        packet = _ipv4(ends[0], ends[1], body)
    else:
        ends = [socket.inet_pton(socket.AF_INET6, f"2001:db8::{number}") for number in (1, 2)]
        packet = struct.pack("!IHBB16s16s", 6 << 28, len(body), socket.IPPROTO_UDP, 64, *ends) + body
    words = [struct.unpack("=QQ", end.ljust(16, b"\0")) for end in ends]
    last = 1024 << 16 | 1025 | socket.IPPROTO_UDP << 32 | version << 40
    key = layout.Key()
    key.word[:] = [*words[0], *words[1], last]
    return header, packet, key


def _ipv4(source: bytes, destination: bytes, body: bytes) -> bytes:
    fields = 0x45, 0, 20 + len(body), 0, 0x4000, 64, socket.IPPROTO_UDP
    words = struct.unpack("!10H", _IPV4.pack(*fields, 0, source, destination))
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    return _IPV4.pack(*fields, 0xFFFF - (total & 0xFFFF) - (total >> 16), source, destination) + body


def _outer(source: str, destination: str, header: bytes, packet: bytes) -> bytes:
    body = struct.pack("!HHHH", _GWLB_PORT, 6081, 8 + len(header) + len(packet), 0) + header + packet
    return _ETHERNET + _ipv4(socket.inet_aton(source), socket.inet_aton(destination), body)


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


def _fill(maps: Maps) -> None:
    """One endpoint, one link, and a flow of each version that is in the kernel already. Raises OSError."""
    maps.globals.on = 1
    endpoint, link = maps.endpoints[0], maps.links[0]
    endpoint.eni, endpoint.gwi, endpoint.life, endpoint.on = int.from_bytes(_ENI.to_bytes(8, "big"), "little"), 1, 1, 1
    link.gwlb_address, link.own_address = _number(_GWLB), _number(_OWN)
    link.ifindex, link.mtu, link.valid = _LOOPBACK, 1500, 1
    link.ethernet[:] = _ETHERNET
    maps.set_eni(_ENI, 0)
    maps.set_interface(_LOOPBACK, 0, 1)
    for version in 4, 6:
        header, _, key = _packets(version)
        flow = layout.Flow(gwlb_address=_number(_GWLB), own_address=_number(_OWN), gwlb_port=socket.htons(_GWLB_PORT), life=1)
        flow.header[:] = header
        flow.way[layout.WAY_IN].kernel = flow.way[layout.WAY_OUT].kernel = 1
        maps.set_flow(bytes(key), flow)


def _try(maps: Maps, ingress: int, egress: int, version: int) -> None:
    """Raises _Fails, or OSError."""
    header, packet, _ = _packets(version)
    for name, program, given, expected in _trials(header, packet, version, ingress, egress):
        run = bpf.program_run(program, given)
        if run.result != _REDIRECT or run.packet != expected:
            raise _Fails(f"the program {name} does not do to a packet of IPv{version} what it should")


def _trials(header: bytes, packet: bytes, version: int, ingress: int, egress: int) -> Iterator[Tuple[str, int, bytes, bytes]]:
    """The name of a program, the program, and a packet before and after it."""
    kind = struct.pack("!H", 0x0800 if version == 4 else 0x86DD)
    yield "ingress", ingress, _outer(_GWLB, _OWN, header, packet), _ETHERNET + packet
    # Such runs demand a link header, which gwo's packets have not.  The program leaves room for it.
    yield "egress", egress, _ETHERNET[:12] + kind + packet, bytes(14) + _outer(_OWN, _GWLB, header, packet)
