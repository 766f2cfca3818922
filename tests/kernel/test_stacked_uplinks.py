# SPDX-License-Identifier: MIT-0
"""Uplinks that lie above other interfaces, a VLAN's and a bond. Few kernels of containers have them; the guests of
`make test-kernels` do. What is tested of those is tested of a plain one, too."""
import pytest

import netns
from carrying import Carrying
from lab import APPLIANCE, BALANCER
from linux import refusal

UPLINKS = {"veth": "veth", "vlan": "vlan id 7", "bond": "bond mode active-backup miimon 20"}
REFUSALS = {kind: refusal(words) for kind, words in UPLINKS.items()}
PRESENT = [kind for kind, said in REFUSALS.items() if not said]


def stack(lab, kind):
    """Puts the kind of uplink above both ends of the wire of a laboratory, and their addresses there. Its name."""
    if kind == "veth":
        return "eth0"
    if kind == "bond":
        netns.link(lab.outside, "eth1", lab.appliance, "eth1")
    for space, addresses in (lab.outside, BALANCER), (lab.appliance, [APPLIANCE]):
        space.ip("address flush dev eth0")
        space.ip(f"link add link eth0 name upper mtu 9001 type {UPLINKS[kind]}")
        if kind == "bond":
            for name in "eth0", "eth1":
                space.ip(f"link set {name} down")
                space.ip(f"link set {name} master upper")
        space.ip("link set upper up")
        for address in addresses:
            space.ip(f"address add {address}/24 dev upper")
    return "upper"


@pytest.mark.parametrize("kind", UPLINKS)
def test_which_kinds_there_are(kind):
    """Of those that are not there the other tests are not there, and the kernel says so."""
    print(f"{kind}: {REFUSALS[kind] or 'this kernel has it'}")
    assert REFUSALS[kind] in ("", "Error: Unknown device type.")


@pytest.mark.parametrize("version, protocol", [(4, "udp"), (6, "tcp")])
@pytest.mark.parametrize("kind", PRESENT)
def test_a_known_flow_takes_the_kernel(lab, kind, version, protocol):
    """The load balancer compares the inner packets byte for byte."""
    stack(lab, kind)
    carrying, flow = Carrying(lab), {"version": version, "protocol": protocol}
    assert carrying.until_carried(**flow), carrying.ebpf()
    assert carrying.takes_kernel(50, **flow) == (50, 50)


@pytest.mark.parametrize("kind", PRESENT)
def test_what_the_kernel_sends_is_what_the_threads_send(lab, kind):
    uplink = stack(lab, kind)
    carrying = Carrying(lab, "-I", uplink)
    carrying.send()
    assert carrying.all_back()
    by_threads = carrying.outer_headers(3)
    assert carrying.carried()[1] == 0
    assert carrying.until_carried(), carrying.ebpf()
    before = carrying.carried()
    by_kernel = carrying.outer_headers(20)
    assert carrying.carried()[1] - before[1] == 20
    assert by_kernel == by_threads


@pytest.mark.parametrize("kind", PRESENT)
def test_the_wire_below_goes_down(lab, kind):
    """A bond has another one, and keeps its Ethernet address."""
    stack(lab, kind)
    carrying = Carrying(lab)
    assert carrying.until_carried(), carrying.ebpf()
    lab.appliance.ip("link set eth0 down")
    if kind != "bond":
        lab.appliance.ip("link set eth0 up")
    carrying.skip_lost()
    # Again, and for good: the kernel may still carry packets before gwlbtun has heard what happened.
    assert lab.wait(lambda: carrying.until_carried() and carrying.takes_kernel(20) == (20, 20))
