# SPDX-License-Identifier: MIT-0
"""What endpoints are called, and the options that name them."""
import pytest

from command import run
from gwlbtun import cli, identity
from gwlbtun.identity import Identity, NamedEndpoint
from gwlbtun.settings import Settings

ENI = 0x0123456789AB0000
FIRST, SECOND = "vpce-00123456789ab0000", "vpce-076bc493b822cd32f"


def test_names_of_an_endpoint():
    one = Identity(ENI)
    assert (one.gwi, one.gwo, one.namespace, str(one)) == ("gwi-887epl1g9A", "gwo-887epl1g9A", "", f"ENI ID {ENI:017x}")
    assert one.title(one.gwi) == "gwi-887epl1g9A"
    assert one.interfaces == f"gwi-887epl1g9A and gwo-887epl1g9A for ENI ID {ENI:017x}"
    assert one.command("/opt/h.sh", "CREATE") == f"/opt/h.sh CREATE gwi-887epl1g9A gwo-887epl1g9A {ENI:017x}"


def test_names_of_one_that_the_operator_has_named():
    assert Identity(ENI, "blue").title("gwi-1") == "gwi-1 (blue)"
    assert str(Identity(ENI, "blue")) == f"ENI ID {ENI:017x} (blue)"


def test_names_of_one_in_a_namespace_of_its_own():
    one = Identity(ENI, "blue", netns=True)
    assert (one.gwi, one.gwo, one.namespace, one.title(one.gwo)) == ("gwi", "gwo", FIRST, f"gwo of {FIRST} (blue)")
    assert one.interfaces == f"gwi and gwo in network namespace {FIRST} for ENI ID {ENI:017x} (blue)"
    assert one.command("h.sh", "DESTROY") == f"ip netns exec {FIRST} h.sh DESTROY gwi gwo {ENI:017x}"


@pytest.mark.parametrize("texts, endpoints", [
    ([f"{FIRST}=blue,{SECOND}"], [(ENI, "blue"), (0x076BC493B822CD32F, "")]),
    ([f"{FIRST}", "2=b-1.c_D", "3=9"], [(ENI, ""), (2, "b-1.c_D"), (3, "9")]),
    (["1=" + "n" * 63], [(1, "n" * 63)]),
    ([f"{FIRST},2"], [(ENI, ""), (2, "")]),
])
def test_endpoints_from_the_start(texts, endpoints):
    chosen = cli.parse([word for text in texts for word in ("--endpoint", text)])
    assert chosen.endpoints == tuple(NamedEndpoint(*endpoint) for endpoint in endpoints)


@pytest.mark.parametrize("arguments, parts", [
    ([f"{FIRST}="], ["'' cannot be the name of an endpoint", "up to 63 letters"]),
    (["1=" + "n" * 64], ["cannot be the name"]),
    (["1=-x"], ["'-x' cannot be the name"]),
    (["1=.."], ["'..' cannot be the name"]),
    (["1=a b"], ["'a b' cannot be the name"]),
    (["1=a=b"], ["'a=b' cannot be the name"]),
    (["1=a/../b"], ["cannot be the name"]),
    (["1=$(id)"], ["cannot be the name"]),
    (["1=a\nb"], ["cannot be the name"]),
    (["1=blå"], ["cannot be the name"]),
    (["blue"], ["'blue' is not the ID of an endpoint", "vpce-0123456789abcdef0"]),
    (["=blue"], ["'' is not the ID"]),
    (["vpce-0123=blue"], ["'vpce-0123' is not the ID"]),
    (["1=a,"], ["'' is not the ID"]),
    (["fffff6789abcdef01=a"], ["is not the ID"]),
    ([f"{FIRST}=a,{FIRST[5:]}=b"], [f"{FIRST} is given twice"]),
    (["1", "--endpoint", "1"], ["vpce-00000000000000001 is given twice"]),
    (["1=a", "--endpoint", "2=a"], ["vpce-00000000000000001 and vpce-00000000000000002 have the same name 'a'"]),
    (["1,2,3", "--max-endpoints", "2"], ["3 endpoints are named, and --max-endpoints allows 2"]),
])
def test_a_bad_endpoint_is_one_clear_line(arguments, parts):
    done = run("--endpoint", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in ["--endpoint", *parts]:
        assert part in done.stderr


def test_endpoints_without_a_name_share_no_name():
    identity.check_named((NamedEndpoint(1, ""), NamedEndpoint(2, "")), 2)


def test_a_named_endpoint_is_allowed():
    assert cli.parse(["--endpoint", "2=b"]).allow_endpoints == ()
    assert cli.parse(["--endpoint", "2=b", "--allow-endpoint", "1"]).allow_endpoints == (1, 2)


def test_what_the_settings_make_of_it():
    named = Settings(endpoints=(NamedEndpoint(1, "blue"),), netns=True).identities
    assert named.of(1) == Identity(1, "blue", True, True) and named.of(2) == Identity(2, "", True, False)
    assert list(named.named) == [1]
