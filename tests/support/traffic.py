# SPDX-License-Identifier: MIT-0
"""Programs that play the load balancer beside the tests' own, each a process so that neither disturbs the other's pace.

    traffic.py pulse ENI SECONDS ADDRESS APPLIANCE    a thousand packets a second, each held against what returns
    traffic.py faint ENI SECONDS ADDRESS APPLIANCE    the same, where some are lost for good
    traffic.py drown ENI SECONDS ADDRESS APPLIANCE    packets of one endpoint, far more than anybody can carry
    traffic.py throb ENI SECONDS ADDRESS APPLIANCE    the same, one second of every two
    traffic.py swarm ENI SECONDS ADDRESS APPLIANCE    as many packets, each of an invented ENI ID
    traffic.py flood COUNT RATE ADDRESS APPLIANCE     packets of as many invented ENI IDs (RATE 0: as fast as they go)
"""
import json
import random
import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import packets  # noqa: E402
from gwlbtun import geneve  # noqa: E402

PULSE_S = 0.001
UDP_SEGMENT, DROWN_FLOWS = 103, 60
SO_RCVBUFFORCE = 33
LAST_S = 30.0       # for the last packets to return,
LAST_FAINT_S = 2.0  # where some never do


def pulse(eni: int, seconds: float, address: str, appliance: str, last_s: float = LAST_S) -> dict:
    """What was sent, lost and wrong, and the longest time that a packet was away, in seconds."""
    header = geneve.gwlb_header(eni, 1, 2, geneve.PROTOCOL_IPV4).pack()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((address, 45000))
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the tests' balancer has all other addresses
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)  # what has waited together comes together
    receiver.bind((address, geneve.PORT))
    away, sent, wrong, worst = {}, 0, 0, 0.0
    begin = time.monotonic()
    while True:
        now = time.monotonic()
        if sent < seconds / PULSE_S and now >= begin + sent * PULSE_S:
            packet = header + packets.udp("10.0.1.2", "10.0.2.2", 1, 2, struct.pack("!I", sent))
            away[packet] = now
            sender.sendto(packet, (appliance, geneve.PORT))
            sent += 1
            continue
        if sent >= seconds / PULSE_S and (not away or now > begin + seconds + last_s):
            return {"sent": sent, "lost": len(away), "wrong": wrong, "worst": worst}
        if select.select([receiver], [], [], PULSE_S / 2)[0]:
            packet = receiver.recv(65536)
            left = away.pop(packet, None)
            if left is None:
                wrong += 1
            else:
                worst = max(worst, time.monotonic() - left)


def faint(eni: int, seconds: float, address: str, appliance: str) -> dict:
    return pulse(eni, seconds, address, appliance, LAST_FAINT_S)


def drown(eni: int, seconds: float, address: str, appliance: str, pauses: bool = False) -> dict:
    """How many packets were sent: many by each call, so that to send them costs little of a core."""
    header = geneve.gwlb_header(eni, 1, 3, geneve.PROTOCOL_IPV4).pack()
    flows = [header + packets.udp("10.0.3.2", "10.0.4.2", port, 2, bytes(32)) for port in range(DROWN_FLOWS)]
    sender = segmenting_sender(address, len(flows[0]))
    sent, begin = 0, time.monotonic()
    while time.monotonic() < begin + seconds:
        if pauses and (time.monotonic() - begin) % 2 > 1:
            time.sleep(0.01)
            continue
        sender.sendto(b"".join(flows), (appliance, geneve.PORT))
        sent += len(flows)
    return {"sent": sent}


def throb(eni: int, seconds: float, address: str, appliance: str) -> dict:
    return drown(eni, seconds, address, appliance, pauses=True)


def swarm(eni: int, seconds: float, address: str, appliance: str) -> dict:
    """How many packets were sent. The ENI ID is but a seed."""
    draw = random.Random(eni)
    header = geneve.gwlb_header(eni, 1, 3, geneve.PROTOCOL_IPV4).pack()
    rest = header[20:] + packets.udp("10.0.3.2", "10.0.4.2", 1, 2, bytes(32))
    sender = segmenting_sender(address, 20 + len(rest))
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        enis = draw.getrandbits(64 * DROWN_FLOWS).to_bytes(8 * DROWN_FLOWS, "big")
        sender.sendto(b"".join(header[:12] + enis[at:at + 8] + rest for at in range(0, len(enis), 8)),
                      (appliance, geneve.PORT))
        sent += DROWN_FLOWS
    return {"sent": sent}


def segmenting_sender(address: str, size: int) -> socket.socket:
    """The kernel cuts what it sends into datagrams of that size."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((address, 45002))
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    return sender


def flood(count: int, rate: int, address: str, appliance: str) -> dict:
    """Packets of different ENI IDs, at an even pace."""
    draw = random.Random(count)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((address, 45001))
    inner = packets.udp("10.9.1.2", "10.9.2.2", 1, 2, b"forged")
    header = geneve.gwlb_header(draw.getrandbits(64), 1, 2, geneve.PROTOCOL_IPV4).pack()
    before_eni, after_eni = header[:12], header[20:]
    begin = time.monotonic()
    for number in range(count):
        if rate and number % 20 == 0:
            time.sleep(max(begin + number / rate - time.monotonic(), 0))
        eni = struct.pack("!Q", draw.getrandbits(64))
        sender.sendto(before_eni + eni + after_eni + inner, (appliance, geneve.PORT))
    return {"sent": count, "seconds": time.monotonic() - begin}


if __name__ == "__main__":
    program, first, second, *addresses = sys.argv[1:]
    programs = {"pulse": pulse, "faint": faint, "drown": drown, "throb": throb, "swarm": swarm, "flood": flood}
    print(json.dumps(programs[program](int(first), float(second), *addresses)))
