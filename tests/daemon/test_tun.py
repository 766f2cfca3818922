# SPDX-License-Identifier: MIT-0
"""TUN devices, as the kernel and its tools see them."""
import errno
import json
import os

import pytest

import netns
from gwlbtun import fastpath, tun
from gwlbtun.checks import OFFLOADS


@pytest.fixture
def namespace():
    with netns.Namespace("tun") as made, made.entered():
        yield made


def details(namespace, name):
    return json.loads(namespace.ip("-d -j link show", name))[0]


def test_a_device(namespace):
    device = tun.Device("gwi-uur953OEv0f", 3, fastpath.OFFLOAD_MERGE_TCP)
    assert "UP" not in details(namespace, device.name)["flags"]
    device.up()
    link = details(namespace, device.name)
    assert "UP" in link["flags"]
    assert (link["mtu"], link["txqlen"]) == (8500, tun.TX_QUEUE_GIVEN) and link["qdisc"] != "noqueue"
    device.settle()
    link = details(namespace, device.name)
    assert (link["txqlen"], link["qdisc"]) == (10_000, "noqueue")
    info = link["linkinfo"]["info_data"]
    assert (info["type"], info["pi"], info["vnet_hdr"], info["multi_queue"], info["numqueues"], info["persist"]) \
        == ("tun", False, True, True, 3, False)
    assert len(device.fds) == 3
    assert not any(os.get_inheritable(fd) or os.get_blocking(fd) for fd in device.fds)
    device.close()
    assert device.name not in namespace.ip("link")


@pytest.mark.parametrize("kind", ["veth", "tun"])
def test_a_name_of_someone_else(namespace, kind):
    if kind == "veth":
        namespace.ip("link add gwi-1 type veth peer name other")
    else:
        namespace.ip("tuntap add gwi-1 mode tun multi_queue vnet_hdr")
    with pytest.raises(OSError, match="somebody else has an interface gwi-1: delete it") as raised:
        tun.Device("gwi-1", 2, 0)
    assert raised.value.errno == errno.EBUSY
    assert "gwi-1" in namespace.ip("link")


def test_more_queues_than_there_can_be_leave_nothing_behind(namespace):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        tun.Device("gwi-1", 257, 0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert "gwi-1" not in namespace.ip("link")


def test_probe(namespace):
    assert tun.probe(frozenset()) == 0
    assert tun.probe(frozenset({"udp-gso"})) == fastpath.OFFLOAD_UDP_GSO
    assert tun.probe(frozenset(OFFLOADS)) & ~fastpath.OFFLOAD_MERGE_UDP \
        == fastpath.OFFLOAD_MERGE_TCP | fastpath.OFFLOAD_UDP_GSO
    assert "gwprobe" not in namespace.ip("link")
