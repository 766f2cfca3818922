# SPDX-License-Identifier: MIT-0
"""Hooks that give an interface a qdisc, as people write them: what they set stands, and noqueue comes only without them."""
import itertools

import pytest

import packets
from lab import CLIENT, ENI, PASSTHROUGH, SERVER

PACKET = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x")

KINDS = {
    "tbf": "tbf rate 100mbit burst 128kb latency 50ms",
    "htb": "htb default 10",
    "fq_codel": "fq_codel",
    "netem": "netem delay 1ms",
    "pfifo": "pfifo limit 1000",
}
# The class that unclassified traffic goes to.
CLASSES = {"htb": "tc class add dev \"$D\" parent 1: classid 1:10 htb rate 1gbit\n"}


def hook(kind, verb, handle, device):
    lines = f'\nD="{device}"\ntc qdisc {verb} dev "$D" root {"handle 1: " if handle else ""}{KINDS[kind]}\n'
    return PASSTHROUGH + lines + (CLASSES.get(kind, "") if handle else "")


def has(lab, kind):
    """Whether this kernel knows the kind of qdisc."""
    lab.appliance.run("ip", "tuntap", "add", "mode", "tun", "name", "probe", check=False)
    return not lab.appliance.run("tc", "qdisc", "replace", "dev", "probe", "root", *KINDS[kind].split(), check=False).returncode


def roots(lab, device):
    shown = lab.appliance.run("tc", "qdisc", "show", "dev", device).stdout
    return [line.split()[1:3] for line in shown.splitlines() if " root " in line]


def up(lab, daemon, endpoint):
    endpoint.send(PACKET)
    assert lab.wait(lambda: endpoint.received == [PACKET])
    assert lab.wait(lambda: daemon.eni(endpoint)["state"] == "up")


@pytest.mark.parametrize("kind", KINDS)
def test_a_qdisc_that_a_hook_sets_stands(lab, kind):
    if not has(lab, kind):  # kernels built small lack some
        assert kind not in ("tbf", "htb", "pfifo")
        return
    for number, (verb, handle, device) in enumerate(itertools.product(("add", "replace"), (True, False), ("$2", "$3"))):
        daemon = lab.start(hook=hook(kind, verb, handle, device))
        endpoint = lab.endpoint(ENI + number)
        up(lab, daemon, endpoint)
        assert daemon.health()["hooksFailed"] == 0, (verb, handle, device, daemon.log())
        shaped, other = (endpoint.gwi, endpoint.gwo) if device == "$2" else (endpoint.gwo, endpoint.gwi)
        (found, its_handle), = roots(lab, shaped)
        assert found == kind and (its_handle == "1:") == handle, (verb, handle, device)
        assert roots(lab, other) == [["noqueue", "0:"]] or "noqueue" in lab.appliance.ip("link show", other)
        assert daemon.stop() == 0


def test_without_such_a_hook_interfaces_have_no_queue(lab):
    daemon = lab.start()
    endpoint = lab.endpoint()
    up(lab, daemon, endpoint)
    for device in endpoint.gwi, endpoint.gwo:
        assert " qdisc noqueue " in lab.appliance.ip("link show", device)


def test_during_the_hook_interfaces_are_as_the_kernel_made_them(lab, tmp_path):
    daemon = lab.start(hook=PASSTHROUGH + f'\nip link show "$3" > {tmp_path}/link\n')
    endpoint = lab.endpoint()
    up(lab, daemon, endpoint)
    lab.appliance.run("sh", "-c", "ip tuntap add mode tun multi_queue name theirs && ip link set theirs up")

    def kind(shown):
        words = shown.split()
        return words[words.index("qdisc") + 1], words[words.index("qlen") + 1]
    assert kind((tmp_path / "link").read_text()) == kind(lab.appliance.ip("link show theirs"))
