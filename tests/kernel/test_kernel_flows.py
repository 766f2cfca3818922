# SPDX-License-Identifier: MIT-0
"""Thread K by itself: a receiver on loopback asks for flows, and the map is a real one."""
import contextlib
import ctypes
import itertools
import os
import socket
import threading
import time

import pytest

import packets
from gwlbtun import fastpath, geneve
from gwlbtun.kernel import layout
from gwlbtun.kernel.maps import Maps
from gwlbtun.layout import KernelSetup
from gwlbtun.receiver import Receiver
from gwlbtun.settings import Place
from lab import ENI
from unittest import mock
from workbench import udp_sockets

GWI_INDEX = 77
COOKIE = 7


def wait_for(condition, what="it did not happen", timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


class Stand:
    """A handler with one receiver that runs, one endpoint that is on, and K."""

    def __init__(self, flows=64, idle_s=120, number=0):
        """number: of the receiver that runs."""
        self.shim = fastpath.Shim()
        self.library = self.shim.library
        self.maps = Maps(flows, 4)
        self.handler = fastpath.Handler(self.shim, number + 1, 1, 4, 4096, idle_s, idle_s, 0)
        self.rung, self.bell = os.pipe2(os.O_NONBLOCK)
        setup = KernelSetup(ctypes.addressof(self.maps.endpoints), ctypes.addressof(self.maps.links),
                            ctypes.addressof(self.maps.globals), self.maps.fd["flows"], self.bell, 10**10)
        self.kernel = self.library.gw_kernel_new(self.handler._handler, setup)
        assert self.kernel
        self.endpoint = self.handler.endpoint(ENI)
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        self.switch(self.endpoint)
        self.work = threading.Thread(target=self.library.gw_kernel_work, args=(self.kernel,))
        self.work.start()
        self.socket, self.sender = udp_sockets()
        self.receiver = Receiver(number, Place("U", number, None), self.handler, self.socket, mock.Mock())
        self.receiver.worker.start()
        wait_for(lambda: self.maps.globals.on)

    def switch(self, endpoint, on=True):
        if on:
            queues = (ctypes.c_int * 2)(*(pair[0].fileno() for pair in self.pairs))
            assert self.library.gw_kernel_endpoint_on(self.kernel, endpoint._endpoint, GWI_INDEX, queues, 500) == 0
        else:
            self.library.gw_kernel_endpoint_off(self.kernel, endpoint._endpoint)

    @property
    def counts(self):
        return self.library.gw_kernel_counted(self.kernel).contents

    def header(self, cookie=COOKIE):
        return geneve.gwlb_header(ENI, ENI, cookie, geneve.PROTOCOLS[4]).pack()

    def send(self, port, number=1, cookie=COOKIE, packet=None):
        """And returns when they have been handed over."""
        before = self.receiver.counters()["packets_in"]
        packet = packet or packets.udp("10.0.0.1", "10.0.0.2", port, 2, b"x")
        for _ in range(number):
            self.sender.send(self.header(cookie) + packet)
        wait_for(lambda: self.receiver.counters()["packets_in"] == before + number)

    def entries(self):
        return {key: self.maps.flow(key) for key in self.maps.flow_keys()}

    def entry(self):
        (key, flow), = self.entries().items()
        return key, flow

    def write_out(self):
        """As a T thread does that is told to end: until the ring is empty."""
        device = self.pairs[0][0]
        device.setblocking(False)
        self.endpoint.open()
        self.endpoint.stop()
        self.endpoint.run(fastpath.GWI, 0, device.fileno())
        self.endpoint.close()

    def sweep(self, meanwhile=lambda: None):
        """Until one that began later is over."""
        before = self.counts.sweeps
        wait_for(lambda: meanwhile() or self.counts.sweeps >= before + 2)

    def close(self):
        self.handler.stop()
        self.receiver.wake()
        self.receiver.worker.join()
        self.switch(self.endpoint, False)
        self.library.gw_kernel_stop(self.kernel)
        self.work.join()
        assert self.maps.globals.on == 0
        self.library.gw_kernel_free(self.kernel)
        self.endpoint.unpublish()
        self.endpoint.forget()
        self.endpoint.free()
        self.handler.free()
        for pair in [*self.pairs, (self.socket, self.sender)]:
            for one in pair:
                one.close()
        self.maps.close()
        with contextlib.suppress(OSError):
            os.close(self.bell)
            os.close(self.rung)


@pytest.fixture
def stand(request):
    made = Stand(**getattr(request, "param", {}))
    yield made
    made.close()


def test_a_flow_is_promoted_when_it_has_shown_that_it_lives(stand):
    stand.send(9, 3)
    for port in range(100, 160):  # others of one packet do not help it, nor are they promoted
        stand.send(port)
    time.sleep(0.1)
    assert stand.entries() == {}
    stand.send(9)
    wait_for(lambda: stand.entries())
    key, flow = stand.entry()
    port, = {stand.sender.getsockname()[1]}
    assert key == (b"\x0a\0\0\1" + bytes(12) + b"\x0a\0\0\2" + bytes(12)
                   + (9 << 16 | 2 | 17 << 32 | 4 << 40).to_bytes(8, "little"))
    assert bytes(flow.header) == stand.header()
    assert (flow.gwlb_address, flow.own_address) == (0x0100007F, 0x0100007F)
    assert flow.gwlb_port == socket.htons(port) and flow.receiver == 0
    assert (flow.life, flow.link, flow.seen_s) == (stand.maps.endpoints[0].life, 0, 0)
    assert bytes(flow.way) == bytes(48)
    endpoint = stand.maps.endpoints[0]
    assert endpoint.on == 1 and endpoint.gwi == GWI_INDEX and endpoint.eni.to_bytes(8, "little") == ENI.to_bytes(8, "big")


def test_a_pair_of_addresses_is_put_into_links_once_and_rings(stand):
    for port in 9, 10:
        stand.send(port, 4)
    wait_for(lambda: len(stand.entries()) == 2)
    assert stand.counts.links == 1 and stand.maps.links[0].gwlb_address == 0x0100007F
    assert stand.maps.links[0].valid == 0
    if stand.bell >= 0:
        assert os.read(stand.rung, 16) == (1).to_bytes(8, "little")


def link_of(stand, flow):
    link = stand.maps.links[flow.link]
    return link.gwlb_address, link.own_address


@pytest.mark.parametrize("stand", [{"flows": 2048, "idle_s": 5}], indirect=True)
def test_pairs_of_addresses_that_no_flow_has_any_more_make_room(stand):
    def send_from(number):
        packet = stand.header() + packets.udp("10.0.0.1", "10.0.0.2", 10_000 + number, 2, b"x")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((f"127.1.{number >> 8}.{number & 255}", 0))
            for _ in range(4):
                sender.sendto(packet, stand.socket.getsockname())

    def see():
        flow.seen_s = stand.maps.globals.now_s
        stand.maps.set_flow(kept, flow)

    def free():
        return stand.library.gw_kernel_free_links(stand.kernel, 0)

    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    kept, flow = stand.entry()
    for number in range(layout.LINKS):
        send_from(number)
        wait_for(lambda asked=number + 2: stand.counts.requests >= asked)
    assert (stand.counts.links, stand.counts.full) == (layout.LINKS, 1)
    stand.sweep(meanwhile=see)
    assert free() == 0

    def entries():
        """The kept one does not idle; all others may."""
        see()
        stand.library.gw_kernel_sweep(stand.kernel)
        stand.handler.expire()
        return stand.entries()

    freed = []
    wait_for(lambda: len(entries()) == 1)
    wait_for(lambda: entries() and not freed.append(free()) and sum(freed) == layout.LINKS - 1)
    assert link_of(stand, flow) == (flow.gwlb_address, flow.own_address)
    assert sum(link.own_address != 0 for link in stand.maps.links) == 1
    send_from(5000)
    wait_for(lambda: len(entries()) == 2)
    for found in stand.entries().values():
        assert link_of(stand, found) == (found.gwlb_address, found.own_address)
    assert stand.counts.links == layout.LINKS


@pytest.mark.parametrize("packet", [
    packets.icmp("10.0.0.1", "10.0.0.2", 8, 0, b"\0\1\0\1"),
    packets.ipv4("10.0.0.1", "10.0.0.2", packets.UDP, bytes(16), more=True, dont_fragment=False),
    packets.ipv4("10.0.0.1", "10.0.0.2", 47, bytes(16)),
])
def test_what_is_no_plain_tcp_or_udp_is_not_promoted(stand, packet):
    stand.send(0, 20, packet=packet)
    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    assert len(stand.entries()) == 1 and stand.counts.requests == 1


def test_a_flow_that_goes_on_coming_up_asks_ever_less_often(stand):
    stand.send(9, 4)
    wait_for(lambda: stand.counts.requests == 1)
    for _ in range(10):
        stand.send(9, 100)
    wait_for(lambda: stand.counts.requests == 3)
    assert stand.counts.promoted == 1 and stand.counts.replaced == 0


def test_a_flow_that_comes_up_again_after_a_while_asks_as_at_first(stand):
    """The kernel had it, until somebody's packet under another header, which the threads refused, ended that."""
    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    key, flow = stand.entry()
    flow.life = 0
    stand.maps.set_flow(key, flow)
    time.sleep(5)  # longer than GW_PROMOTE_STALE_S
    stand.send(9, 5)
    wait_for(lambda: stand.entries() and stand.entry()[1].life)


def test_an_entry_dies_before_a_packet_with_a_new_header_is_handed_on_and_is_replaced_later(stand):
    def entries(alive):
        return [flow for flow in stand.entries().values() if bool(flow.life) == alive]

    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    end, took = time.monotonic() + 60, 1.0
    cookies = itertools.count(COOKIE + 1)
    while took > 0.09:  # a sweep may have deleted the dead entry later than that
        assert time.monotonic() < end
        cookie, begin = next(cookies), time.monotonic()
        changed, replaced = stand.counts.changed, stand.counts.replaced
        stand.send(9, 1, cookie=cookie)
        wait_for(lambda: stand.maps.endpoints[0].changing == 0 and not entries(alive=True))
        dead, changed = entries(alive=False), stand.counts.changed - changed
        stand.send(9, 3, cookie=cookie)
        wait_for(lambda: entries(alive=True))
        took = time.monotonic() - begin
    assert changed == 1 and [flow.way[layout.WAY_IN].left_ns > 0 for flow in dead] == [True]
    _, flow = stand.entry()
    assert bytes(flow.header) == stand.header(cookie)
    assert flow.way[layout.WAY_IN].left_ns > 0 and flow.way[layout.WAY_IN].up_ns == 0
    assert stand.counts.replaced == replaced + 1


@pytest.mark.parametrize("stand", [{"idle_s": 5}], indirect=True)
def test_a_flow_that_the_kernel_carries_does_not_expire_and_one_that_idles_leaves_the_map(stand):
    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    key, flow = stand.entry()
    end = time.monotonic() + 2.5 * 5
    while time.monotonic() < end:
        flow.seen_s = stand.maps.globals.now_s
        stand.maps.set_flow(key, flow)
        time.sleep(0.1)
        stand.library.gw_kernel_sweep(stand.kernel)
        assert stand.handler.expire() == 0

    def gone():
        stand.library.gw_kernel_sweep(stand.kernel)
        return stand.handler.expire()

    wait_for(gone)
    wait_for(lambda: not stand.entries())
    assert stand.counts.swept == 1 and stand.counts.entries == 0


def test_entries_of_an_endpoint_that_is_switched_off_are_dead_at_once_and_swept_later(stand):
    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    life = stand.entry()[1].life
    stand.switch(stand.endpoint, False)
    endpoint = stand.maps.endpoints[0]
    assert endpoint.on == 0 and endpoint.life != life
    stand.switch(stand.endpoint)
    assert endpoint.on == 1 and endpoint.life != life
    wait_for(lambda: not stand.entries())
    stand.send(9, 4)  # counted anew
    wait_for(lambda: stand.entries())
    assert stand.entry()[1].life == endpoint.life


def test_an_endpoint_whose_ring_does_not_move_holds_up_no_other_and_begins_anew_when_it_does(stand):
    other = stand.handler.endpoint(ENI + 1)
    other.open()
    stand.switch(other)
    own, others = (stand.maps.endpoints[endpoint.slot()] for endpoint in (stand.endpoint, other))
    stand.send(9, 4)  # nobody takes what lies in its ring
    wait_for(lambda: stand.entries())
    life = own.life

    def others_are_through():
        others.wanted = 1
        return stand.maps.globals.done_in_ns[0]
    wait_for(others_are_through)
    assert own.life != life and stand.counts.resets == 1
    done = stand.maps.globals.done_in_ns[0]
    stand.send(10, 50)
    for _ in range(3):  # and this does not end
        before = stand.counts.fences
        wait_for(lambda: others_are_through() > done and stand.counts.fences > before + 20)
    assert not any(flow.life == own.life for flow in stand.entries().values()) and stand.counts.resets == 1
    stand.write_out()
    wait_for(lambda: stand.send(10) or any(flow.life == own.life for flow in stand.entries().values()))
    stand.switch(other, False)
    other.stop()
    other.unpublish()
    other.forget()
    other.free()


@pytest.mark.parametrize("stand", [{"number": layout.RECEIVERS}], indirect=True)
def test_flows_of_more_receivers_than_the_programs_know_do_not_take_the_kernel(stand):
    cpus = stand.maps.globals.cpus
    for cookie in range(COOKIE, COOKIE + 20):
        before = stand.counts.fences
        stand.maps.endpoints[0].wanted = 1
        wait_for(lambda: stand.counts.fences > before)
        stand.send(9, 5, cookie=cookie)
        stand.write_out()
    assert stand.counts.requests > 0  # of changes
    assert stand.entries() == {} and stand.maps.globals.cpus == cpus and stand.maps.globals.lease_ns == 0
    wait_for(lambda: stand.maps.endpoints[0].changing == 0)


@pytest.mark.parametrize("stand", [{"flows": 2}], indirect=True)
def test_a_full_map_is_counted_and_does_no_harm(stand):
    for port in range(10, 16):
        stand.send(port, 4)
    wait_for(lambda: stand.counts.requests == 6)
    wait_for(lambda: stand.counts.full == 4)
    assert len(stand.entries()) == 2 and stand.counts.refused == 0


def test_an_idle_k_sleeps(stand):
    def switches():
        with open(f"/proc/self/task/{stand.work.native_id}/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))

    def switches_in_a_second():
        begin, before = time.monotonic(), switches()
        time.sleep(1)
        return (switches() - before) / (time.monotonic() - begin)

    assert switches_in_a_second() <= 2
    stand.send(9, 4)
    wait_for(lambda: stand.entries())
    time.sleep(2)
    assert switches_in_a_second() <= 40
