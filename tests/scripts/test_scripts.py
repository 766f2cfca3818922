# SPDX-License-Identifier: MIT-0
"""What all hook scripts have in common: they set up what they say, and take just that away."""
import threading

import pytest

from scripts import FIRST, HOOKS, NUMBERED, SCRIPTS, SECOND, state, without_interfaces


@pytest.mark.parametrize("script", HOOKS)
def test_destroy_leaves_nothing_behind(instance, script):
    # What the owner of the host has set up stays, and stays out of the way.
    instance.namespace.ip("rule add pref 6081 from 10.9.9.9 lookup 6081")
    instance.namespace.run("nft", "add table inet mine")
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    before = state(instance.namespace)
    for stub in stubs:
        stub.hook(script, "CREATE")
    created = state(instance.namespace)
    assert created != before
    stubs[0].hook(script, "DESTROY")
    assert state(instance.namespace) not in (before, created)
    stubs[1].hook(script, "DESTROY")
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", HOOKS)
def test_create_clears_what_a_dead_gwlbtun_left(instance, script):
    survivor, victim = instance.endpoint(SECOND), instance.endpoint(FIRST)
    survivor.hook(script, "CREATE")
    before = state(instance.namespace)
    victim.hook(script, "CREATE")
    number = instance.numbers().get(victim.gwi)
    victim.close()
    again = instance.endpoint(FIRST)
    again.hook(script, "CREATE")
    assert instance.numbers().get(again.gwi) == number
    once = state(instance.namespace)
    again.hook(script, "CREATE")
    assert state(instance.namespace) == once
    again.hook(script, "DESTROY")
    # The interfaces' indexes are not as they were; all the rest is.
    assert without_interfaces(state(instance.namespace)) == without_interfaces(before)


@pytest.mark.parametrize("script", NUMBERED)
def test_what_the_owner_has_numbered_is_neither_used_nor_touched(instance, script):
    ip = instance.namespace.ip
    ip("-6 rule add pref 6081 from 2001:db8:9::/64 lookup main")
    ip("rule add pref 100 from 10.9.9.9 lookup 6082")
    ip("-6 rule add pref 101 from 2001:db8:9::/64 lookup 6083")
    ip("route add 10.9.0.0/16 dev eth0 table 6084")
    ip("-6 route add 2001:db8:9::/64 dev eth0 table 6085")
    ip("rule add pref 102 fwmark 6086/0xffff lookup main")
    stub = instance.endpoint()
    before = state(instance.namespace)
    stub.hook(script, "DESTROY")
    assert state(instance.namespace) == before
    stub.hook(script, "CREATE")
    assert instance.numbers() == {stub.gwi: 6087}
    late = ["rule {} pref 6087 from 10.8.8.8 lookup main", "-6 rule {} pref 6087 iif eth0 lookup main",
            "route {} 10.7.0.0/16 dev eth0 table 6087", "-6 route {} 2001:db8:7::/64 dev eth0 table 6087"]
    for what in late:
        ip(what.format("add"))
    stub.hook(script, "CREATE")
    stub.hook(script, "DESTROY")
    for what in late:
        ip(what.format("del"))
    assert state(instance.namespace) == before


def test_endpoints_one_after_another_get_numbers_of_their_own(instance):
    before = state(instance.namespace)
    stubs = [instance.endpoint(eni) for eni in range(1, 13)]
    for number, stub in enumerate(stubs):
        stub.hook("create-firewall.sh", "CREATE")
        assert instance.numbers()[stub.gwi] == 6081 + number
    for stub in stubs:
        stub.hook("create-firewall.sh", "DESTROY")
        stub.close()
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", NUMBERED)
def test_endpoints_at_the_same_time_get_numbers_of_their_own(instance, script):
    stubs = [instance.endpoint(eni) for eni in range(1, 13)]
    before = state(instance.namespace)
    for action in "CREATE", "DESTROY":
        threads = [threading.Thread(target=stub.hook, args=(script, action)) for stub in stubs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if action == "CREATE":
            numbers = instance.numbers()
            assert sorted(numbers) == sorted(stub.gwi for stub in stubs)
            assert sorted(numbers.values()) == list(range(6081, 6093))
    assert state(instance.namespace) == before


@pytest.mark.parametrize("script", HOOKS)
def test_a_host_without_ipv6(instance, script):
    for scope in "all", "default":
        instance.namespace.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
    before = instance.namespace.ip("-6 rule")
    stub = instance.endpoint()
    stub.hook(script, "CREATE")
    assert instance.namespace.ip("-6 rule") == before
    stub.hook(script, "DESTROY")


@pytest.mark.parametrize("script", HOOKS)
def test_destroy_of_what_was_never_created(instance, script):
    stub = instance.endpoint()
    before = state(instance.namespace)
    stub.hook(script, "DESTROY")
    assert state(instance.namespace) == before


def test_a_script_works_through_a_symbolic_link(instance, tmp_path):
    link = tmp_path / "hook"
    link.symlink_to(SCRIPTS / "create-firewall.sh")
    stub = instance.endpoint()
    instance.namespace.run(link, "CREATE", stub.gwi, stub.gwo, f"{stub.eni:017x}")
    assert "dport { 80, 443 }" in instance.namespace.run("nft", "list ruleset").stdout
