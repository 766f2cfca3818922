# SPDX-License-Identifier: MIT-0
"""What rules and taps of others see of a flow that takes the kernel, as docs/KERNEL_PATH.md says."""
import json
import socket

from carrying import Carrying
from linux import HAS_NETDEV_EGRESS

COUNT = 30

RULES = """
table inet gwt {{
    chain prerouting {{ type filter hook prerouting priority -300; udp dport 6081 counter comment "outer prerouting"
        iifname "{gwi}" counter comment "inner prerouting"; }}
    chain input {{ type filter hook input priority 0; udp dport 6081 counter comment "outer input"; }}
    chain forward {{ type filter hook forward priority 0; udp dport 7 counter comment "inner forward"; }}
    chain postrouting {{ type filter hook postrouting priority 0
        oifname "{gwo}" udp dport 7 counter comment "inner postrouting"
        udp dport 6081 counter comment "outer postrouting"; }}
    chain output {{ type filter hook output priority 0; udp dport 6081 counter comment "outer output"; }}
}}
table netdev gwt {{
    chain uplink {{ type filter hook ingress device eth0 priority 0; udp dport 6081 counter comment "uplink ingress"; }}
    chain gwi {{ type filter hook ingress device "{gwi}" priority 0; udp dport 7 counter comment "gwi ingress"; }}
}}
"""
SEEN = {"inner prerouting", "inner forward", "inner postrouting", "gwi ingress"}
UNSEEN = {"outer prerouting", "outer input", "outer postrouting", "outer output", "uplink ingress"}

if HAS_NETDEV_EGRESS:
    RULES += """
table netdev gwt {{
    chain gwo {{ type filter hook egress device "{gwo}" priority 0; udp dport 7 counter comment "gwo egress"; }}
    chain out {{ type filter hook egress device eth0 priority 0; udp dport 6081 counter comment "uplink egress"; }}
}}
"""
    SEEN.add("gwo egress")
    UNSEEN.add("uplink egress")


def counters(lab):
    """Packets by the comments of the rules."""
    ruleset = json.loads(lab.appliance.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    rules = [item["rule"] for item in ruleset if "rule" in item]
    return {rule["comment"]: part["counter"]["packets"] for rule in rules for part in rule["expr"] if "counter" in part}


def test_rules_of_nftables(lab, tmp_path):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    rules = tmp_path / "rules.nft"
    rules.write_text(RULES.format(gwi=carrying.endpoint.gwi, gwo=carrying.endpoint.gwo))
    lab.appliance.run("nft", "-f", rules)
    assert carrying.takes_kernel(COUNT) == (COUNT, COUNT)
    found = counters(lab)
    assert found == {**dict.fromkeys(SEEN, COUNT), **dict.fromkeys(UNSEEN, 0)}


def test_taps_of_the_uplink_and_of_gwi_see_everything(lab):
    carrying = Carrying(lab)
    assert carrying.until_carried()
    with lab.appliance.entered():
        uplink, inner = (socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) for _ in range(2))
    with uplink, inner:
        uplink.bind(("eth0", 3))
        inner.bind((carrying.endpoint.gwi, 0x0800))  # for what comes in: with ETH_P_ALL, gwi's egress steps aside
        assert carrying.takes_kernel(COUNT) == (COUNT, COUNT)
        for tap, least in (uplink, 2 * COUNT), (inner, COUNT):
            tap.settimeout(10)
            for _ in range(least):
                tap.recv(65536)


def test_a_rule_that_comes_first_keeps_a_flow_out(lab):
    """A flow that nothing is received of is never learned."""
    carrying = Carrying(lab)
    assert carrying.until_carried()
    lab.appliance.run("nft", "add table inet gwt")
    lab.appliance.run("nft", "add chain inet gwt input { type filter hook input priority 0; }")
    lab.appliance.run("nft", "add rule inet gwt input udp dport 6081 drop")
    for _ in range(20):
        carrying.endpoint.send(carrying.packet(port=2000))
    assert carrying.takes_kernel(COUNT) == (COUNT, COUNT)
    assert carrying.ebpf()["flows"] == 1
