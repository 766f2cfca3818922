# SPDX-License-Identifier: MIT-0
"""What passes under overload: the shares, how they follow the queue, and the program that the kernel runs."""
import collections
import contextlib
import ctypes
import itertools
import socket
import struct

import pytest

from gwlbtun import overload
from gwlbtun.sieve import ENDPOINTS_MOST, LOSING_MOST, fair_share, program
from gwlbtun.steering import REST, Sight, Steering

ENI = 0x0123456789ABCDEF
SO_ATTACH_FILTER = 26
ROOM = 64 << 20
FOOTPRINT = 1000  # bytes that a packet takes in the simulated queue


@pytest.mark.parametrize("offered, capacity, share", [
    ([10, 20], 30, None),
    ([100], 25, 25),
    ([10, 100], 50, 40),
    ([10, 100, 100], 60, 25),
    ([100, 100, 100], 60, 20),
    ([], 10, None),
])
def test_who_asks_for_less_than_the_fair_share_has_all(offered, capacity, share):
    assert fair_share(offered, capacity) == share


# ---- The program -----------------------------------------------------------------------------------------------------


def geneve(eni):
    """The beginning of a packet as the load balancer writes it."""
    return bytes([8, 0, 8, 0, 0, 0, 0, 0]) + struct.pack("!HBBQ", 0x0108, 1, 2, eni) + bytes(24)


def passing(code, payloads):
    """Those of the datagrams that pass the program."""
    datagrams = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(*datagrams) as receiver, socket.socket(*datagrams) as sender:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        octets = ctypes.create_string_buffer(code, len(code))
        receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(octets)))
        found = []
        for payload in payloads:
            sender.sendto(payload, receiver.getsockname())
            with contextlib.suppress(BlockingIOError):
                found.append(receiver.recv(100))
        receiver.settimeout(0.1)  # a busy kernel may be late
        with contextlib.suppress(socket.timeout):
            while True:
                found.append(receiver.recv(100))
        return found


def passed(code, payload, count):
    """How many of so many datagrams pass the program."""
    return len(passing(code, [payload] * count))


def test_the_kernel_drops_all_but_the_share_of_an_endpoint_and_nothing_of_others():
    code = program({ENI: 0.25, ENI + 1: 1.0}, 1.0)
    assert 350 < passed(code, geneve(ENI), 2000) < 650
    for eni in ENI + 1, ENI + 2, ENI + (1 << 32), 0:
        assert passed(code, geneve(eni), 100) == 100


def test_strangers_lose_what_the_named_ones_keep():
    code = program({ENI: 1.0}, 0.1)
    assert passed(code, geneve(ENI), 100) == 100
    assert 100 < passed(code, geneve(ENI + 1), 2000) < 300


def test_what_is_no_packet_of_the_load_balancer_passes_as_strangers_do():
    for payload in b"", b"x", geneve(ENI)[:19], bytes(40):
        assert passed(program({ENI: 0.0}, 1.0), payload, 10) == 10  # on to be counted
        assert passed(program({ENI: 1.0}, 0.0), payload, 10) == 0


def test_the_longest_program_is_taken_and_finds_each_endpoint():
    enis = [ENI * (number + 1) & 0xFFFFFFFFFFFFFFFF for number in range(ENDPOINTS_MOST)]
    code = program({eni: float(number >= LOSING_MOST) for number, eni in enumerate(enis)}, 0.0)
    assert passing(code, map(geneve, enis)) == list(map(geneve, enis[LOSING_MOST:]))
    assert not passing(code, [geneve(eni ^ 0xFF00) for eni in enis])


def test_an_endpoint_above_its_share_does_not_pass_for_another_with_the_same_half_of_the_id():
    twins = [ENI + (number << 32) for number in range(40)]
    code = program({**{eni: 1.0 for eni in twins}, twins[20]: 0.0, ENI + 1: 1.0, ENI - 1: 0.0}, 0.0)
    others = [ENI - 1, ENI + 1, ENI + 2]
    assert passing(code, map(geneve, twins + others)) == list(map(geneve, twins[:20] + twins[21:] + [ENI + 1]))


# ---- Steering --------------------------------------------------------------------------------------------------------


class Queue:
    """A receiver and its queue, as a fluid: packets come, pass by their shares, and are served in the order of arrival."""

    def __init__(self, capacity, per_datagram=1):
        self.capacity, self.per_datagram = capacity, per_datagram
        self.now, self.dropped = 0.0, 0.0
        self.waiting = collections.deque()
        self.arrived, self.carried, self.asked = collections.Counter(), collections.Counter(), collections.Counter()
        self.shares, self.shed = {}, set()

    def sight(self):
        return Sight(self.now, ROOM, int(self.length() * FOOTPRINT), int(self.dropped), int(sum(self.arrived.values())),
                     {eni: int(count) for eni, count in self.arrived.items() if eni != REST}, 168)

    def length(self):
        return sum(sum(packets.values()) for packets in self.waiting)

    def run(self, offered, seconds, step=0.01):
        for _ in range(round(seconds / step)):
            self.now += step
            self._take(offered, step)
            self._serve(self.capacity * step)

    def _take(self, offered, step):
        passing = {eni: rate * step * self.shares.get(eni, 1) for eni, rate in offered.items()}
        admitted = min(1.0, max(0.0, ROOM / FOOTPRINT - self.length()) / max(sum(passing.values()), 1e-9))
        self.waiting.append({eni: packets * admitted for eni, packets in passing.items()})
        for eni, packets in passing.items():
            self.asked[eni] += offered[eni] * step
            self.dropped += (offered[eni] * step - packets * admitted) / self.per_datagram

    def _serve(self, work):
        while self.waiting and work > 1e-9:
            packets = self.waiting[0]
            needed = sum(count / 2 if eni in self.shed else count for eni, count in packets.items())
            part = min(1.0, work / needed) if needed else 1.0
            work -= needed * part
            for eni, count in packets.items():
                self.arrived[eni] += count * part
                self.carried[eni] += 0 if eni in self.shed else count * part
                packets[eni] -= count * part
            if part == 1:
                self.waiting.popleft()

    def steer(self, steering, offered, seconds):
        for _ in range(round(seconds / 0.05)):
            self.run(offered, 0.05)
            self.shares = steering.look(self.sight())
            self.shed = set(self.shares) if steering.sheds else set()

    def steered(self, steering, offered, seconds):
        """The packets a second that were carried meanwhile, by ENI ID."""
        before = self.carried.copy()
        self.steer(steering, offered, seconds)
        return {eni: (self.carried[eni] - before[eni]) / seconds for eni in offered}


def overloaded(offered, capacity, **more):
    queue = Queue(capacity, **more)
    queue.run(offered, 2)
    return queue, Steering(queue.sight())


@pytest.mark.parametrize("flood", [60_000, 200_000, 800_000])
@pytest.mark.parametrize("per_datagram", [1, 32])
def test_a_flood_fills_what_others_leave_and_the_queue_gets_short(flood, per_datagram):
    offered = {1: flood, 2: 1000, 3: 10_000}
    queue, steering = overloaded(offered, 50_000, per_datagram=per_datagram)
    queue.steer(steering, offered, 3)
    served = queue.steered(steering, offered, 5)
    assert served[2] == pytest.approx(1000, rel=0.05) and served[3] == pytest.approx(10_000, rel=0.05)
    assert served[1] == pytest.approx(39_000, rel=0.1)
    assert queue.length() < 10_000


@pytest.mark.parametrize("floods", [(400_000, 1_200_000), (1_000_000, 50_000), (900_000, 300_000, 100_000, 40_000)])
@pytest.mark.parametrize("per_datagram", [1, 32])
def test_floods_have_the_same_each_and_small_flows_beside_them_have_all(floods, per_datagram):
    offered = {**dict(enumerate(floods)), 8: 1000, 9: 6000}
    queue, steering = overloaded(offered, 50_000, per_datagram=per_datagram)
    queue.steer(steering, offered, 5)
    served = queue.steered(steering, offered, 5)
    assert served[8] == pytest.approx(1000, rel=0.05) and served[9] == pytest.approx(6000, rel=0.05)
    for number, _ in enumerate(floods):
        assert served[number] == pytest.approx(43_000 / len(floods), rel=0.15)


def test_a_flood_that_begins_beside_another_is_found_within_a_second():
    first, both = {1: 400_000, 8: 1000, 9: 10_000}, {1: 400_000, 2: 1_200_000, 8: 1000, 9: 10_000}
    queue, steering = overloaded(first, 50_000)
    queue.steer(steering, first, 5)
    queue.steer(steering, both, 1)
    served = queue.steered(steering, both, 4)
    assert served[8] == pytest.approx(1000, rel=0.1) and served[9] == pytest.approx(10_000, rel=0.1)


def test_small_flows_keep_most_beside_a_flood_that_comes_and_goes():
    flood, pause = {1: 1_000_000, 8: 1000, 9: 10_000}, {1: 0, 8: 1000, 9: 10_000}
    queue, steering = overloaded(flood, 50_000)
    before, asked = queue.carried.copy(), queue.asked.copy()
    for _ in range(5):
        queue.steer(steering, flood, 1)
        queue.steer(steering, pause, 1)
    for eni in 8, 9:
        assert queue.carried[eni] - before[eni] > 0.85 * (queue.asked[eni] - asked[eni])


def test_a_receiver_that_stands_still_for_a_while_is_no_endpoint_s_fault():
    offered = {1: 400_000, 8: 1000, 9: 10_000}
    queue, steering = overloaded(offered, 50_000)
    queue.steer(steering, offered, 4)
    before, asked = queue.carried.copy(), queue.asked.copy()
    for _ in range(10):
        queue.capacity = 0
        queue.steer(steering, offered, 0.2)
        queue.capacity = 50_000
        queue.steer(steering, offered, 0.8)
    for eni in 8, 9:
        assert queue.carried[eni] - before[eni] > 0.9 * (queue.asked[eni] - asked[eni])


def test_strangers_are_one_party():
    offered = {REST: 300_000, 1: 10_000}
    queue, steering = overloaded(offered, 50_000)
    queue.steer(steering, offered, 5)
    assert 1 not in queue.shares and queue.shares[REST] < 0.3


def test_everything_passes_when_the_flood_is_over_and_the_next_flood_is_seen():
    flood, calm = {1: 200_000, 2: 1000}, {1: 1000, 2: 1000}
    queue, steering = overloaded(flood, 50_000)
    queue.steer(steering, flood, 5)
    queue.steer(steering, calm, 2)
    assert queue.shares == {} and steering.calm > 0
    queue.steer(steering, flood, 3)
    assert 2 not in queue.shares and 0.1 < queue.shares[1] < 0.4
    assert queue.length() < 10_000


def test_what_comes_after_a_flood_and_a_pause_passes_whole():
    queue, steering = overloaded({1: 400_000}, 50_000)
    queue.steer(steering, {1: 400_000}, 3)
    queue.steer(steering, {1: 0}, 1)
    before = queue.dropped
    queue.steer(steering, {1: 49_000}, 3)
    assert queue.dropped == before and queue.shares == {}


def test_what_can_be_carried_passes_soon_after_a_flood_that_left_little_of_the_core():
    flood, after = {1: 320_000, 2: 1000}, {1: 60_000, 2: 100}
    queue, steering = overloaded(flood, 30_000)
    queue.steer(steering, flood, 4)
    queue.capacity = 80_000
    queue.steer(steering, {1: 0, 2: 0}, 0.1)
    before = queue.dropped
    queue.steer(steering, after, 1)
    assert queue.dropped - before < 60_000 * 0.1
    assert steering.calm > 10


def test_looks_that_take_long_are_rarer(book, monkeypatch):
    """Each takes a second of the thread's time; there may be many receivers."""
    clock = itertools.count()
    monkeypatch.setattr(overload.time, "thread_time", lambda: float(next(clock)))
    waited = []

    class Stopping:
        def wait(self, seconds):
            waited.append(seconds)
            return len(waited) == 3
    overload.Overload([], None, Stopping(), book.log)._run()
    assert waited == [overload.LOOK_S, 1 / overload.SHARE, 1 / overload.SHARE]
