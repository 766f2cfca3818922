# SPDX-License-Identifier: MIT-0
"""The sysctls that hook scripts set, and how they are put back."""
import fnmatch
import re

import pytest

import packets
from scripts import (
    CLIENT4_TO_SERVER, FIRST, FORWARDING, HOOKS, HOST, NAT, NUMBERED, SCRIPTS, SECOND, state, sysctls,
)


def paragraph(script, beginning):
    """That part of a script's head, or of the head that it refers to."""
    text = (SCRIPTS / script).read_text().split(". \"$(dirname")[0]
    referred = re.search(r"# Changes on the host[^.]*: as (create-[a-z]+\.sh)", text)
    if referred:
        return paragraph(referred[1], beginning)
    return next((part for part in text.split("\n#\n") if part.startswith(beginning)), "")


@pytest.mark.parametrize("script", HOOKS)
def test_sysctls_of_the_host_are_changed_as_the_script_says(instance, script):
    stub = instance.endpoint()
    before = sysctls(instance.namespace)
    stub.hook(script, "CREATE")
    created = sysctls(instance.namespace)
    changed = {name for name in before if created[name] != before[name]}
    changed = {name for name in changed if stub.gwi not in name and "conntrack_count" not in name}
    named = re.findall(r"net[.]ipv[46][.][\w.*]+\b", paragraph(script, "# Changes on the host"))
    # Those of single interfaces follow the one for all (ip-sysctl.rst).
    followers = r"net\.ipv6\.conf\.[\w-]+\.(forwarding|accept_ra)$" if "net.ipv6.conf.all.forwarding" in named else "$^"
    assert {name for name in changed
            if not any(fnmatch.fnmatch(name, pattern) for pattern in named) and not re.match(followers, name)} == set()
    assert {pattern for pattern in named if not fnmatch.filter(changed, pattern)} == set()


@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_sysctls_are_put_back_by_the_last_endpoint_as_they_were(instance, script):
    """Each to its own value, be it on or off; not one that its owner has set meanwhile."""
    namespace = instance.namespace
    namespace.ip("link add mine type veth peer name other")
    namespace.sysctl("net.ipv6.conf.mine.forwarding", 1)
    namespace.sysctl("net.ipv4.fwmark_reflect", 1)
    namespace.sysctl("net.ipv6.conf.other.accept_ra", 0)
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    before = state(namespace)
    for stub in stubs:
        stub.hook(script, "CREATE")
    namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 0)
    stubs[0].hook(script, "DESTROY")
    while_one_is_left = sysctls(namespace)
    assert while_one_is_left["net.ipv6.conf.all.forwarding"] == while_one_is_left["net.ipv6.fwmark_reflect"] == "1"
    stubs[1].hook(script, "DESTROY")
    assert sysctls(namespace)["net.ipv6.conf.eth0.accept_ra"] == "0"
    namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    assert state(namespace) == before


@pytest.mark.parametrize("script", FORWARDING + NAT)
def test_sysctls_are_put_back_for_a_gwlbtun_that_died(instance, script):
    dead, stub = instance.endpoint(FIRST), instance.endpoint(SECOND)
    before = sysctls(instance.namespace)
    dead.hook(script, "CREATE")
    dead.close()
    stub.hook(script, "CREATE")
    stub.hook(script, "DESTROY")
    after = sysctls(instance.namespace)
    assert {name for name in after if after[name] != before[name] and stub.gwi not in name
            and "conntrack_count" not in name} == set()


@pytest.mark.parametrize("script", ["create-route.sh", "create-nat.sh"])
def test_forwarding_does_not_stop_the_host_from_taking_router_advertisements(instance, script):
    instance.namespace.sysctl("net.ipv6.conf.eth0.accept_ra", 1)
    instance.endpoint().hook(script, "CREATE")
    assert sysctls(instance.namespace)["net.ipv6.conf.eth0.accept_ra"] == "2"


@pytest.mark.parametrize("script", HOOKS)
def test_rp_filter_is_turned_off(instance, script):
    instance.namespace.sysctl("net.ipv4.conf.default.rp_filter", 2)
    stub = instance.endpoint()
    value = f"net.ipv4.conf.{stub.gwi}.rp_filter"
    assert sysctls(instance.namespace)[value] == "2"
    stub.hook(script, "CREATE")
    assert sysctls(instance.namespace)[value] == "0"


@pytest.mark.parametrize("script", HOOKS)
def test_on_a_host_with_systemd_a_drop_in_keeps_rp_filter_off(instance, script):
    stub = instance.endpoint()
    drop_in = f"/run/sysctl.d/99-gwlbtun-{stub.gwi}.conf"
    arguments = stub.gwi, stub.gwo, f"{stub.eni:017x}"
    done = instance.namespace.run(
        "unshare", "--mount", "sh", "-euc",
        'mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; script=$1; drop_in=$2; shift 2\n'
        '"$script" CREATE "$@"; cat "$drop_in"; "$script" DESTROY "$@"; ls /run/sysctl.d',
        "sh", SCRIPTS / script, drop_in, *arguments)
    assert done.stdout == f"net.ipv4.conf.{stub.gwi}.rp_filter = 0\n"
    assert done.stderr == ""


BEFOREHAND = "# In a container whose /proc/sys is read-only"


def read_only(stub, script):
    """Runs its create hook as in a container with CAP_NET_ADMIN alone."""
    return stub.namespace.run(
        "unshare", "--mount", "sh", "-euc",
        'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; "$@"',
        "sh", SCRIPTS / script, "CREATE", stub.gwi, stub.gwo, f"{stub.eni:017x}", check=False)


def set_beforehand(namespace, script):
    """What the script's head says must be so; it is what docker takes after --sysctl."""
    settings = re.findall(r"(net[.]\S+?)=(\d)", paragraph(script, BEFOREHAND))
    for name, value in settings:
        namespace.sysctl(name, value)
    return settings


@pytest.mark.parametrize("script", HOOKS)
def test_sysctls_that_are_right_may_be_read_only(instance, script):
    assert set_beforehand(instance.namespace, script) or script == "create-passthrough.sh"
    done = read_only(instance.endpoint(), script)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("script", NUMBERED)
def test_sysctls_that_are_wrong_and_read_only_are_told_in_one_line(instance, script):
    settings = set_beforehand(instance.namespace, script)
    for name, value in settings:
        if name != "net.ipv4.conf.all.rp_filter":  # gwlbtun itself tells of that one
            instance.namespace.sysctl(name, 1 - int(value))
    stub = instance.endpoint()
    done = read_only(stub, script)
    assert done.returncode == 1
    line, = done.stderr.splitlines()
    named = set(re.findall(r"(net[.]\S+?)=(\d)", line))
    assert named == set(settings) - {("net.ipv4.conf.all.rp_filter", "0")} and "--sysctl" in line
    for sent in packets.udp(*CLIENT4_TO_SERVER, 1000, 2000), packets.udp(CLIENT4_TO_SERVER[0], HOST[0], 1000, 2000):
        stub.send(sent)
    assert stub.silent(), "it is closed"
    # Run again where they can be set, it opens.
    stub.hook(script, "CREATE")
    stub.send(packets.echo(*CLIENT4_TO_SERVER, 1))
    assert script in NAT or not stub.silent()


def test_passthrough_needs_no_sysctl(instance):
    instance.namespace.sysctl("net.ipv4.conf.default.rp_filter", 1)
    stub = instance.endpoint()
    assert read_only(stub, "create-passthrough.sh").returncode == 0
    packet = packets.udp(*CLIENT4_TO_SERVER, 1000, 2000)
    stub.send(packet)
    assert stub.receive() == ("gwo", packet)
