# SPDX-License-Identifier: MIT-0
"""A gateway load balancer in user space.

    Host "client" --TUN--> Balancer --Geneve, UDP 6081--> appliance --Geneve--> Balancer --TUN--> Host "server"

A Host is a network namespace that the balancer holds by a TUN interface. An Endpoint (of one ENI ID) has hosts, and wraps
what they send. Each inner Flow has an Envelope: the Geneve header and the outer address and port that its packets
travel under; renewing it gives the flow a new cookie or port, as GWLB does. Whatever comes back is held against what
was sent, byte for byte, before it is delivered to the host that it is for; each fault is one line in
Balancer.violations. Tests find the names of all these parts here.

Threads: the outward thread reads all hosts and sends, the homeward thread receives and delivers. Tests may call
Endpoint.send() and Balancer.inject() from threads of their own. One lock guards the flows and the counters.
"""
import collections
import contextlib
import errno
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
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import faults
import packets
from expectations import Forwarded, Identical, WellFormed  # noqa: F401
from flows import Endpoint, Envelope, Flow, base60  # noqa: F401
from gwlbtun import geneve
from host import IFF_NO_PI, IFF_TUN, MTU, TUNSETIFF, Host  # noqa: F401
from netns import Namespace
from network import Counters, Impairment

# What socket has only in newer Pythons.
SO_RCVBUFFORCE, IP_PKTINFO, IP_RECVTTL = 33, 8, 12
SOL_UDP, UDP_GRO = 17, 104

MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 32 << 20
RECEIVE_TIMEOUT = struct.pack("ll", 0, 100_000)  # so that the homeward thread looks up when nothing comes
HOST_BATCH = 64  # packets read from one host before the next has its turn


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
                self.violations.append(f"altered header or unknown cookie: {faults.describe(payload)}")
                return
            endpoint = flow.endpoint
            found = list(faults.outer(flow, outer, source, ttl)) or faults.inner(flow, outer, packet)
            if found:
                self.violations.append(f"{'; '.join(found)}: {faults.describe(payload)}")
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

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception:  # whatever ends a thread must fail the test
            self.violations.append(traceback.format_exc())


def is_multicast(packet: bytes) -> bool:
    return packet[24] == 0xFF if packet[0] >> 4 == 6 else packet[16] >> 4 == 0xE
