# SPDX-License-Identifier: MIT-0
"""The options that say whose packets are taken."""
import pytest

from command import run
from gwlbtun import checks, identity
from gwlbtun.sources import EVERYWHERE


@pytest.mark.parametrize("arguments, parts", [
    (["--allow-from", "10.0.0.5/24"], ["'10.0.0.5/24'", "give 10.0.0.0/24", "or 10.0.0.5 for"]),
    (["--allow-from", "10.0.0.0/33"], ["'10.0.0.0/33' is not a network", "10.0.1.0/24"]),
    (["--allow-from", "10.0.0.0/8", "--allow-from", "gwlb"], ["'gwlb' is not a network"]),
    (["--allow-from", "10.0.0.0/8,"], ["'' is not a network"]),
    (["--allow-from", "10.0.0.0/255.0.0.0"], ["is not a network"]),
    (["--allow-from", "2001:db8::/32"], ["'2001:db8::/32' is not IPv4"]),
    (["--allow-endpoint", "vpce-0123"], ["'vpce-0123' is not the ID of an endpoint", "vpce-0123456789abcdef0"]),
    (["--allow-endpoint", "fffff6789abcdef01"], ["is not the ID of an endpoint"]),
    (["--allow-endpoint", "ab,eni-1"], ["'eni-1' is not the ID of an endpoint"]),
    (["--allow-endpoint", "0123456789abcdef01"], ["is not the ID of an endpoint"]),
    (["--uplink", "eth0,"], ["'' is not the name of an interface"]),
    (["--uplink", "a-name-of-sixteen"], ["'a-name-of-sixteen' is not the name"]),
    (["--uplink", "lo"], ["no load balancer sends through lo"]),
    (["--uplink", "gwi-abc"], ["no load balancer sends through gwi-abc"]),
])
def test_usage_errors_are_one_clear_line(arguments, parts):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("gwlbtun: ") and done.stderr.count("\n") == 1
    for part in [arguments[0], *parts]:
        assert part in done.stderr


def test_networks():
    assert checks.networks("10.0.0.0/8,192.0.2.1") == ((0x0A000000, 0x0AFFFFFF), (0xC0000201, 0xC0000201))
    assert checks.networks("0.0.0.0/0") == (EVERYWHERE,)


def test_endpoint_ids():
    assert identity.endpoint_ids("vpce-0123456789abcdef0,0123456789ABCDEF0,1,00000000000000001") \
        == (0x123456789ABCDEF0, 0x123456789ABCDEF0, 1, 1)
