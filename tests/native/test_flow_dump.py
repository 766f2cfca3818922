# SPDX-License-Identifier: MIT-0
"""The flow table as `show flows` asks for it: every flow once, and just those that pass the filter."""
import io
import json
from types import SimpleNamespace

import pytest

import packets
from gwlbtun import fastpath
from gwlbtun.answers import STEP_FLOWS, Answers
from gwlbtun.control import Refusal
from gwlbtun.show.flowrows import flow_rows
from workbench import Bench, encapsulated

ONE, OTHER = 0x0123456789ABCDEF, 0xFEDCBA9876543210


def make_answers(bench):
    endpoints = [SimpleNamespace(eni=eni, inward=SimpleNamespace(name=f"gwi-{number}"),
                                 outward=SimpleNamespace(name=f"gwo-{number}"))
                 for number, eni in enumerate(bench.endpoints)]
    return Answers(SimpleNamespace(max_flows=4096), bench.handler, [], SimpleNamespace(all=lambda: endpoints), None,
                   {ONE: "blue", OTHER: ""})


def ask(answers, **asked):
    """The flows of an answer, and its last line."""
    stream = io.BytesIO(b"".join(answers.flows(asked)))
    octets, line = b"", {}
    assert json.loads(stream.readline())["names"] == {"vpce-00123456789abcdef": "blue"}
    while "more" not in line:
        line = json.loads(stream.readline())
        octets += stream.read(line.get("bytes", 0))
    assert stream.read() == b""
    return list(flow_rows(io.BytesIO(octets), {})), line["more"]


@pytest.fixture(scope="module")
def answers():
    """A table with flows of two endpoints, both families and all kinds."""
    bench = Bench()
    bench.add(ONE)
    bench.add(OTHER)
    body = packets.udp_datagram("10.1.0.1", "10.2.0.1", 7, 8, b"x" * 3000)
    for eni, packet in [
            (ONE, packets.udp("10.1.0.1", "10.2.0.1", 53, 1000)), (ONE, packets.udp("10.2.0.1", "10.1.0.1", 2000, 53)),
            (ONE, packets.tcp("10.1.0.2", "10.2.0.1", 53, 443)), (OTHER, packets.tcp("10.1.0.2", "10.2.0.1", 53, 443)),
            (ONE, packets.tcp("fd00:1::1", "fd00:2::1", 443, 1)), (OTHER, packets.echo("10.1.0.1", "10.9.9.9", 53)),
            (ONE, packets.echo("fd00:1::1", "fd00:9::9", 6)), (ONE, packets.ipv4("10.1.0.1", "10.2.0.1", 47, b"x" * 8)),
            (ONE, packets.icmp("10.2.0.1", "10.1.0.1", 3, 3, b"\0" * 4, packets.udp("10.1.0.1", "10.2.0.1", 53, 1000))),
            *((ONE, fragment) for fragment in packets.fragments("10.1.0.1", "10.2.0.1", 17, body, 1480, 99))]:
        bench.send(encapsulated(eni, packet))
    bench.receive()
    yield make_answers(bench)
    bench.close()


def test_all_flows(answers):
    rows, more = ask(answers)
    assert not more and len(rows) == 10  # the first fragment has ports, and so is a flow as well
    assert len({tuple(sorted((key, str(value)) for key, value in row.items())) for row in rows}) == 10
    flow, = [row for row in rows if row["port2"] == 1000]
    assert {key: flow[key] for key in ("endpoint", "kind", "protocol", "address1", "port1", "address2", "cookie", "attachment",
                                       "gwlbAddress", "ownAddress", "identifier")} == {
        "endpoint": "vpce-00123456789abcdef", "kind": "flow", "protocol": "udp", "address1": "10.1.0.1", "port1": 53,
        "address2": "10.2.0.1", "cookie": "00000007", "attachment": "0123456789abcdef", "gwlbAddress": "127.0.0.1",
        "ownAddress": "127.0.0.1", "identifier": None}
    assert {row["kind"] for row in rows} == {"flow", "icmp-error"}
    assert sorted(row["identifier"] for row in rows if row["identifier"] is not None) == [6, 53]


@pytest.mark.parametrize("asked, number", [
    ({"fragments": True}, 11), ({"fragments": True, "protocol": 17}, 4),
    ({"endpoint": "vpce-00123456789abcdef"}, 8), ({"endpoint": "123456789ABCDEF"}, 8), ({"endpoint": "gwi-0"}, 8),
    ({"endpoint": "gwo-1"}, 2), ({"endpoint": "blue"}, 8), ({"endpoint": "0fedcba9876543210"}, 2),
    ({"address": "10.1.0.1"}, 6), ({"address": "10.1.0.0/30"}, 8), ({"address": "10.0.0.0/8"}, 8),
    ({"address": "0.0.0.0/0"}, 8),
    ({"address": "::/0"}, 2), ({"address": "fd00:9::9"}, 1), ({"address": "fd00:2::/32"}, 1), ({"address": "10.9.9.9/32"}, 1),
    ({"address": "10.3.0.0/16"}, 0), ({"address": "128.0.0.0/1"}, 0), ({"address": "::ffff:10.1.0.1"}, 0),
    ({"address": "10.1.0.0/255.255.255.254"}, 6),
    ({"port": 53}, 4), ({"port": 443}, 3), ({"port": 65535}, 0), ({"port": 0}, 0),
    ({"protocol": 6}, 3), ({"protocol": 17}, 3), ({"protocol": 1}, 2), ({"protocol": 0}, 0), ({"protocol": 255}, 0),
    ({"port": 53, "protocol": 6, "address": "10.1.0.2", "endpoint": "gwi-1"}, 1),
    ({"port": 53, "protocol": 6, "address": "10.1.0.1", "endpoint": "gwi-1"}, 0)])
def test_filters(answers, asked, number):
    rows, more = ask(answers, **asked)
    assert (len(rows), more) == (number, False)


@pytest.mark.parametrize("limit, number, more", [(1, 1, True), (9, 9, True), (10, 10, False), (11, 10, False), (0, 10, False)])
def test_limits(answers, limit, number, more):
    rows, told = ask(answers, limit=limit)
    assert (len(rows), told) == (number, more)


@pytest.mark.parametrize("asked, why", [
    ({"endpoint": "vpce-00000000000000005"}, "there is no endpoint"), ({"endpoint": "x" * 1000}, "x" * 40 + "'"),
    ({"endpoint": ["gwi-0"]}, "there is no endpoint"), ({"address": "10.1"}, "neither"), ({"address": {"a": 1}}, "neither"),
    ({"address": "10.0.0.0/33"}, "neither"), ({"port": 65536}, "0 to 65535"), ({"port": -1}, "0 to 65535"),
    ({"port": "53"}, "0 to 65535"), ({"port": 1.5}, "0 to 65535"), ({"protocol": 256}, "0 to 255"),
    ({"limit": 1 << 70}, "limit"),
    ({"limit": -1}, "limit")])
def test_what_cannot_be_asked(answers, asked, why):
    with pytest.raises(Refusal, match=why):
        ask(answers, **asked)


def test_an_interface_that_several_have(answers, monkeypatch):
    for endpoint in answers._endpoints.all():
        monkeypatch.setattr(endpoint.inward, "name", "gwi")
    with pytest.raises(Refusal, match="2 endpoints have an interface gwi: give the ID of one"):
        ask(answers, endpoint="gwi")


def test_a_table_of_many_steps_and_more_flows_than_one_step_takes():
    bench = Bench(flows=1 << 16)
    try:
        bench.add(ONE)
        number = 3 * STEP_FLOWS + 5
        for port in range(number):
            bench.send(encapsulated(ONE, packets.udp("10.1.0.1", "10.2.0.1", 1000 + port, 53)))
        counters = bench.receive()
        assert counters["packets_in"] == number
        rows, more = ask(make_answers(bench), limit=0)
        assert not more and sorted(row["port1"] for row in rows) == list(range(1000, 1000 + number))
        steps = list(map(len, bench.handler.dump_flows(fastpath.FlowFilter(), 1)))
        assert sum(steps) <= number * fastpath.FLOW_RECORD.size and max(steps) == fastpath.FLOW_RECORD.size
    finally:
        bench.close()
