# SPDX-License-Identifier: MIT-0
"""What `show` prints: columns, fields, JSON, flows from their records, rates."""
import io
import json
import socket

import pytest

from gwlbtun.show import tables
from gwlbtun.show.flowrows import flow_rows
from gwlbtun.layout import FLOW_RECORD, KEY_FLOW, KEY_FRAGMENT, KEY_ICMP_ERROR, FlowRecord
from gwlbtun.show.tables import Column, age, field, print_aligned, print_fields, print_json, ranges, size
from gwlbtun.show.topics import TOPICS, add_rates

ENI = 0x0123456789ABCDEF


def printed(function, *arguments, **options):
    out = io.StringIO()
    function(*arguments, out, **options)
    return out.getvalue()


def record(address1="10.0.0.1", address2="10.0.0.2", ports=443 << 16 | 50000, protocol=6, kind=KEY_FLOW):
    family, which = (6, socket.AF_INET6) if ":" in address1 else (4, socket.AF_INET)
    packed = [socket.inet_pton(which, each).ljust(16, b"\0") for each in (address1, address2)]
    return FLOW_RECORD.pack(*packed, ENI, 5, ports, 0xC00C1E, socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.10"), 12,
                            60000, family, protocol, kind)


def rows(*records):
    return list(flow_rows(io.BytesIO(b"".join(records)), {}))


def text(topic, row):
    return [column.text(row) for column in TOPICS[topic].columns]


def test_the_record_is_what_the_compiler_made_of_it():
    packed = FlowRecord.from_buffer_copy(record(ports=7, kind=2))
    assert (packed.eni, packed.attachment, packed.ports, packed.cookie, packed.idle_s, packed.gwlb_port) == \
        (ENI, 5, 7, 0xC00C1E, 12, 60000)
    assert (packed.family, packed.protocol, packed.kind) == (4, 6, 2)
    assert bytes(packed.address[1])[:4] == socket.inet_aton("10.0.0.2")
    assert packed.gwlb_address.to_bytes(4, "little") in (socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.1")[::-1])
    assert FLOW_RECORD.size == len(bytes(packed))


def test_a_flow():
    row, = rows(record())
    assert row == {
        "endpoint": "vpce-00123456789abcdef", "kind": "flow", "protocol": "tcp", "address1": "10.0.0.1", "port1": 443,
        "address2": "10.0.0.2", "port2": 50000, "identifier": None, "secsSinceLastPacket": 12, "cookie": "00c00c1e",
        "attachment": "0000000000000005", "gwlbAddress": "192.0.2.1", "gwlbPort": 60000, "ownAddress": "192.0.2.10", "name": ""}
    assert text("flows", row) == ["vpce-00123456789abcdef", "tcp", "10.0.0.1:443", "10.0.0.2:50000", "12s", "00c00c1e",
                                  "192.0.2.1:60000"]
    assert set(row) == set(TOPICS["flows"].fields)


def test_an_endpoint_with_a_name():
    row, = flow_rows(io.BytesIO(record()), {"vpce-00123456789abcdef": "blue"})
    assert row["name"] == "blue" and text("flows", row)[0] == "blue"
    assert TOPICS["endpoints"].columns[0].text({"endpoint": "vpce-1", "name": "blue"}) == "vpce-1 (blue)"


@pytest.mark.parametrize("given, words", [
    (dict(address1="2001:db8::1", address2="2001:db8::2", protocol=17), ["udp", "[2001:db8::1]:443", "[2001:db8::2]:50000"]),
    (dict(ports=0), ["tcp", "10.0.0.1:0", "10.0.0.2:0"]),
    (dict(protocol=1, ports=77 << 16 | 77), ["icmp 77", "10.0.0.1", "10.0.0.2"]),
    (dict(address1="::1", address2="::2", protocol=58, ports=0), ["icmpv6 0", "::1", "::2"]),
    (dict(protocol=47, ports=0), ["gre", "10.0.0.1", "10.0.0.2"]),
    (dict(protocol=253, ports=0), ["253", "10.0.0.1", "10.0.0.2"]),
    (dict(kind=KEY_FRAGMENT, protocol=17, ports=0xFFFFFFFF), ["udp fragment 4294967295", "10.0.0.1", "10.0.0.2"]),
    (dict(kind=KEY_ICMP_ERROR, protocol=1, ports=123456), ["icmp icmp-error", "10.0.0.1", "10.0.0.2"]),
])
def test_flows_of_all_kinds(given, words):
    assert text("flows", rows(record(**given))[0])[1:4] == words


def test_more_flows_than_are_read_at_once():
    assert len(rows(record() * 10_000)) == 10_000


def test_columns_are_as_wide_as_they_must_be():
    columns = [Column("NAME", lambda row: row["name"]), Column("N", lambda row: str(row["n"]), right=True),
               Column("LAST", lambda row: row["name"][:1])]
    assert printed(print_aligned, columns, [{"name": "a", "n": 1}, {"name": "longer one", "n": 12345}]) == (
        "NAME            N  LAST\n"
        "a               1  a\n"
        "longer one  12345  l\n")
    assert printed(print_aligned, columns, []) == "NAME  N  LAST\n"
    many = [{"name": "x" * (1 if n < tables.ALIGNED_ROWS else 9), "n": n} for n in range(2 * tables.ALIGNED_ROWS)]
    lines = printed(print_aligned, columns, iter(many)).splitlines()
    assert len(lines) == len(many) + 1 and lines[1] == "x       0  x" and lines[-1] == "xxxxxxxxx  1999  x"


def test_no_text_of_the_daemon_does_anything_to_a_terminal_or_a_script():
    evil = "\x1b[2J\tx\ny\r\x9b1m\u2028\udcff\x7f"
    assert printed(print_aligned, [Column("A", lambda row: row["a"])], [{"a": evil}]) == "A\n?[2J?x?y??1m???\n"
    assert printed(print_fields, ["a", "b"], [{"a": evil, "b": 1}]) == "?[2J?x?y??1m???\t1\n"
    json.loads(printed(print_json, {"head": evil}, "rows", [{"a": evil}])).get("rows")


def test_fields():
    assert [field(value) for value in (None, "", 0, "x", 1.5, [], [1, 2])] == ["-", "-", "0", "x", "1.5", "-", "1,2"]
    assert printed(print_fields, ("a", "missing"), [{"a": 1}, {"a": 2}]) == "1\t-\n2\t-\n"


def test_json():
    for one_line in (False, True):
        for given in ([], [{"a": 1}], [{"a": 1}, {"b": [None]}]):
            for head in ({}, {"version": "1"}):
                out = printed(print_json, head, "rows", iter(given), one_line=one_line)
                assert json.loads(out) == {**head, "rows": given}
                assert not one_line or out.count("\n") == 1


def test_numbers():
    assert [size(each) for each in (0, 999, 1000, 1234, 999_949, 999_951, 12_345_678, 3e9, 2e12, 5e15, 1e19)] == [
        "0", "999", "1.0k", "1.2k", "999.9k", "1.0M", "12.3M", "3.0G", "2.0T", "5.0P", "10000.0P"]
    assert [age(each) for each in (None, 0, 0.04, 0.4, 9.99, 12.7, 59, 60, 61, 3600, 3720, 86_399, 86_400, 90_000, 1e7)] == [
        "-", "0s", "0.0s", "0.4s", "10.0s", "12s", "59s", "1m", "1m1s", "1h", "1h2m", "23h59m", "1d", "1d1h", "115d17h"]
    assert [ranges(each) for each in ([], [3], [0, 1], [0, 1, 2, 5, 7, 8])] == ["-", "3", "0-1", "0-2,5,7-8"]


def test_rates():
    topic = TOPICS["threads"]
    before = [{"tid": 1, "pkts": 100, "bytes": 1000}, {"tid": 2, "pkts": 5, "bytes": 5}, {"tid": 9}]
    now = [{"tid": 1, "pkts": 300, "bytes": 5000}, {"tid": 2, "pkts": 0, "bytes": 5}, {"tid": 3, "pkts": 7, "bytes": 7},
           {"tid": 9}]
    add_rates(topic, now, before, 2.0)
    assert [row.get("pktsPerSec") for row in now] == [100.0, 0.0, None, None], "new rows and other threads have no rate"
    assert [column.text(now[0]) for column in topic.rates] == ["100", "16.0k"]
    assert [column.text(now[2]) for column in topic.rates] == ["-", "-"]
    add_rates(topic, now, before, 0.0)
