# SPDX-License-Identifier: MIT-0
"""A gateway load balancer in user space.

    Host "client" --TUN--> Balancer --Geneve, UDP 6081--> appliance --Geneve--> Balancer --TUN--> Host "server"

A Host is a network namespace that the balancer holds by a TUN interface. An Endpoint (of one ENI ID) has hosts, and wraps
what they send. Each inner Flow has an Envelope: the Geneve header and the outer address and port that its packets travel
under. Whatever comes back must bear the header of a flow, and goes to the host that it is for; each fault is one line in
Balancer.violations. The balancer of the tests (tests/support/gwlb.py) builds on this one, and holds packets that come back
against those that were sent.

Threads: the outward thread reads all hosts and sends, the homeward thread receives and delivers. One lock guards the flows
and the counters.
"""
import errno
import os
import random
import select
import socket
import struct
import threading
import traceback
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from .. import geneve
from . import packets
from .flows import Endpoint, Envelope, Flow
from .host import Host
from .netns import Namespace

# What socket has only in newer Pythons.
SO_RCVBUFFORCE, IP_PKTINFO, IP_RECVTTL = 33, 8, 12
SOL_UDP, UDP_GRO = 17, 104

MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 32 << 20
RECEIVE_TIMEOUT = struct.pack("ll", 0, 100_000)  # so that the homeward thread looks up when nothing comes
HOST_BATCH = 64  # packets read from one host before the next has its turn
FLOWS_MAX = 1 << 18  # beyond that the oldest is forgotten
VIOLATIONS_MAX = 1000


class Outer(NamedTuple):
    """What a datagram that came back says outside of its payload."""

    source: str
    destination: str
    destination_port: int
    ttl: int


class Balancer:
    """The load balancer: its sockets, its two threads, its endpoints, and what it found wrong."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], appliance: str):
        self.namespace = namespace
        self.addresses = list(addresses)
        self.appliance = appliance
        self.endpoints: List[Endpoint] = []
        self.sent = 0      # datagrams to the appliance
        self.returned = 0  # datagrams from it
        self.violations: List[str] = []
        self._lock = threading.RLock()
        self._random = random.Random(6081)
        self._flows: Dict[bytes, Flow] = {}  # by every header they ever had
        self._watched: Dict[int, Tuple[Host, Endpoint]] = {}
        self._stopping = False
        with namespace.entered():
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECEIVE_BUFFER)
        receiver = self._receiver
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, RECEIVE_TIMEOUT)
        receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        receiver.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        receiver.setsockopt(SOL_UDP, UDP_GRO, 1)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another program may take one of the addresses
        receiver.bind(("0.0.0.0", geneve.PORT))
        self._epoll = select.epoll()
        self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._bell[0], select.EPOLLIN)
        self._threads = [threading.Thread(target=self._guarded, args=(loop,), name=name)
                         for name, loop in (("outward", self._outward), ("homeward", self._homeward))]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Balancer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopping = True
        os.write(self._bell[1], b"!")
        for thread in self._threads:
            thread.join()
        for host, _ in self._watched.values():
            host.close()
        self._epoll.close()
        self._sender.close()
        self._receiver.close()
        for fd in self._bell:
            os.close(fd)

    def endpoint(self, eni: int) -> Endpoint:
        endpoint = Endpoint(self, eni)
        self.endpoints.append(endpoint)
        return endpoint

    def watch(self, host: Host, endpoint: Endpoint) -> None:
        self._watched[host.fd] = host, endpoint
        self._epoll.register(host.fd, select.EPOLLIN)

    # ---- Towards the appliance ---------------------------------------------------------------------------------------

    def flow_of(self, endpoint: Endpoint, packet: bytes) -> Flow:
        """The flow of a packet, made now if it is new."""
        with self._lock:
            key = packets.flow_key(packet)
            flow = endpoint.datagrams.get(key) if key[0] == "datagram" else endpoint.flows.get(key)
            if flow is None:
                flow = self._new_flow(endpoint, key, packet[0] >> 4)
            parsed = packets.parse(packet)
            if parsed.fragment and not parsed.fragment_offset:
                endpoint.datagrams[packets.fragment_key(parsed)] = flow
            return flow

    def _new_flow(self, endpoint: Endpoint, key: packets.FlowKey, version: int) -> Flow:
        if len(self._flows) >= FLOWS_MAX:
            oldest = self._flows.pop(next(iter(self._flows)))
            oldest.endpoint.flows.pop(oldest.key, None)
            oldest.endpoint.datagrams.clear()
        header = endpoint.header(self._random.getrandbits(32), version)
        while header in self._flows:
            header = endpoint.header(self._random.getrandbits(32), version)
        envelope = Envelope(header, self._random.choice(self.addresses), self._random.randrange(1024, 65536))
        flow = endpoint.flows[key] = self._flows[header] = endpoint.new_flow(key, envelope)
        return flow

    def forward(self, endpoint: Endpoint, packet: bytes) -> None:
        self._send(self.flow_of(endpoint, packet), packet)

    def _send(self, flow: Flow, packet: bytes) -> None:
        envelope = flow.envelope
        flow.sent += 1
        self.transmit(envelope.address, envelope.port, envelope.header + packet)

    def transmit(self, address: str, port: int, payload: bytes) -> None:
        """Sends a UDP payload from an address that need not be there, and port; nothing is expected to come back."""
        # The kernel fills in the length and the checksum of the IP header; a UDP checksum of zero means none.
        size = len(payload)
        with self._lock:
            self.sent += 1
        self._sender.sendto(
            struct.pack("!BBHHHBBH4s4sHHHH", 0x45, 0, 28 + size, 0, 0x4000, 255, socket.IPPROTO_UDP, 0,
                        socket.inet_aton(address), socket.inet_aton(self.appliance),
                        port, geneve.PORT, 8 + size, 0) + payload,
            (self.appliance, 0))

    def _outward(self) -> None:
        while not self._stopping:
            for fd, _ in self._epoll.poll():
                if fd != self._bell[0]:
                    self._drain(*self._watched[fd])

    def _drain(self, host: Host, endpoint: Endpoint) -> None:
        for _ in range(HOST_BATCH):
            try:
                packet = os.read(host.fd, MAX_DATAGRAM)
            except BlockingIOError:
                return
            if not is_multicast(packet):  # GWLB carries unicast alone; hosts join groups of their own accord
                try:
                    self.forward(endpoint, packet)
                except (ValueError, OSError) as error:  # no IP packet, or no way to the appliance
                    self._note(f"not sent: {error}")

    # ---- From the appliance ------------------------------------------------------------------------------------------

    def _homeward(self) -> None:
        buffer = bytearray(MAX_DATAGRAM)
        while not self._stopping:
            try:
                size, ancillary, _, (source, port) = self._receiver.recvmsg_into([buffer], 256)
            except BlockingIOError:
                continue
            ttl, segment, address = 0, size, ""
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment = struct.unpack_from("=i", data)[0]
                elif level == socket.IPPROTO_IP and kind == socket.IP_TTL:
                    ttl = struct.unpack_from("=i", data)[0]
                elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                    address = socket.inet_ntoa(data[8:12])
            outer = Outer(source, address, port, ttl)
            for offset in range(0, size, segment) if size else (0,):
                self._accept(bytes(buffer[offset:min(offset + segment, size)]), outer)

    def _accept(self, payload: bytes, outer: Outer) -> None:
        """Judges one datagram, and delivers its packet if all is right."""
        end = geneve.BASE_SIZE + (payload[0] & 0x3F) * 4 if payload else 0
        header, packet = payload[:end], payload[end:]
        with self._lock:
            flow = self._flows.get(header)
            found = ["altered header or unknown cookie"] if flow is None else self._judge(flow, header, outer, packet)
            if flow is None or found:
                self._note(f"{'; '.join(found)}: {describe(payload)}")
            else:
                self._deliver(flow, packet)
            self.returned += 1

    def _deliver(self, flow: Flow, packet: bytes) -> None:
        host = flow.endpoint.hosts.get(destination(packet))
        if host is None:
            flow.endpoint.keep(packet)
        else:
            try:
                host.deliver(packet)
            except OSError as error:
                if error.errno != errno.EIO:  # the host's interface is down
                    raise
        flow.returned += 1

    def _judge(self, flow: Flow, header: bytes, outer: Outer, packet: bytes) -> List[str]:
        """What is wrong with a packet that came back under the header of a flow."""
        return []

    def _note(self, violation: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(violation)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:  # whatever ends a thread must not go unnoticed
            self._note(traceback.format_exc())


def destination(packet: bytes) -> bytes:
    return packet[24:40] if packet[:1] >= b"\x60" else packet[16:20]


def is_multicast(packet: bytes) -> bool:
    first = destination(packet)[:1]
    return first == b"\xff" if packet[:1] >= b"\x60" else b"\xe0" <= first < b"\xf0"


def describe(payload: bytes) -> str:
    try:
        text = str(geneve.parse_header(payload))
    except geneve.GeneveError as error:
        text = str(error)
    return f"{text}: {len(payload)} bytes {payload[:128].hex()}"
