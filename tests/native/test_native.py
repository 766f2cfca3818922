# SPDX-License-Identifier: MIT-0
"""The C parts by themselves: against their oracles in Python, and under stress with the sanitizers."""
import ctypes
import random
import re
import struct
import subprocess
from ctypes import POINTER, byref, c_bool, c_char_p, c_size_t, c_uint, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path

import pytest

from gwlbtun import geneve
from gwlbtun.fastpath import Shim
from gwlbtun.layout import FLOW_CLASSES, FlowCount

import packets
import programs
from offload import Packet

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
PARTS = [NATIVE / name for name in ("flow.c", "flow_audit.c", "flow_dump.c", "flow_evict.c", "flow_memory.c",
                                 "flow_pool.c", "flow_table.c", "geneve.c", "packet.c", "ring.c")]
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]
KEY_WORDS = 5


class Key(ctypes.Structure):
    _fields_ = [("word", c_uint64 * KEY_WORDS), ("hash", c_uint64)]


class Origin(ctypes.Structure):
    _fields_ = [("gwlb_address", c_uint32), ("own_address", c_uint32), ("gwlb_port", c_uint16)]


class Path_(ctypes.Structure):
    """struct gw_flow_path."""

    _anonymous_ = ["origin"]
    _fields_ = [("origin", Origin), ("header_len", c_uint16), ("header", c_uint64 * 33)]


class Keys(ctypes.Structure):
    _fields_ = [("own", Key), ("fragment", Key), ("quoted", Key), ("has_fragment", c_bool), ("has_quoted", c_bool),
                ("reversed", c_bool)]


class Geneve(ctypes.Structure):
    _fields_ = [("eni", c_uint64), ("attachment", c_uint64), ("cookie", c_uint32), ("header_len", c_uint16),
                ("family", c_uint8)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The parts as a library with all of their functions visible."""
    library = tmp_path_factory.mktemp("native") / "parts.so"
    subprocess.run(["cc", *FLAGS, "-O2", "-fPIC", "-shared", "-o", library, *PARTS], check=True)
    loaded = ctypes.CDLL(str(library), use_errno=True)
    loaded.gw_flows_new.restype = c_void_p
    loaded.gw_flows_new.argtypes = (c_uint32, c_uint32)
    for name in ("gw_flows_free", "gw_flows_entries"):
        getattr(loaded, name).argtypes = (c_void_p,)
    loaded.gw_flow_hash.argtypes = (c_void_p, POINTER(Key))
    loaded.gw_flows_learn.argtypes = (c_void_p, POINTER(Key), POINTER(Path_), c_uint32)
    loaded.gw_flows_find.argtypes = (c_void_p, POINTER(Key), POINTER(Path_), c_uint32)
    loaded.gw_flows_find.restype = c_bool
    loaded.gw_flows_expire.argtypes = (c_void_p, c_uint32, c_uint32, c_uint32)
    loaded.gw_flows_expire.restype = c_uint64
    loaded.gw_flows_forget.argtypes = (c_void_p, c_uint)
    loaded.gw_flows_forget_others.argtypes = (c_void_p, POINTER(c_uint64))
    loaded.gw_flows_forget_others.restype = c_uint64
    loaded.gw_flows_entries.restype = c_uint64
    loaded.gw_flows_count.argtypes = (c_void_p, c_uint, POINTER(FlowCount))
    loaded.gw_geneve_parse.argtypes = (c_char_p, c_size_t, POINTER(Geneve))
    loaded.gw_packet_parse.argtypes = (c_char_p, c_size_t, c_uint, POINTER(Packet))
    loaded.gw_packet_keys.argtypes = (POINTER(Packet), c_uint, POINTER(Keys))
    return loaded


# ---- Headers against the codec ---------------------------------------------------------------------------------------


def expected_verdict(payload):
    try:
        return None, geneve.parse(payload)
    except geneve.GeneveError as error:
        return error.reason, None


def native_verdict(parts, names, payload):
    header, packet = Geneve(), Packet()
    reason = parts.gw_geneve_parse(payload, len(payload), byref(header))
    if not reason:
        inner = payload[header.header_len:]
        reason = parts.gw_packet_parse(inner, len(inner), header.family, byref(packet))
    return (names[reason] if reason else None), header


def random_payload(rng):
    options = [geneve.Option(geneve.AWS, 1, rng.randbytes(8)), geneve.Option(geneve.AWS, 2, rng.randbytes(8)),
               geneve.Option(geneve.AWS, 3, rng.randbytes(4))]
    for _ in range(rng.randrange(3)):
        options.insert(rng.randrange(len(options) + 1), geneve.Option(
            rng.choice((geneve.AWS, 0x0102, 0xFFFF)), rng.randrange(256), rng.randbytes(4 * rng.randrange(5))))
    if rng.random() < 0.2:
        del options[rng.randrange(len(options))]
    version = rng.choice((4, 6))
    inner = (packets.udp("10.0.0.1", "10.0.0.2", 1, 2, rng.randbytes(rng.randrange(40))) if version == 4 else
             packets.udp("fd00::1", "fd00::2", 1, 2, rng.randbytes(rng.randrange(40))))
    payload = bytearray(geneve.Header(geneve.PROTOCOLS[version], tuple(options)).pack() + inner)
    for _ in range(rng.choice((0, 0, 1, 2))):
        payload[rng.randrange(len(payload))] = rng.randrange(256)
    return bytes(payload[:rng.randrange(len(payload) + 1)] if rng.random() < 0.3 else payload)


def test_every_header_is_judged_as_the_codec_judges_it(parts):
    names, rng, seen = Shim().counters, random.Random(6081), set()
    for _ in range(30000):
        payload = random_payload(rng)
        reason, header = expected_verdict(payload)
        found, native = native_verdict(parts, names, payload)
        assert found == reason, payload.hex()
        seen.add(reason)
        if header:
            assert (native.eni, native.attachment, native.cookie) == (header.eni, header.attachment, header.cookie)
            assert native.header_len == header.size
    assert seen == {None, "drop_header_short", "drop_version", "drop_options_length", "drop_control", "drop_protocol",
                    "drop_option_overrun", "drop_option_size", "drop_critical_option", "drop_no_eni",
                    "drop_no_attachment", "drop_no_cookie", "drop_inner_truncated", "drop_inner_mismatch"}


# ---- Flow keys against packets.flow_key() ----------------------------------------------------------------------------


HOSTS = {4: ("10.0.0.1", "10.0.0.2", "9.255.255.255"), 6: ("fd00::1", "fd00::2", "fd00:0:0:1::")}
PORTS = 0, 53, 0x0100, 0xFFFF
IDS = 0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF
OTHER_PROTOCOLS = 0xFD, 47, 59


def random_transport(rng):
    """A protocol and what follows the IP header; now and then it is cut short. From few values, so many are alike."""
    protocol = rng.choice((packets.TCP, packets.UDP, packets.ICMP, packets.ICMPV6, rng.choice(OTHER_PROTOCOLS)))
    body = struct.pack("!HH", rng.choice(PORTS), rng.choice(PORTS))
    if protocol in (packets.ICMP, packets.ICMPV6):
        body = bytes([rng.choice((0, 8, 13) if protocol == packets.ICMP else (128, 129, 133)), 0, 0, 0]) + body
    body += rng.randbytes(rng.randrange(30))
    return protocol, body[:rng.randrange(9)] if rng.random() < 0.1 else body


def random_extensions(rng):
    made = []
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        kind = rng.choice([number for number in packets.EXTENSIONS if number != packets.FRAGMENT])
        units = rng.randrange(4)
        size = (units + 2) * 4 if kind == packets.AUTHENTICATION else (units + 1) * 8
        made.append((kind, bytes([0, units]) + rng.randbytes(size - 2)))
    return made


def random_plain_packet(rng, version):
    """No ICMP error; perhaps a fragment."""
    source, destination = rng.choice(HOSTS[version]), rng.choice(HOSTS[version])
    protocol, body = random_transport(rng)
    fields = {"ttl": rng.randrange(256), "tos": rng.randrange(256)}
    offset, more, ident = rng.choice((0, 0, 8, 1480, 65528)), rng.random() < 0.5, rng.choice(IDS)
    fragment = rng.random() < 0.4
    if version == 4:
        if fragment:
            fields.update(fragment_offset=offset, more=more, dont_fragment=False)
        return packets.ipv4(source, destination, protocol, body, ident=ident & 0xFFFF,
                            options=rng.randbytes(4 * rng.randrange(11)), **fields)
    extensions = random_extensions(rng)
    if fragment:
        reserved = rng.choice((0, 6))
        extensions.insert(rng.randrange(len(extensions) + 1),
                          (packets.FRAGMENT, struct.pack("!BBHI", 0, 0, offset | reserved | more, ident)))
    return packets.ipv6(source, destination, protocol, body, flow_label=rng.randrange(1 << 20), extensions=tuple(extensions),
                        **fields)


def random_packet(rng):
    version = rng.choice((4, 6))
    packet = random_plain_packet(rng, version)
    if rng.random() < 0.3:
        kind = rng.choice((3, 4, 5, 11, 12) if version == 4 else (1, 2, 3, 4, 0, 127))
        quote = packet[:rng.choice((rng.randrange(20), packets.parse(packet).transport + 8, len(packet)))]
        packet = packets.icmp(rng.choice(HOSTS[version]), rng.choice(HOSTS[version]), kind, 0, bytes(4), quote)
    return packet


def expected_names(packet):
    """What the keys of a packet stand for, and whether the packet goes from the second end of its flow to the first."""
    parsed, names = packets.parse(packet), {}
    if parsed.fragment:
        names["fragment"] = packets.fragment_key(parsed)
    if packets.is_icmp_error(parsed, packet):
        try:
            names["quoted"] = packets.flow_key(packet)
        except ValueError:
            pass
        return {"own": ("error", parsed.source, parsed.destination, names.get("quoted")), **names}, False
    names["own"] = packets.flow_key(packet)
    if parsed.fragment_offset:
        return names, False
    first, second = names["own"][2:]
    at_second = parsed.source != first[0]
    if parsed.source == parsed.destination and parsed.protocol in (packets.TCP, packets.UDP):
        at_second = first[1] != second[1] and packet[parsed.transport:parsed.transport + 2] != struct.pack("!H", first[1])
    return names, at_second


def native_names(parts, packet, slot):
    parsed, keys = Packet(), Keys()
    assert parts.gw_packet_parse(packet, len(packet), packet[0] >> 4, byref(parsed)) == 0
    parts.gw_packet_keys(byref(parsed), slot, byref(keys))
    names = {"own": bytes(keys.own.word)}
    if keys.has_fragment:
        names["fragment"] = bytes(keys.fragment.word)
    if keys.has_quoted:
        names["quoted"] = bytes(keys.quoted.word)
    return names, keys.reversed


def test_packets_have_one_key_when_they_are_of_one_flow_and_only_then(parts):
    rng, key_of, name_of, total = random.Random(2026), {}, {}, 0
    for _ in range(40000):
        packet, slot = random_packet(rng), rng.choice((0, 65535))
        expected, expected_reversed = expected_names(packet)
        found, is_reversed = native_names(parts, packet, slot)
        assert found.keys() == expected.keys(), packet.hex()
        assert is_reversed == expected_reversed, packet.hex()
        for kind, name in expected.items():
            assert key_of.setdefault((slot, name), found[kind]) == found[kind], (kind, name, packet.hex())
            assert name_of.setdefault(found[kind], (slot, name)) == (slot, name), (kind, name, packet.hex())
            total += 1
    kinds = {name[0] for _, name in key_of}
    assert kinds == {4, 6, "datagram", "error"}
    assert total > 4 * len(key_of), "few packets were of one flow"


# ---- The flow table --------------------------------------------------------------------------------------------------


class Flows:
    """A table, and the calls with keys made from a number."""

    def __init__(self, parts, size, slots=4):
        self.parts, self.table = parts, parts.gw_flows_new(size, slots)
        assert self.table

    def key(self, number, slot=0, family=4, kind=0, protocol=17):
        key = Key()
        key.word[0], key.word[2] = number, number ^ 0xFFFFFFFF
        key.word[4] = (number & 0xFFFFFFFF) | protocol << 32 | family << 40 | kind << 44 | slot << 48
        self.parts.gw_flow_hash(self.table, byref(key))
        return key

    def learn(self, number, cookie, now=1, header_len=40, **where):
        path = Path_(Origin(0x0A000001, 0x0A000002, 4000), header_len)
        for i in range((header_len + 7) // 8):
            path.header[i] = cookie << 8 | i
        return self.parts.gw_flows_learn(self.table, byref(self.key(number, **where)), byref(path), now)

    def find(self, number, now=1, **where):
        """The cookie and header length of a flow, or None."""
        path = Path_()
        if not self.parts.gw_flows_find(self.table, byref(self.key(number, **where)), byref(path), now):
            return None
        assert [path.header[i] & 0xFF for i in range((path.header_len + 7) // 8)] == \
            list(range((path.header_len + 7) // 8))
        return path.header[0] >> 8, path.header_len

    def classes(self, slot=0):
        """The counts of a slot: TCP, UDP and others of IPv4, and then of IPv6."""
        counts = (FlowCount * FLOW_CLASSES)()
        self.parts.gw_flows_count(self.table, slot, counts)
        return counts

    def count(self, family=4, slot=0):
        return self.total("size", family, slot)

    def evicted(self, family=4, slot=0):
        return self.total("evicted", family, slot)

    def total(self, what, family=4, slot=0):
        half = FLOW_CLASSES // 2
        return sum(getattr(count, what) for count in self.classes(slot)[:half] if family == 4) + \
            sum(getattr(count, what) for count in self.classes(slot)[half:] if family == 6)

    def expire(self, now, tcp_s, other_s):
        return self.parts.gw_flows_expire(self.table, now, tcp_s, other_s)

    def entries(self):
        return self.parts.gw_flows_entries(self.table)

    def close(self):
        self.parts.gw_flows_free(self.table)


@pytest.fixture
def flows(parts, request):
    table = Flows(parts, getattr(request, "param", 1000))
    yield table
    table.close()


def test_the_newest_header_wins(flows):
    assert flows.find(1) is None
    flows.learn(1, cookie=7)
    flows.learn(1, cookie=8)
    assert flows.find(1) == (8, 40)
    assert flows.count() == 1


def test_slots_and_families_are_apart(flows):
    flows.learn(1, cookie=7, slot=1)
    flows.learn(1, cookie=8, slot=2)
    flows.learn(1, cookie=9, slot=2, family=6)
    assert (flows.find(1, slot=1), flows.find(1, slot=2), flows.find(1, slot=2, family=6)) == \
        ((7, 40), (8, 40), (9, 40))
    assert (flows.count(slot=1), flows.count(slot=2), flows.count(slot=2, family=6)) == (1, 1, 1)
    flows.parts.gw_flows_forget(flows.table, 2)
    assert flows.find(1, slot=2) is None and flows.find(1, slot=1) == (7, 40)
    assert (flows.count(slot=2), flows.count(slot=2, family=6), flows.entries()) == (0, 0, 1)


def test_all_slots_but_some_are_forgotten_in_one_go(flows):
    for number in range(40):
        flows.learn(number, cookie=number, slot=number % 4, header_len=100)
    kept = (c_uint64 * 1)(0b0101)
    assert flows.parts.gw_flows_forget_others(flows.table, kept) == 20
    assert [flows.count(slot=slot) for slot in range(4)] == [10, 0, 10, 0] and flows.entries() == 20 * 2
    assert all((flows.find(number, slot=number % 4) is None) == bool(number % 2) for number in range(40))
    assert flows.parts.gw_flows_forget_others(flows.table, kept) == 0


@pytest.mark.parametrize("header_len", [36, 64, 68, 72, 184, 188, 260])
def test_long_headers_are_kept_whole_and_given_back(flows, header_len):
    flows.learn(1, cookie=5, header_len=header_len)
    assert flows.find(1) == (5, header_len)
    flows.learn(1, cookie=6, header_len=40)
    assert flows.find(1) == (6, 40)
    assert flows.entries() == 1


def test_idle_flows_expire_and_used_ones_stay(flows):
    flows.learn(1, cookie=1, now=100)
    flows.learn(2, cookie=2, now=100)
    flows.learn(3, cookie=3, now=100, kind=1)
    assert flows.find(2, now=440)
    assert flows.expire(131, 350, 350) == 1  # a fragment, after 30 s
    assert flows.expire(450, 350, 350) == 0
    assert flows.expire(451, 350, 350) == 1
    assert flows.find(1, now=451) is None and flows.find(2, now=451) == (2, 40)
    assert flows.total("timed_out") == 1


@pytest.mark.parametrize("flows", [64], indirect=True)
def test_a_full_table_loses_its_oldest(flows):
    for number in range(64):
        assert flows.learn(number, cookie=number, now=10 if number < 32 else 11) == 0
    for number in range(1000, 1016):
        assert flows.learn(number, cookie=number, now=12) == 0
    assert all(flows.find(number) for number in range(32, 64)), "flows went that were newer than others"
    assert all(flows.find(number) for number in range(1000, 1016))
    assert flows.count() == 64 and flows.entries() == 64


@pytest.mark.parametrize("flows", [16], indirect=True)
def test_a_full_table_whose_flows_are_all_in_use_takes_no_new_one(flows):
    """A flow without a time is one that is about to be written: it cannot go."""
    full = Shim().counters.index("drop_flows_full")
    for number in range(15):
        assert flows.learn(number, cookie=number, now=0) == 0
    assert flows.learn(100, cookie=100, header_len=260) == full
    assert flows.learn(15, cookie=15, now=0) == 0, "the entries of the one that found no room are lost"
    assert flows.learn(101, cookie=101) == full
    assert [flows.find(number, now=0) for number in range(16)] == [(number, 40) for number in range(16)]
    assert flows.find(100) is None and flows.find(101) is None
    assert flows.count() == flows.entries() == 16


def test_a_million_flows_take_at_most_160_bytes_each(parts):
    table, number = Flows(parts, 1 << 21), 1_000_000
    try:
        before = resident()
        for i in range(number):
            table.learn(i, cookie=1)
        assert table.count() == number
        assert (resident() - before) / number <= 160
    finally:
        table.close()


def resident():
    """Bytes of resident memory of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


# ---- Under the sanitizers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_flow_table_and_ring_under_stress(sanitizer):
    programs.run([programs.sanitized(sanitizer, "stress"), 60000])


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_all_threads_while_endpoints_come_and_go(sanitizer):
    def share():
        """Of the packets, what came through: how many find an endpoint is a matter of luck."""
        said = programs.run([programs.sanitized(sanitizer, "stress_handler"), 30000])
        received, passed = map(int, re.search(r"received (\d+), to Linux (\d+)", said).groups())
        return passed / received

    assert any(share() > 1 / 4 for _ in range(3))
