# SPDX-License-Identifier: MIT-0
"""Flows that change over between threads and kernel thousands of times: none of their packets overtakes another."""
import itertools
import struct
import time

import pytest

import packets
from carrying import Carrying
from lab import CLIENT, SERVER

FLOWS = 200
CHANGES = 2000
ROUNDS = 100  # at most: on a busy machine fewer flows come back in each
PAUSE_S = 0.3  # longer than what keeps a way from the kernel after it has left (GW_KERNEL_DETOUR_NS, twice)
APART_S = 0.03
OPTIONS = bytes([1, 1, 1, 0])  # of IPv4: they do nothing
NOTHING = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # options of IPv6: padding


class Numbered:
    """Flows whose packets are numbered, half of them IPv6."""

    def __init__(self, endpoint):
        self._endpoint = endpoint
        self._next = [0] * FLOWS
        self._sent = 0

    def _packet(self, flow, **fields):
        payload = struct.pack("!II", flow, self._next[flow])
        return packets.udp(CLIENT[flow % 2], SERVER[flow % 2], 2000 + flow, 7, payload, **fields)

    def send(self, flow, **fields):
        self._endpoint.send(self._packet(flow, **fields))
        self._next[flow] += 1
        self._sent += 1

    def send_all(self):
        for flow in range(FLOWS):
            self.send(flow)

    def renew(self, flow):
        """Packets of the flow come under a cookie of their own from now on."""
        self._endpoint.flow(self._packet(flow)).renew(cookie=self._next[flow] << 16 | flow)

    def all_back(self, lab):
        return lab.wait(lambda: len(self._endpoint.received) == self._sent)

    def inversions(self):
        """Packets that came back after a later one of their flow: flow, number, and the latest number before."""
        newest, found = [-1] * FLOWS, []
        for packet in self._endpoint.received:
            flow, number = struct.unpack("!II", packet[-8:])
            if number < newest[flow]:
                found.append((flow, number, newest[flow]))
            newest[flow] = max(newest[flow], number)
        return found


def a_packet_that_does_not_fit(numbered, flow):
    if flow % 2 == 0:
        numbered.send(flow, options=OPTIONS)
    else:
        numbered.send(flow, extensions=((packets.HOP_BY_HOP, NOTHING),))


def another_header(numbered, flow):
    numbered.renew(flow)


@pytest.mark.parametrize("leaving", [
    [a_packet_that_does_not_fit], [another_header], [a_packet_that_does_not_fit, another_header]])
def test_no_packet_overtakes_another_in_thousands_of_changes(lab, leaving):
    carrying = Carrying(lab, "--udpthreads", 2, "--tunthreads", 2)
    lab.one_wire()
    numbered, changes, turns = Numbered(carrying.endpoint), 0, itertools.cycle(leaving)
    numbered.send_all()  # when Linux has found a neighbour, what it sends then may overtake what has waited for that
    assert numbered.all_back(lab)
    for _ in range(ROUNDS):
        leave = next(turns)
        for flow in range(FLOWS):
            numbered.send(flow)
            leave(numbered, flow)
            numbered.send(flow)
            numbered.send(flow)
        time.sleep(PAUSE_S)
        for _ in range(5):
            numbered.send_all()
            time.sleep(APART_S)
        before = carrying.carried()
        numbered.send_all()
        assert numbered.all_back(lab)
        # Each that takes the kernel now has come from the threads, in this round or the first, and most go back in the next.
        changes += sum(now - then for now, then in zip(carrying.carried(), before))
        if changes >= CHANGES:
            break
    assert numbered.inversions() == []
    assert changes >= CHANGES
