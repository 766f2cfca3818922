# SPDX-License-Identifier: MIT-0
"""TCP and all other protocols are idle after times of their own, and health tells them apart."""
import re

import pytest

import gwlb
import packets
from lab import CLIENT, ENI, SERVER

CACHES = [f"v{family}FlowCache{kind}" for family in (4, 6) for kind in ("Tcp", "Udp", "Other")]
PAYLOAD = bytes(600)


def ends(family):
    return CLIENT[family == 6], SERVER[family == 6]


def of_each_kind(family):
    """Two TCP flows; three of UDP, one of which comes in fragments; an echo and an ICMP error."""
    source, destination = ends(family)
    body = packets.udp_datagram(source, destination, 5, 6, PAYLOAD)
    quoted = packets.udp(destination, source, 9, 9, b"x")
    error = packets.icmp(source, destination, *((3, 1) if family == 4 else (1, 3)), bytes(4), quoted)
    return [packets.tcp(source, destination, 1, 2, b"x", seq=1, ack=1), packets.tcp(source, destination, 3, 4, b"x", ack=1),
            packets.udp(source, destination, 1, 2, b"x"), packets.udp(source, destination, 3, 4, b"x"),
            *packets.fragments(source, destination, 17, body, 256, 77),
            packets.echo(source, destination, 1), error]


def sizes(eni):
    return [eni[cache]["size"] for cache in CACHES]


def carry(lab, endpoint, sent):
    for packet in sent:
        endpoint.send(packet)
    assert lab.wait(lambda: len(endpoint.received) == len(sent))


def up(lab, *arguments):
    """A daemon whose endpoint has come up, so that no flow waits for that."""
    daemon = lab.start("--endpoint", f"vpce-{ENI:017x}", *arguments)
    assert lab.wait(lambda: daemon.get()[0] == 200)
    return daemon


def test_all_but_tcp_is_forgotten_after_udp_idle_and_tcp_stays(lab):
    daemon = up(lab, "--udp-idle", "3")
    endpoint = lab.endpoint(expectation=gwlb.WellFormed())
    carry(lab, endpoint, of_each_kind(4) + of_each_kind(6))
    assert lab.wait(lambda: sizes(daemon.eni(endpoint)) == [2, 0, 0] * 2)
    assert lab.wait(lambda: daemon.health()["flows"]["size"] == 4)  # fragments are gone as well
    eni = daemon.eni(endpoint)
    assert [eni[cache]["timedOutTotal"] for cache in CACHES] == [0, 3, 2] * 2
    assert [eni[f"v{family}FlowCache"]["timedOutTotal"] for family in (4, 6)] == [5, 5]
    assert [eni[cache]["idleTimeoutSecs"] for cache in CACHES] == [350, 3, 3] * 2
    assert [eni[f"v{family}FlowCache"]["idleTimeoutSecs"] for family in (4, 6)] == [350, 350]

    # What comes back from Linux now belongs to a flow, or to none.
    endpoint.received.clear()
    answers = []
    for family in 4, 6:
        source, destination = ends(family)
        lab.emit(endpoint.gwo, packets.udp(destination, source, 2, 1, b"x"))
        answers.append(packets.tcp(destination, source, 2, 1, b"x", ack=1))
        lab.emit(endpoint.gwo, answers[-1])
    assert lab.wait(lambda: daemon.drops() == {"no_flow": 2})
    assert lab.wait(lambda: sorted(endpoint.received) == sorted(answers))  # of two flows


def test_tcp_is_forgotten_after_idle_and_all_else_stays(lab):
    daemon = up(lab, "-i", "3")
    endpoint = lab.endpoint()
    carry(lab, endpoint, of_each_kind(4) + of_each_kind(6))
    assert lab.wait(lambda: sizes(daemon.eni(endpoint)) == [0, 3, 2] * 2)
    eni = daemon.eni(endpoint)
    assert [eni[cache]["timedOutTotal"] for cache in CACHES] == [2, 0, 0] * 2
    assert [eni[cache]["idleTimeoutSecs"] for cache in CACHES] == [3, 120, 120] * 2


def test_the_caches_of_a_family_are_the_sums_of_its_kinds(lab):
    daemon = lab.start()
    endpoints = [lab.endpoint(ENI + index) for index in range(2)]
    carry(lab, endpoints[0], of_each_kind(4))
    carry(lab, endpoints[1], of_each_kind(4) + of_each_kind(6))
    for endpoint, expected in zip(endpoints, ([2, 3, 2, 0, 0, 0], [2, 3, 2] * 2)):
        eni = daemon.eni(endpoint)
        assert sizes(eni) == expected
        for family in 4, 6:
            whole = eni[f"v{family}FlowCache"]
            kinds = [eni[f"v{family}FlowCache{kind}"] for kind in ("Tcp", "Udp", "Other")]
            for key in "size", "timedOut", "timedOutTotal", "evictedTotal":
                assert whole[key] == sum(cache[key] for cache in kinds)
            assert [cache["cacheName"] for cache in (whole, *kinds)] == [
                f"IPv{family} {kind}Flow Cache for ENI {endpoint.id}" for kind in ("", "TCP ", "UDP ", "Other ")]


@pytest.mark.parametrize("times, tcp, others", [([], 350, 120), (["-i", "60", "--udp-idle", "86400"], 60, 86400)])
def test_the_text_tells_both_times_and_the_flows_of_each_protocol(lab, times, tcp, others):
    daemon = lab.start(*times, json_health=False)
    carry(lab, lab.endpoint(), of_each_kind(4))
    text = daemon.get()[2].decode()
    assert (f"IPv4 Flow Cache for ENI {ENI:017x} : Contains 7 elements, of which 0 were just timed out "
            f"(idle timeout is {tcp} seconds).\nIPv4 flows by protocol: 2 TCP, 3 UDP, 2 other "
            f"(idle timeout of all but TCP is {others} seconds).\nIPv6 Flow Cache") in text
    assert re.search(r"^IPv6 flows by protocol: 0 TCP, 0 UDP, 0 other ", text, re.MULTILINE)
