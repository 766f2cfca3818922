# SPDX-License-Identifier: MIT-0
"""Looks at threads of the packet path: who has work and does none."""
import contextlib
import os

import pytest

from gwlbtun.fastpath import GWI, GWO
from lab import ENI
from workbench import Bench, encapsulated


@pytest.fixture
def bench():
    with contextlib.closing(Bench()) as made:
        yield made


def test_a_receiver_with_nothing_to_receive_is_well(bench):
    assert [bench.handler.receiver_stalled(0, bench.socket.fileno()) for _ in range(3)] == [0, 0, 0]


def test_a_receiver_that_leaves_what_came_is_not(bench):
    bench.add(ENI)
    bench.send(encapsulated(ENI))
    assert [bench.handler.receiver_stalled(0, bench.socket.fileno()) for _ in range(3)] == [1, 2, 3]
    assert bench.receive()["packets_in"] == 1
    assert bench.handler.receiver_stalled(0, -1) == 0


def test_a_tunnel_thread_whose_rings_or_queue_hold_something_is_not(bench):
    bench.add(ENI)
    endpoint = bench.endpoints[ENI]
    endpoint.open()  # before that, its threads do not exist
    assert [endpoint.stalled(side, 0, -1) for side in (GWI, GWO)] == [(0, -1)] * 2
    bench.send(encapsulated(ENI))
    bench.receive()
    assert [endpoint.stalled(GWI, 0, -1)[0] for _ in range(2)] == [1, 2]
    assert endpoint.stalled(GWO, 0, -1) == (0, -1)
    queue, other = os.pipe()
    try:
        assert endpoint.stalled(GWO, 0, queue) == (0, -1)
        os.write(other, b"x")
        assert [endpoint.stalled(GWO, 0, queue)[0] for _ in range(2)] == [1, 2]
        os.read(queue, 1)
        assert endpoint.stalled(GWO, 0, queue) == (0, -1)
    finally:
        os.close(queue)
        os.close(other)


def test_an_endpoint_that_is_gone_is_well(bench):
    bench.add(ENI)
    endpoint = bench.endpoints.pop(ENI)
    endpoint.unpublish()
    endpoint.free()
    assert endpoint.stalled(GWI, 0, -1) == (0, -1)
