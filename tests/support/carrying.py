# SPDX-License-Identifier: MIT-0
"""A daemon whose known flows take the kernel: traffic that gets them there, and what the counters say of it."""
import itertools
import socket
import struct
import time

import packets
from expectations import Forwarded
from lab import APPLIANCE, CLIENT, ENI, ROUTE, SERVER

PAUSE_S = 0.005  # between two packets, as nobody's way back is through while they come one on the other
ETH_P_IP, ETHERNET = 0x0800, 14


class Carrying:
    """One endpoint that Linux routes, and flows of it."""

    def __init__(self, lab, *arguments, eni=ENI, **options):
        self.lab = lab
        lab.route()
        self.daemon = lab.start("--udpthreads", 1, "--tunthreads", 1, "--kernel-path", "require", *arguments, hook=ROUTE,
                                **options)
        self.endpoint = lab.endpoint(eni, Forwarded())
        self.sent = 0
        self._numbers = itertools.count()

    def packet(self, version=4, port=1000, protocol="udp", reply=False):
        """The next one of a flow. No two are the same."""
        body = b"%d" % next(self._numbers)
        ends, ports = (CLIENT[version // 6], SERVER[version // 6]), (port, 80 if protocol == "tcp" else 7)
        if reply:
            ends, ports = ends[::-1], ports[::-1]
        return (packets.tcp if protocol == "tcp" else packets.udp)(*ends, *ports, body)

    def send(self, count=1, **flow):
        for _ in range(count):
            self.endpoint.send(self.packet(**flow))
            self.sent += 1
            time.sleep(PAUSE_S)

    def all_back(self):
        return self.lab.wait(lambda: len(self.endpoint.received) >= self.sent)

    def ebpf(self):
        return self.daemon.health()["ebpf"]

    def skip_lost(self):
        """Sends until packets return again, and takes those before them for lost."""
        before = len(self.endpoint.received)
        while len(self.endpoint.received) == before:
            self.send()
        self.lab.balancer.wait(lambda: False, 0.2)
        self.sent = len(self.endpoint.received)

    def carried(self):
        """Packets that took the kernel, there and back."""
        ebpf = self.ebpf()
        return ebpf["ingress"]["accelerated"], ebpf["egress"]["accelerated"]

    def until_carried(self, most=400, **flow):
        """Sends packets of a flow until one takes the kernel both ways; False: none does."""
        before = self.carried()
        for _ in range(most // 5):
            self.send(5, **flow)
            now = self.carried()
            if now[0] > before[0] and now[1] > before[1]:
                return True
        return False

    def takes_kernel(self, count=20, **flow):
        """How many of so many packets of a flow take the kernel: in, and back."""
        before = self.carried()
        self.send(count, **flow)
        assert self.all_back()
        return tuple(now - then for now, then in zip(self.carried(), before))

    def outer_headers(self, count, **flow):
        """What the load balancer gets around so many packets of a flow: the headers, with lengths and checksums set to 0.

        The identification as well: connected sockets number their packets, but it means nothing where DF is set (RFC 6864).
        """
        with self.lab.outside.entered():
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        found = []
        with tap:
            tap.settimeout(60)
            self.send(count, **flow)
            while len(found) < count:
                frame = tap.recv(65536)
                if frame[ETHERNET + 12:ETHERNET + 16] == socket.inet_aton(APPLIANCE):
                    found.append(frame)
        headers = set()
        for ethernet, packet in ((frame[:ETHERNET], frame[ETHERNET:]) for frame in found):
            words = struct.unpack("!10H", packet[:20])
            assert sum(words) % 0xFFFF == 0 and words[1] == len(packet)
            assert struct.unpack_from("!H", packet, 24)[0] == len(packet) - 20
            headers.add(ethernet + packet[:2] + bytes(4) + packet[6:10] + bytes(2) + packet[12:24] + bytes(4) + packet[28:68])
        return headers
