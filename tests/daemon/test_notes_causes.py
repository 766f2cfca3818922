# SPDX-License-Identifier: MIT-0
"""Notes: chains of iptables-legacy, rules that let packets pass all the same, and what a restart in place leaves of notes."""
import signal

import pytest

import packets
from expectations import Forwarded
from gwlbtun import forwarding, xtables
from lab import CLIENT, ENI, ROUTE, SERVER

GWI = ["gwi-a", "gwi-b"]
RULES = {"-i gwi-a": False, "-i gwi-+ -p tcp": False, "! -i gwi-+": False, "-i gwi-+ -o gwo-+": False,
         "-i gwi-+ -j DROP": False, "-i gwi-+": True}


@pytest.mark.parametrize("kind", ["legacy", "nft"])
def test_rules_that_let_all_from_gwi_pass_are_seen(lab, kind):
    for program in "iptables", "ip6tables":
        lab.appliance.run(f"{program}-{kind}", "-P", "FORWARD", "DROP")

    def accepting():
        with lab.appliance.entered():
            return [chain.accepts(GWI) for chain in (xtables.dropping() if kind == "legacy" else forwarding.dropping_chains())]
    assert accepting() == [False, False]
    for rule, accepts in RULES.items():
        for program in "iptables", "ip6tables":
            lab.appliance.run(f"{program}-{kind}", "-I", "FORWARD", *rule.split(), *() if "-j" in rule else ("-j", "ACCEPT"))
        assert accepting() == [accepts, accepts], rule


def test_chains_of_nft_that_let_all_from_gwi_pass(lab):
    lab.appliance.run("nft", "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }")
    for rule, accepts in {"iifname gwi-a accept": False, "iifname != gwi-* accept": False,
                          "iifname gwi-* tcp dport 1 accept": False, "iifname gwi-* counter drop": False,
                          "iifname gwi-b accept": True, "accept": True}.items():
        lab.appliance.run("nft", "insert rule inet t c", rule)
        with lab.appliance.entered():
            chain, = forwarding.dropping_chains()
            assert chain.accepts(GWI) == accepts, rule
            assert chain.accepts(["gwi"]) == (rule == "accept")


def test_no_table_of_iptables_legacy_is_made_by_asking(lab):
    with lab.appliance.entered():
        assert not xtables.there() and not list(xtables.dropping()) and not xtables.there()
    lab.appliance.run("iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT")
    with lab.appliance.entered():
        assert xtables.there() and not list(xtables.dropping())


def notes(daemon):
    health = daemon.health()
    assert health["healthy"]
    return health["notes"]


def test_a_note_outlasts_a_restart_in_place_and_its_command_ends_it(lab):
    """Of iptables-legacy, of which the kernel reports no change."""
    lab.route()
    daemon = lab.start(hook=ROUTE)
    endpoint = lab.endpoint(ENI, Forwarded())
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b""))
    assert lab.wait(lambda: endpoint.received)
    daemon.wait_patrolled()  # so that it knows that the endpoint is up
    for program in "iptables-legacy", "ip6tables-legacy", "iptables-nft":
        lab.appliance.run(program, "-P", "FORWARD", "DROP")
    assert lab.wait(lambda: len(notes(daemon)) == 3)
    before, told = notes(daemon), daemon.log().count(" has become drop: ")
    assert sorted(note.split(" has become drop: ")[0] for note in before) == [
        f"the policy of the chain {chain}" for chain in
        ("FORWARD of ip6tables-legacy", "FORWARD of iptables-legacy", "ip filter FORWARD")]
    daemon.process.send_signal(signal.SIGHUP)
    assert lab.wait(lambda: "this is another program now" in daemon.log(), 60)
    assert sorted(notes(daemon)) == sorted(before)
    for note in before:
        lab.appliance.run("sh", "-c", note.split("`")[1])
    assert lab.wait(lambda: notes(daemon) == [])
    assert lab.wait(lambda: "No longer so: the policy of the chain" in daemon.log())
    assert daemon.log().count(" has become drop: ") == told
    passed = len(endpoint.received)
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b"again"))
    assert lab.wait(lambda: len(endpoint.received) > passed)
