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

    def all_counted(self):
        """The same, and whoever was behind has counted what it has sent."""
        def counted():
            sent, inner = self.sent, sum(map(len, self.endpoint.received))
            least = {"pktsFromGwlb": sent, "pktsToLinux": sent, "pktsToGwlb": sent,
                     "bytesFromGwlb": inner + 40 * sent, "bytesToLinux": inner, "bytesToGwlb": inner}
            totals = self.daemon.health()["totals"]
            return all(totals[key] >= count for key, count in least.items())
        return self.all_back() and self.lab.wait(counted)

    def skip_lost(self):
        """Sends until packets return one by one, and takes for lost those before them that have not."""
        def back():
            return any(packet[28:] == newest[28:] for packet in self.endpoint.received[before:])
        before, returned, end = len(self.endpoint.received), 0, time.monotonic() + 60
        while returned < 2:  # the first may have overtaken one that has waited for a neighbour
            assert time.monotonic() < end, "no packet returns"
            newest = self.packet()
            self.endpoint.send(newest)
            returned += self.lab.wait(back, 1)
        self.sent = len(self.endpoint.received)

    def carried(self):
        """Packets that took the kernel, there and back."""
        ebpf = self.ebpf()
        return ebpf["ingress"]["accelerated"], ebpf["egress"]["accelerated"]

    def until_carried(self, most=400, seconds=60, **flow):
        """Sends packets of a flow until one takes the kernel both ways; False: none of so many does, however slow they are."""
        before, end, last = self.carried(), time.monotonic() + seconds, self.sent + most
        while self.sent < last or time.monotonic() < end:
            self.send(5, **flow)
            now = self.carried()
            if now[0] > before[0] and now[1] > before[1]:
                return True
        return False

    def takes_kernel(self, count=20, **flow):
        """How many of so many packets of a flow take the kernel: in, and back."""
        assert self.all_back()  # else one of before could be counted
        before = self.carried()
        self.send(count, **flow)
        assert self.all_back()
        return tuple(now - then for now, then in zip(self.carried(), before))

    def outer_headers(self, count, **flow):
        """What the load balancer gets around so many packets of a flow: the headers, with lengths and checksums set to 0.

        The identification as well: connected sockets number their packets, but it means nothing where DF is set (RFC 6864).
        """
        assert self.all_back()
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
