# SPDX-License-Identifier: MIT-0
"""The programs in the kernel with maps of their own, and nobody else: packets that nobody sees, and what becomes of them."""
import contextlib
import ctypes
import mmap
import os
import socket
import struct
from pathlib import Path
from typing import Optional, Tuple

import packets
from gwlbtun import geneve
from gwlbtun.kernel import bpf, layout, programs
from gwlbtun.kernel.maps import Maps

GWLB, OWN, GWLB_PORT = "192.0.2.1", "192.0.2.10", 51234
ENI, ATTACHMENT, COOKIE = 0x0123456789ABCDEF, 0x1122334455667788, 0xCAFEF00D
SLOT, LIFE, RECEIVER, LINK = 3, 7, 5, 9
GWI, GWO = 0, 1
UP, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7  # verdicts
LOOPBACK = 1                           # where packets of BPF_PROG_TEST_RUN come from
TO_LOOPBACK = bytes(6) + bytes.fromhex("02aabbccddee") + b"\x08\x00"
OUT = bytes.fromhex("02000000000a" "02000000000b" "0800")  # the Ethernet header of the link
CONTEXT = 192                          # bytes of struct __sk_buff that are given and returned

CLIENT, SERVER = ("10.0.1.2", "2001:db8:1::2"), ("10.0.2.2", "2001:db8:2::2")


def number(address: str) -> int:
    """An IPv4 address as it lies in memory."""
    return int.from_bytes(socket.inet_aton(address), "little")


def header(version: int, cookie: int = COOKIE, eni: int = ENI, **more) -> bytes:
    protocol = geneve.PROTOCOL_IPV4 if version == 4 else geneve.PROTOCOL_IPV6
    return geneve.gwlb_header(eni, ATTACHMENT, cookie, protocol, **more).pack()


def packet(version: int = 4, protocol: int = packets.UDP, payload: bytes = b"some payload", reply: bool = False,
           **fields) -> bytes:
    """An inner packet from client to server, or back."""
    ends = [(CLIENT[version == 6], 40000), (SERVER[version == 6], 443)][::-1 if reply else 1]
    make = packets.udp if protocol == packets.UDP else packets.tcp
    return make(ends[0][0], ends[1][0], ends[0][1], ends[1][1], payload, **fields)


def key(inner: bytes, slot: int = SLOT) -> bytes:
    """The key of a packet's flow, as gwlbtun.demo.packets has it, in the words of struct gw_flow_key."""
    version, protocol, (first, port), (second, other) = packets.flow_key(inner)
    return (first.ljust(16, b"\0") + second.ljust(16, b"\0")
            + struct.pack("=Q", port << 16 | other | protocol << 32 | version << 40 | slot << 48))


def frame(inner: bytes, geneve_header: Optional[bytes] = None, *, source: str = GWLB, destination: str = OWN,
          port: int = GWLB_PORT, to_port: int = geneve.PORT, ethernet: bytes = TO_LOOPBACK, checksum: int = 0,
          options: bytes = b"",
          tail: bytes = b"", **fields) -> bytes:
    """A packet as the load balancer sends it; fields: of the outer IPv4 header."""
    body = (header(inner[0] >> 4) if geneve_header is None else geneve_header) + inner
    datagram = struct.pack("!HHHH", port, to_port, 8 + len(body), checksum) + body
    return ethernet + packets.ipv4(source, destination, packets.UDP, datagram, options=options, **fields) + tail


def returned(inner: bytes, geneve_header: Optional[bytes] = None) -> bytes:
    """What must leave the uplink for it."""
    return frame(inner, geneve_header, source=OWN, destination=GWLB, ethernet=OUT)


class World:
    """Maps with one endpoint and one link, and the programs that use them."""

    def __init__(self) -> None:
        self.maps = Maps(flows=4096, slots=8)
        self.ingress = programs.load(programs.INGRESS, self.maps.fd)
        self.egress = programs.load(programs.EGRESS, self.maps.fd)
        self.egress_probe = programs.load(programs.EGRESS_PROBE, self.maps.fd)
        self.maps.globals.on, self.maps.globals.now_s = 1, 1000
        self.endpoint, self.link = self.maps.endpoints[SLOT], self.maps.links[LINK]
        self.endpoint.eni = int.from_bytes(ENI.to_bytes(8, "big"), "little")
        self.endpoint.gwi, self.endpoint.life, self.endpoint.on = 1, LIFE, 1
        self.link.gwlb_address, self.link.own_address = number(GWLB), number(OWN)
        self.link.ifindex, self.link.mtu, self.link.valid = 1, 9001, 1
        self.link.ethernet[:] = OUT
        self.maps.set_eni(ENI, SLOT)
        self.maps.set_interface(LOOPBACK, SLOT, GWO)

    def close(self) -> None:
        for fd in self.ingress, self.egress, self.egress_probe:
            os.close(fd)
        self.maps.close()

    def add(self, inner: bytes, geneve_header: Optional[bytes] = None, kernel: bool = True, **fields) -> bytes:
        """Puts the flow of a packet into the map, in the kernel already or not. Returns its key."""
        flow = layout.Flow(gwlb_address=number(GWLB), own_address=number(OWN), gwlb_port=socket.htons(GWLB_PORT), link=LINK,
                           life=LIFE, receiver=RECEIVER)
        flow.header[:] = header(inner[0] >> 4) if geneve_header is None else geneve_header
        for way in flow.way:
            way.kernel = int(kernel)
        for name, value in fields.items():
            setattr(flow, name, value)
        self.maps.set_flow(key(inner), flow)
        return key(inner)

    def run_in(self, given: bytes, **context) -> bpf.Run:
        """A frame at the uplink."""
        return bpf.program_run(self.ingress, given, _context(**context))

    def run_out(self, inner: bytes, **context) -> Tuple[int, bytes]:
        """A packet that leaves by gwo: the verdict, and the packet or the frame that it has become."""
        kind = struct.pack("!H", 0x0800 if inner[0] >> 4 == 4 else 0x86DD)
        run = bpf.program_run(self.egress_probe, bytes(12) + kind + inner, _context(**context))
        return run.result, run.packet[14:]

    def counts(self) -> dict:
        """The counters that are not 0, by name, of all processors."""
        names = ("IN_TOTAL", "IN_CARRIED", "IN_UP", "IN_MALFORMED", "IN_OTHER", "OUT_TOTAL", "OUT_CARRIED", "OUT_UP",
                 "OUT_NO_FLOW", "OUT_NO_LINK", "CHANGES", "DETOURS", "IN_LOST", "OUT_LOST")
        sums = {name: sum(row.count[getattr(layout, name)] for row in self.maps.reasons) for name in names}
        return {name: count for name, count in sums.items() if count}

    def tally(self) -> Tuple[int, ...]:
        """in_packets, in_bytes, and out_packets and out_bytes of gwi and gwo, of all processors."""
        rows = self.maps.tallies[SLOT * self.maps.cpus:(SLOT + 1) * self.maps.cpus]
        return tuple(map(sum, zip(*((row.in_packets, row.in_bytes, row.out_packets[0], row.out_bytes[0], row.out_packets[1],
                                     row.out_bytes[1]) for row in rows))))


_GIVEN = {"mark": 8, "priority": 32, "gso_segs": 164, "gso_size": 176}


def _context(**fields) -> bytes:
    context = bytearray(CONTEXT)
    for name, value in fields.items():
        struct.pack_into("=I", context, _GIVEN[name], value)
    return bytes(context) if fields else b""


def map_array(pid: int, name: str, struct_type: type, entries: int):
    """A map of a process that is an array, as memory that both share."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # some are open for a moment only
            if os.readlink(file) != "anon_inode:bpf-map":
                continue
            fd = _taken(pid, int(file.name))
            if bpf.map_shape(fd).name == name:
                size = ctypes.sizeof(struct_type) * entries
                with contextlib.closing(os.fdopen(fd)):
                    return (struct_type * entries).from_buffer(mmap.mmap(fd, size + -size % mmap.PAGESIZE))
            os.close(fd)
    raise AssertionError(f"process {pid} has no map {name}")


def _taken(pid: int, fd: int) -> int:
    """Another process's descriptor as one of our own: pidfd_getfd(2), since Linux 5.6."""
    process = os.pidfd_open(pid)
    try:
        taken = ctypes.CDLL(None, use_errno=True).syscall(438, process, fd, 0)
        if taken < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd fails")
        return taken
    finally:
        os.close(process)
