# SPDX-License-Identifier: MIT-0
"""What makes the programs at gwi and gwo step aside, and that they come back."""
import contextlib
import select
import socket
import time

import pytest

import netns
from gwlbtun import rtnetlink
from gwlbtun.kernel.aside import BURST, LINE_S, Aside, Place
from turning import turn_until

GWI, GWO = (7, 0), (7, 1)


class Stand:
    """gwi and gwo in a namespace of their own, which the test's thread is in."""

    def __init__(self, stack, book):
        self.space = stack.enter_context(netns.Namespace("aside"))
        stack.enter_context(self.space.entered())
        self.foreign, self.put, self.stood = set(), {}, {}
        self.aside = Aside(self.foreign.__contains__, book.log)
        stack.callback(self.aside.close)
        for name in "gwi", "gwo":
            self.space.ip(f"tuntap add {name} mode tun multi_queue")
            self.space.ip(f"link set {name} up")
            rtnetlink.use_no_queue(socket.if_nametoindex(name))
        self.stack = stack

    def watch(self):
        for key, name in ((GWI, "gwi"), (GWO, "gwo")):
            self.aside.add(key, Place(socket.if_nametoindex(name), name, self._put(key), self._stand(key)))

    def _put(self, key):
        return lambda aside: self.put.__setitem__(key, aside)

    def _stand(self, key):
        return lambda up: self.stood.__setitem__(key, up)

    def until(self, **sides):
        """Both sides are as said: aside or not."""
        def as_said():
            return all(self.put.get(key, False) == sides.get(name, False) for name, key in (("gwi", GWI), ("gwo", GWO)))
        assert turn_until(as_said, self.aside), (self.put, self.aside.reasons)

    def tap(self, interface=None, protocol=3):
        """What tcpdump opens."""
        tap = self.stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol)))
        if interface:
            tap.bind((interface, protocol))
        return tap


@pytest.fixture
def stand(book):
    with contextlib.ExitStack() as stack:
        yield Stand(stack, book)


def test_nothing_is_in_the_way(stand):
    stand.watch()
    stand.until()
    assert stand.put == {GWI: False, GWO: False} and stand.aside.lines == []


def test_looking_is_no_change_to_look_at(stand):
    """What the kernel answers must not come back as a report, or looking would never end."""
    stand.watch()
    stand.space.run("tc", *"qdisc replace dev gwo root tbf rate 1mbit burst 10k latency 1s".split())
    stand.until(gwo=True)
    for _ in range(10):  # a report of the change itself may be late
        stand.aside.hear()
        stand.aside.look()
        if not select.select([stand.aside], [], [], 0.2)[0]:
            return
    raise AssertionError("it never ends")


def test_a_qdisc_that_shapes(stand, book):
    stand.watch()
    stand.space.run("tc", *"qdisc replace dev gwo root tbf rate 1mbit burst 10k latency 1s".split())
    stand.until(gwo=True)
    assert stand.aside.lines == ["gwo: it has the qdisc tbf"]
    book.wait_for("What leaves by gwo goes through gwlbtun's threads instead of the kernel alone, as it has the qdisc tbf.")
    stand.space.run("tc", *"qdisc replace dev gwo root noqueue".split())
    stand.until()
    book.wait_for("What leaves by gwo may take the kernel again")
    assert stand.aside.lines == []


def test_a_qdisc_that_is_there_already(stand):
    stand.space.run("tc", *"qdisc replace dev gwi root tbf rate 1mbit burst 10k latency 1s".split())
    stand.watch()
    assert stand.put == {GWI: True, GWO: False}


def test_a_filter_at_the_egress(stand):
    stand.watch()
    stand.space.run("tc", *"qdisc add dev gwo clsact".split())
    stand.space.run("tc", *"filter add dev gwo ingress bpf da bytecode".split(), "1,6 0 0 0")
    stand.until()
    stand.space.run("tc", *"filter add dev gwo egress bpf da bytecode".split(), "1,6 0 0 0")
    stand.until(gwo=True)
    assert stand.aside.lines == ["gwo: tc filters are at its egress"]
    stand.space.run("tc", *"filter del dev gwo egress".split())
    stand.until()
    assert stand.put == {GWI: False, GWO: False}


@pytest.mark.parametrize("interface, sides", [("gwo", {"gwo": True}), ("gwi", {"gwi": True}),
                                              (None, {"gwi": True, "gwo": True})])
def test_a_packet_socket(stand, interface, sides):
    stand.watch()
    tap = stand.tap(interface)
    stand.until(**sides)
    what = "it" if interface else "all interfaces"
    assert stand.aside.lines == [f"{name}: a packet socket taps {what}" for name in sides]
    tap.close()
    stand.until()


def test_sockets_that_see_nothing_of_what_leaves(stand):
    """Those of DHCP clients ask for one protocol, and such see only what comes in; another interface is no matter."""
    stand.space.ip("tuntap add other0 mode tun")
    stand.space.ip("link set other0 up")
    stand.tap("gwo", protocol=0x0800), stand.tap(protocol=0x88CC), stand.tap("other0")
    stand.watch()
    assert not turn_until(lambda: any(stand.put.values()), stand.aside, timeout=1.0)


def test_programs_of_others(stand):
    stand.watch()
    stand.foreign.add(socket.if_nametoindex("gwi"))
    stand.until(gwi=True)
    assert stand.aside.lines == ["gwi: eBPF programs of others are at its egress"]
    stand.foreign.clear()
    stand.until()


def test_several_reasons_last_until_the_last_is_over(stand):
    stand.watch()
    tap = stand.tap("gwo")
    stand.space.run("tc", *"qdisc replace dev gwo root tbf rate 1mbit burst 10k latency 1s".split())
    assert turn_until(lambda: len(stand.aside.reasons.get(GWO, [])) == 2, stand.aside)
    tap.close()
    assert turn_until(lambda: len(stand.aside.reasons.get(GWO, [])) == 1, stand.aside)
    assert stand.put == {GWI: False, GWO: True}
    stand.space.run("tc", *"qdisc replace dev gwo root noqueue".split())
    stand.until()


def test_an_interface_goes_down_and_comes_up_and_goes_away(stand):
    stand.watch()
    stand.space.ip("link set gwi down")
    assert turn_until(lambda: stand.stood.get(GWI) is False, stand.aside)
    stand.space.ip("link set gwi up")
    assert turn_until(lambda: stand.stood.get(GWI) is True, stand.aside)
    stand.space.ip("link del gwo")
    assert turn_until(lambda: GWO in stand.stood and stand.stood[GWO] is None, stand.aside)
    assert GWI in stand.stood and stand.stood[GWI] is True


def test_what_is_no_longer_watched(stand):
    stand.watch()
    stand.tap()
    stand.until(gwi=True, gwo=True)
    stand.aside.remove(GWI)
    assert stand.aside.lines == ["gwo: a packet socket taps all interfaces"]
    stand.aside.remove(GWO)
    assert stand.aside.lines == [] and stand.aside.reasons == {}


def test_lines_come_at_a_bounded_rate(stand, book):
    begin = time.monotonic()
    stand.watch()
    for _ in range(15):
        stand.foreign.add(socket.if_nametoindex("gwi"))
        stand.until(gwi=True)
        stand.foreign.clear()
        stand.until()
    lines = sum("What leaves by gwi" in line for line in book.lines())
    assert lines <= BURST + 1 + (time.monotonic() - begin) / LINE_S
