# SPDX-License-Identifier: MIT-0
"""A load balancer with much to send, as a process of its own: packets at an even rate, each held against what returns.

    stream.py ENI RATE FLOWS ADDRESS APPLIANCE    until its standard input ends; prints what was sent, lost and wrong

Each flow has a source port and a cookie of its own, and packets of both directions. Segments of one length go out, and come
back, many to a system call (UDP_SEGMENT, UDP_GRO), so that Python is fast enough.
"""
import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import packets  # noqa: E402
from gwlbtun import geneve  # noqa: E402

SOL_UDP, UDP_SEGMENT, UDP_GRO, SO_RCVBUFFORCE = 17, 103, 104, 33
PORTS = 20_000  # the first outer source port
BEAT_S = 0.01
LAST_S = 30.0   # for the last packets to return
ENDS = "10.0.1.2", "10.0.2.2"


class Flow:
    """Its packets are its head and a number, whose lowest bit is the direction."""

    def __init__(self, eni, index, address, appliance):
        header = geneve.gwlb_header(eni, 1, 0xC0000000 + index, geneve.PROTOCOL_IPV4).pack()
        self.heads = []
        for source, destination, ports in ((*ENDS, (1000 + index, 7)), (*reversed(ENDS), (7, 1000 + index))):
            packet = bytearray(packets.udp(source, destination, *ports, bytes(4)))
            packet[26:28] = bytes(2)  # without a checksum, which each number would change
            self.heads.append(header + bytes(packet[:-4]))
        self.size = len(self.heads[0]) + 4
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, PORTS + index))
        self.socket.connect((appliance, geneve.PORT))
        self.sent = 0
        self.back = bytearray()

    def send(self, count):
        data = b"".join(self.heads[number & 1] + number.to_bytes(4, "big") for number in range(self.sent, self.sent + count))
        self.sent += count
        self.back.extend(bytes(count))
        self.socket.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", self.size))])


def stream(eni, rate, count, address, appliance):
    flows = [Flow(eni, index, address, appliance) for index in range(count)]
    by_head = {head: flow for flow in flows for head in flow.heads}
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the tests' balancer has all other addresses
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    receiver.setsockopt(SOL_UDP, UDP_GRO, 1)
    receiver.bind((address, geneve.PORT))
    receiver.setblocking(False)
    wrong = twice = 0
    longest, last_back = 0.0, None
    share = max(int(rate * BEAT_S / count), 1)
    due, end = time.monotonic(), None
    print("streams", flush=True)
    while end is None or time.monotonic() < end and any(0 in flow.back for flow in flows):
        now = time.monotonic()
        if end is None and now >= due:
            for flow in flows:
                flow.send(share)
            due += share * count / rate
            if select.select([sys.stdin], [], [], 0)[0]:
                end = time.monotonic() + LAST_S
        if not select.select([receiver], [], [], max(min(due - time.monotonic(), BEAT_S), 0) if end is None else BEAT_S)[0]:
            continue
        for _ in range(256):
            try:
                data, ancillary, _, _ = receiver.recvmsg(65536, 64)
            except BlockingIOError:
                break
            now = time.monotonic()
            longest, last_back = max(longest, now - (last_back or now)), now
            size = struct.unpack("i", ancillary[0][2][:4])[0] if ancillary else len(data)
            for at in range(0, len(data), size):
                flow, number = by_head.get(data[at:at + size - 4]), int.from_bytes(data[at + size - 4:at + size], "big")
                if flow is None or number >= flow.sent or flow.heads[number & 1] != data[at:at + size - 4]:
                    wrong += 1
                else:
                    twice += flow.back[number]
                    flow.back[number] = 1
    return {"sent": sum(flow.sent for flow in flows), "lost": sum(flow.back.count(0) for flow in flows), "wrong": wrong,
            "twice": twice, "longest": longest}


if __name__ == "__main__":
    number, packets_a_second, flow_count, *addresses = sys.argv[1:]
    print(json.dumps(stream(int(number), float(packets_a_second), int(flow_count), *addresses)))
