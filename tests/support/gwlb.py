# SPDX-License-Identifier: MIT-0
"""A gateway load balancer in user space.

    Host "client" --TUN--> Balancer --Geneve, UDP 6081--> appliance --Geneve--> Balancer --TUN--> Host "server"

A Host is a network namespace that the balancer holds by a TUN interface. An Endpoint (of one ENI ID) has hosts, and wraps
what they send. Each inner Flow has an Envelope: the Geneve header and the outer address and port that its packets
travel under; renewing it gives the flow a new cookie or port, as GWLB does. Whatever comes back is held against what
was sent, byte for byte, before it is delivered to the host that it is for; each fault is one line in
Balancer.violations.

Threads: the outward thread reads all hosts and sends, the homeward thread receives and delivers. Tests may call
Endpoint.send() and Balancer.inject() from threads of their own. One lock guards the flows and the counters.
"""
import collections
import contextlib
import errno
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import threading
import time
import traceback
from typing import Callable, Deque, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import packets
from expectations import Forwarded, Identical, WellFormed  # noqa: F401  # the tests' names for them
from gwlbtun import geneve
from netns import Namespace
from network import Counters, Impairment

MTU = 8500
OUTER_TTL = 64

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
# What socket has only in newer Pythons.
SO_RCVBUFFORCE, IP_PKTINFO, IP_RECVTTL = 33, 8, 12
SOL_UDP, UDP_GRO = 17, 104

MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 32 << 20
RECEIVE_TIMEOUT = struct.pack("ll", 0, 100_000)  # so that the homeward thread looks up when nothing comes
HOST_BATCH = 64  # packets read from one host before the next has its turn


class Host:
    """One end of the traffic: a namespace whose default route is a TUN interface that the balancer reads and writes."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], name: str = "gwlb", mtu: int = MTU):
        self.namespace = namespace
        self.addresses = tuple(addresses)
        self.name = name
        with namespace.entered():
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        namespace.ip("link set", name, "mtu", mtu, "txqueuelen 10000 up")
        for address in addresses:
            namespace.ip("address add", address, "dev", name, "nodad" if ":" in address else "")
            namespace.ip("-6" if ":" in address else "-4", "route replace default dev", name, "src", address)

    @property
    def ipv4(self) -> str:
        return next(address for address in self.addresses if ":" not in address)

    @property
    def ipv6(self) -> str:
        return next(address for address in self.addresses if ":" in address)

    def address(self, version: int) -> str:
        return self.ipv4 if version == 4 else self.ipv6

    def deliver(self, packet: bytes) -> None:
        os.write(self.fd, packet)

    def close(self) -> None:
        os.close(self.fd)


class Envelope(NamedTuple):
    """What a flow's packets travel under: Geneve header, the balancer's address, and the outer source port."""

    header: bytes
    address: str
    port: int


class Flow:
    """An inner flow and its envelopes, of which the newest is last."""

    def __init__(self, endpoint: "Endpoint", key: tuple, envelope: Envelope):
        self.endpoint = endpoint
        self.key = key
        self.envelopes = [envelope]
        self.sent = 0
        self.returned = 0
        self.newest_returned = 0  # the newest envelope that has come back: index in envelopes
        # By the fingerprint of a packet: the packets sent, each with the index of its envelope.
        self.awaited: Dict[bytes, Deque[Tuple[int, bytes]]] = {}

    @property
    def envelope(self) -> Envelope:
        return self.envelopes[-1]

    @property
    def cookie(self) -> int:
        return geneve.parse_header(self.envelope.header).cookie

    def renew(self, cookie: Optional[int] = None, port: Optional[int] = None, address: Optional[str] = None,
              extra_options: Optional[Iterable[geneve.Option]] = None) -> None:
        """The next packet travels under an envelope that differs from the last in what is given."""
        self.endpoint.balancer.renew(self, cookie, port, address, extra_options)


class Endpoint:
    """A GWLB endpoint: its hosts, its flows, and what is expected of packets that return."""

    def __init__(self, balancer: "Balancer", eni: int, expectation: Identical,
                 extra_options: Iterable[geneve.Option] = ()):
        self.balancer = balancer
        self.eni = eni
        self.attachment = eni ^ 0x5555_5555_5555_5555
        self.expectation = expectation
        self.extra_options = tuple(extra_options)
        self.hosts: Dict[bytes, Host] = {}
        self.flows: Dict[tuple, Flow] = {}
        self.datagrams: Dict[tuple, Flow] = {}  # of fragments: packets.fragment_key
        self.received: List[bytes] = []  # what returned and is for none of the hosts

    @property
    def id(self) -> str:
        """The ENI ID as hooks and health show it."""
        return f"{self.eni:017x}"

    @property
    def gwi(self) -> str:
        return "gwi-" + base60(self.eni)

    @property
    def gwo(self) -> str:
        return "gwo-" + base60(self.eni)

    def attach(self, host: Host) -> None:
        for address in host.addresses:
            self.hosts[packets.address(address)] = host
        self.balancer.watch(host, self)

    def send(self, packet: bytes) -> None:
        """Sends an inner packet to the appliance, as if a host had sent it."""
        self.balancer.forward(self, packet)

    def flow(self, packet: bytes) -> Flow:
        """The flow of a packet, made now if it is new."""
        return self.balancer.flow_of(self, packet)


def base60(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"
    text = ""
    while number or not text:
        number, digit = divmod(number, 60)
        text = digits[digit] + text
    return text


class Balancer:
    """The load balancer: its sockets, its two threads, its endpoints, and what it found wrong."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], appliance: str,
                 impairment: Optional[Impairment] = None):
        self.namespace = namespace
        self.addresses = list(addresses)
        self.appliance = appliance
        self.impairment = impairment
        self.endpoints: List[Endpoint] = []
        self.counters = Counters()
        self.violations: List[str] = []
        self._lock = threading.RLock()
        self._random = random.Random(6081)
        self._cookies = set()
        self._flows: Dict[bytes, Flow] = {}  # by every header they ever had
        self._watched: Dict[int, Tuple[Host, Endpoint]] = {}
        self._delayed: List[Tuple[float, int, Flow, bytes]] = []
        self._order = itertools.count()
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
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # traffic.py takes some addresses for itself
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

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        self._stopping = True
        self._ring()
        for thread in self._threads:
            thread.join()
        for host, _ in self._watched.values():
            host.close()
        self._epoll.close()
        self._sender.close()
        self._receiver.close()
        for fd in self._bell:
            os.close(fd)

    def endpoint(self, eni: int, expectation: Optional[Identical] = None,
                 extra_options: Iterable[geneve.Option] = ()) -> Endpoint:
        """A new endpoint; its packets come back identical unless another expectation is given."""
        endpoint = Endpoint(self, eni, expectation or Identical(), extra_options)
        self.endpoints.append(endpoint)
        return endpoint

    def watch(self, host: Host, endpoint: Endpoint) -> None:
        self._watched[host.fd] = host, endpoint
        self._epoll.register(host.fd, select.EPOLLIN)

    @property
    def awaited(self) -> int:
        """Packets sent that have not come back, of those that should."""
        with self._lock:
            return sum(len(entries) for endpoint in self.endpoints for flow in set(endpoint.flows.values())
                       for entries in flow.awaited.values())

    def wait(self, condition: Callable[[], bool], timeout: float = 10) -> bool:
        """Waits until a condition holds; whether it did in time."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    # ---- Towards the appliance ---------------------------------------------------------------------------------------

    def flow_of(self, endpoint: Endpoint, packet: bytes) -> Flow:
        with self._lock:
            key = packets.flow_key(packet)
            flow = endpoint.datagrams.get(key) if key[0] == "datagram" else endpoint.flows.get(key)
            if flow is None:
                flow = self._new_flow(endpoint, key, packet[0] >> 4)
            parsed = packets.parse(packet)
            if parsed.fragment and not parsed.fragment_offset:
                endpoint.datagrams[packets.fragment_key(parsed)] = flow
            return flow

    def _new_flow(self, endpoint: Endpoint, key: tuple, version: int) -> Flow:
        header = geneve.gwlb_header(endpoint.eni, endpoint.attachment, self._new_cookie(),
                                    geneve.PROTOCOLS[version], endpoint.extra_options).pack()
        envelope = Envelope(header, self._random.choice(self.addresses), self._random.randrange(1024, 65536))
        flow = Flow(endpoint, key, envelope)
        endpoint.flows[key] = self._flows[header] = flow
        return flow

    def _new_cookie(self) -> int:
        while True:
            cookie = self._random.getrandbits(32)
            if cookie not in self._cookies:
                self._cookies.add(cookie)
                return cookie

    def renew(self, flow: Flow, cookie: Optional[int] = None, port: Optional[int] = None,
              address: Optional[str] = None, extra_options: Optional[Iterable[geneve.Option]] = None) -> None:
        endpoint, newest = flow.endpoint, flow.envelope
        old = geneve.parse_header(newest.header)
        with self._lock:
            header = geneve.gwlb_header(
                endpoint.eni, endpoint.attachment, old.cookie if cookie is None else cookie, old.protocol,
                old.options[3:] if extra_options is None else extra_options).pack()
            if self._flows.setdefault(header, flow) is not flow:
                raise ValueError("another flow has that cookie")
            flow.envelopes.append(Envelope(header, address or newest.address,
                                           newest.port if port is None else port))

    def forward(self, endpoint: Endpoint, packet: bytes) -> None:
        flow = self.flow_of(endpoint, packet)
        if self.impairment is None:
            self._send(flow, packet)
            return
        with self._lock:
            copies = self.impairment.copies()
            self.counters.lost += not copies
            self.counters.duplicated += len(copies) > 1
            due = [(time.monotonic() + delay, next(self._order), flow, packet) for delay in copies if delay]
            for entry in due:
                heapq.heappush(self._delayed, entry)
        if due:
            self._ring()
        for _ in range(len(copies) - len(due)):
            self._send(flow, packet)

    def _send(self, flow: Flow, packet: bytes) -> None:
        fingerprint = flow.endpoint.expectation.fingerprint(packet)
        with self._lock:
            envelope = flow.envelopes[-1]
            if fingerprint is not None:
                flow.awaited.setdefault(fingerprint, collections.deque()).append(
                    (len(flow.envelopes) - 1, packet))
            flow.sent += 1
            self.counters.sent += 1
            self.counters.sent_bytes += len(envelope.header) + len(packet)
        self.transmit(envelope.address, envelope.port, envelope.header + packet)

    def transmit(self, address: str, port: int, payload: bytes) -> None:
        """Sends a UDP payload from an address that need not be there, and port; nothing is expected to come back."""
        # The kernel fills in the length and the checksum of the IP header; a UDP checksum of zero means none.
        size = len(payload)
        self._sender.sendto(
            struct.pack("!BBHHHBBH4s4sHHHH", 0x45, 0, 28 + size, 0, 0x4000, 255, socket.IPPROTO_UDP, 0,
                        socket.inet_aton(address), socket.inet_aton(self.appliance),
                        port, geneve.PORT, 8 + size, 0) + payload,
            (self.appliance, 0))

    def inject(self, payload: bytes, port: int = 50000, address: Optional[str] = None,
               destination_port: int = geneve.PORT) -> None:
        """Sends a UDP payload as it is, of up to 65,507 bytes; nothing is expected to come back."""
        with self._lock:
            self.counters.injected += 1
        with self.namespace.entered(), contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.bind((address or self.addresses[0], port))
            sender.sendto(payload, (self.appliance, destination_port))

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell[1], b"!")

    def _outward(self) -> None:
        while not self._stopping:
            for fd, _ in self._epoll.poll(self._send_delayed()):
                if fd == self._bell[0]:
                    with contextlib.suppress(BlockingIOError):
                        os.read(fd, 4096)
                else:
                    self._drain(*self._watched[fd])

    def _drain(self, host: Host, endpoint: Endpoint) -> None:
        for _ in range(HOST_BATCH):
            try:
                packet = os.read(host.fd, MAX_DATAGRAM)
            except BlockingIOError:
                return
            if not is_multicast(packet):  # GWLB carries unicast alone; hosts join groups of their own accord
                self.forward(endpoint, packet)

    def _send_delayed(self) -> Optional[float]:
        """Sends what is due, and returns the seconds until something will be."""
        while True:
            with self._lock:
                if not self._delayed:
                    return None
                wait = self._delayed[0][0] - time.monotonic()
                if wait > 0:
                    return wait
                _, _, flow, packet = heapq.heappop(self._delayed)
            self._send(flow, packet)

    # ---- From the appliance ------------------------------------------------------------------------------------------

    def _homeward(self) -> None:
        buffer = bytearray(MAX_DATAGRAM)
        while not self._stopping:
            try:
                size, ancillary, _, (source, port) = self._receiver.recvmsg_into([buffer], 256)
            except BlockingIOError:
                continue
            ttl, segment, destination = 0, size, ""
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment = struct.unpack_from("=i", data)[0]
                elif level == socket.IPPROTO_IP and kind == socket.IP_TTL:
                    ttl = struct.unpack_from("=i", data)[0]
                elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                    destination = socket.inet_ntoa(data[8:12])
            for offset in range(0, size, segment) if size else (0,):
                payload = bytes(buffer[offset:min(offset + segment, size)])
                self._accept(payload, Envelope(b"", destination, port), source, ttl)

    def _accept(self, payload: bytes, outer: Envelope, source: str, ttl: int) -> None:
        """Holds one datagram against what was sent, and delivers its packet if all is right."""
        end = geneve.BASE_SIZE + (payload[0] & 0x3F) * 4 if payload else 0
        header, packet = payload[:end], payload[end:]
        outer = outer._replace(header=header)
        with self._lock:
            self.counters.returned += 1
            flow = self._flows.get(header)
            if flow is None:
                self.violations.append(f"altered header or unknown cookie: {describe(payload)}")
                return
            endpoint = flow.endpoint
            faults = list(self._outer_faults(flow, outer, source, ttl)) or self._inner_faults(flow, outer, packet)
            if faults:
                self.violations.append(f"{'; '.join(faults)}: {describe(payload)}")
                return
            flow.returned += 1
            self.counters.delivered += 1
            host = endpoint.hosts.get(packets.parse(packet).destination)
            if host is None:
                endpoint.received.append(packet)
        if host is not None:
            try:
                host.deliver(packet)
            except OSError as error:
                if error.errno != errno.EIO:  # the host's interface is down
                    raise

    def _outer_faults(self, flow: Flow, outer: Envelope, source: str, ttl: int) -> Iterable[str]:
        if ttl != OUTER_TTL:
            yield f"outer TTL {ttl}, not {OUTER_TTL}"
        if source != self.appliance:
            yield f"outer source {source}, not {self.appliance}"
        index = latest_index(flow.envelopes, outer)
        if index is not None:
            if index < flow.newest_returned:
                yield f"under envelope {index} after {flow.newest_returned} had come back"
            flow.newest_returned = index
            return
        candidates = [envelope for envelope in flow.envelopes if envelope.header == outer.header]
        if outer.address not in [envelope.address for envelope in candidates]:
            yield f"outer destination {outer.address}, not {candidates[-1].address}"
        if outer.port not in [envelope.port for envelope in candidates]:
            yield f"outer source port {outer.port}, not {candidates[-1].port}"
        if len(candidates) > 1:
            yield "an envelope that never was"

    def _inner_faults(self, flow: Flow, outer: Envelope, packet: bytes) -> List[str]:
        expectation = flow.endpoint.expectation
        if not packet:
            return ["no inner packet"]
        fingerprint = expectation.fingerprint(packet)
        entries = flow.awaited.get(fingerprint) if fingerprint is not None else None
        if entries:
            sent_under, sent = entries.popleft()
            if not entries:
                del flow.awaited[fingerprint]
            if packet != sent and packet[0] >> 4 == 4 and packets.checksum(packet[:(packet[0] & 15) * 4]):
                return ["wrong IPv4 header checksum"]
            if latest_index(flow.envelopes, outer) < sent_under:
                return [f"sent under envelope {sent_under}, returned under an older one"]
            return []
        faults = packets.faults(packet)
        if faults:
            return faults
        if not expectation.admits(packet):
            return ["not a packet that this flow awaits: altered, repeated, or of another flow"]
        key = packets.flow_key(packet)
        parsed = packets.parse(packet)
        datagrams = flow.endpoint.datagrams
        if key[0] == "datagram":
            return [] if datagrams.get(key, flow) is flow else ["under the header of another datagram's flow"]
        if parsed.fragment:
            datagrams[packets.fragment_key(parsed)] = flow
        return [] if key == flow.key else ["under the header of another flow"]

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:  # whatever ends a thread must fail the test
            self.violations.append(traceback.format_exc())


def is_multicast(packet: bytes) -> bool:
    return packet[24] == 0xFF if packet[0] >> 4 == 6 else packet[16] >> 4 == 0xE


def latest_index(envelopes: List[Envelope], envelope: Envelope) -> Optional[int]:
    if envelopes[-1] == envelope:
        return len(envelopes) - 1
    found = [index for index, known in enumerate(envelopes) if known == envelope]
    return found[-1] if found else None


def describe(payload: bytes) -> str:
    try:
        text = str(geneve.parse_header(payload))
    except geneve.GeneveError as error:
        text = str(error)
    return f"{text}: {len(payload)} bytes {payload[:128].hex()}"
