# SPDX-License-Identifier: MIT-0
"""A flow whose header changes again and again, and the others of its endpoint."""
import time

from carrying import Carrying
from kernelpath import REDIRECT, UP, frame, packet, returned

from gwlbtun.kernel import layout


def test_replies_are_held_back_while_a_flow_changes(world):
    """And they come back as soon as a fence has passed: nothing of them is in a backlog."""
    inner = packet()
    key = world.add(inner)
    world.endpoint.changing = 1
    assert world.run_out(inner) == (UP, inner)
    assert world.run_in(frame(inner)).result == REDIRECT
    out = world.maps.flow(key).way[layout.WAY_OUT]
    assert not out.kernel and out.up_ns and not out.left_ns and world.endpoint.wanted
    world.endpoint.changing = 0
    assert world.run_out(inner) == (UP, inner)
    world.maps.globals.done_out_ns = time.monotonic_ns()
    assert world.run_out(inner) == (REDIRECT, returned(inner))


def test_others_stay_in_the_kernel(lab):
    carrying = Carrying(lab)
    changing = carrying.packet(port=2000)
    assert carrying.until_carried(port=2000) and carrying.until_carried()
    before = carrying.carried()
    for cookie in range(1, 31):
        carrying.send(4, port=2000)  # enough for it to be asked for
        carrying.endpoint.flow(changing).renew(cookie=cookie)
        carrying.endpoint.send(carrying.packet(port=2000))
        carrying.sent += 1
        carrying.send(10)
    assert carrying.all_back()
    carried = [now - then for now, then in zip(carrying.carried(), before)]
    assert carried[0] >= 300 and carried[1] > 0, carried
