# SPDX-License-Identifier: MIT-0
"""The test load balancer, against a small appliance that does right, or wrong in one way at a time."""
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, replace

import pytest

import gwlb
import packets
from gwlbtun import geneve
from lab import APPLIANCE, BALANCER, CLIENT, ENI, SERVER


@dataclass(frozen=True)
class Reply:
    """One datagram that the appliance sends."""

    payload: bytes
    destination: str
    port: int
    source: str = APPLIANCE
    destination_port: int = geneve.PORT
    ttl: int = 64

    def edited(self, offset: int, value: int) -> "Reply":
        return replace(self, payload=self.payload[:offset] + bytes([value]) + self.payload[offset + 1:])


class EchoAppliance:
    """Returns what it gets as behaviour(reply), a list of replies, says."""

    def __init__(self, namespace, behaviour=lambda reply: [reply]):
        self.behaviour = behaviour
        with namespace.entered():
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._receiver.setsockopt(socket.SOL_SOCKET, gwlb.SO_RCVBUFFORCE, gwlb.RECEIVE_BUFFER)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, gwlb.RECEIVE_TIMEOUT)
        self._receiver.bind(("0.0.0.0", geneve.PORT))
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._stopping = True
        self._thread.join()
        self._receiver.close()
        self._sender.close()

    def _run(self):
        while not self._stopping:
            with contextlib.suppress(BlockingIOError):
                payload, (address, port) = self._receiver.recvfrom(65535)
                for reply in self.behaviour(Reply(payload, address, port)):
                    self.send(reply)

    def send(self, reply):
        size = len(reply.payload)
        self._sender.sendto(
            struct.pack("!BBHHHBBH4s4sHHHH", 0x45, 0, 28 + size, 0, 0x4000, reply.ttl, 17, 0,
                        socket.inet_aton(reply.source), socket.inet_aton(reply.destination),
                        reply.port, reply.destination_port, 8 + size, 0) + reply.payload, (reply.destination, 0))


PACKET = packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"payload")
OTHER = packets.udp(CLIENT[0], SERVER[0], 1001, 2000, b"payload")


def one_hop_older(reply):
    packet = bytearray(reply.payload[40:])
    packet[8] -= 1
    packet[10:12] = bytes(2)
    packet[10:12] = struct.pack("!H", packets.checksum(bytes(packet[:20])))
    return replace(reply, payload=reply.payload[:40] + bytes(packet))


@pytest.mark.parametrize("version", [4, 6])
def test_hosts_reach_each_other_through_the_balancer(lab, version):
    pair = lab.pair()
    with EchoAppliance(lab.appliance):
        pair.client.namespace.run("ping", "-c3", "-i0.05", "-W60", pair.server.address(version))
    assert lab.balancer.counters.sent == lab.balancer.counters.returned == 6
    assert len(pair.endpoint.flows) == 1
    assert lab.balancer.awaited == 0


def test_endpoints_with_the_same_addresses_are_kept_apart(lab):
    pairs = [lab.pair(ENI + number) for number in range(2)]
    with EchoAppliance(lab.appliance):
        for pair in pairs:
            pair.endpoint.send(PACKET)
        # The packet, and that the server has nothing on that port.
        assert lab.balancer.wait(lambda: lab.balancer.counters.delivered == 4)
    assert [len(pair.endpoint.flows) for pair in pairs] == [1, 1]
    headers = [next(iter(pair.endpoint.flows.values())).envelope.header for pair in pairs]
    assert headers[0] != headers[1]


def test_what_is_for_no_host_is_kept_for_the_test(lab):
    endpoint = lab.endpoint()
    with EchoAppliance(lab.appliance):
        endpoint.send(PACKET)
        assert lab.balancer.wait(lambda: endpoint.received == [PACKET])
    assert endpoint.flow(PACKET).returned == 1


def test_wraps_as_gwlb_does(lab):
    endpoint = lab.endpoint(extra_options=[geneve.Option(0x0FFF, 7, b"abcd")])
    seen = []
    with EchoAppliance(lab.appliance, lambda reply: seen.append(reply) or [reply]):
        for packet in PACKET, OTHER, PACKET:
            endpoint.send(packet)
        assert lab.balancer.wait(lambda: len(endpoint.received) == 3)
    headers = [geneve.parse(reply.payload) for reply in seen]
    assert {header.eni for header in headers} == {ENI}
    assert {header.options[3] for header in headers} == {geneve.Option(0x0FFF, 7, b"abcd")}
    assert headers[0].cookie == headers[2].cookie != headers[1].cookie
    assert seen[0].port == seen[2].port
    assert {reply.destination for reply in seen} <= set(BALANCER)


@pytest.mark.parametrize("change", [
    {"cookie": 0x01020304}, {"port": 6081}, {"address": "other"}, {"extra_options": [geneve.Option(1, 2, b"new!")]},
    {"cookie": 0x01020304, "port": 1025},
])
def test_a_renewed_envelope_is_the_one_that_counts(lab, change):
    endpoint = lab.endpoint()
    flow = endpoint.flow(PACKET)
    if "address" in change:
        change = {"address": next(address for address in BALANCER if address != flow.envelope.address)}
    with EchoAppliance(lab.appliance):
        endpoint.send(PACKET)
        assert lab.balancer.wait(lambda: len(endpoint.received) == 1)
        flow.renew(**change)
        endpoint.send(PACKET)
        assert lab.balancer.wait(lambda: len(endpoint.received) == 2)
    assert flow.newest_returned == 1 and flow.envelopes[0] != flow.envelopes[1]


def violations(lab, behaviour, expectation=None, send=(PACKET,)):
    """What the balancer finds wrong with what an appliance returns; the fixture is left with nothing to find."""
    endpoint = lab.endpoint(expectation=expectation)
    before = lab.balancer.counters.returned
    seen = []

    def recorded(reply):
        replies = behaviour(reply)
        seen.extend(replies)
        return replies

    with EchoAppliance(lab.appliance, recorded):
        for packet in send:
            endpoint.send(packet)
        assert lab.balancer.wait(lambda: seen and lab.balancer.counters.returned - before == len(seen))
    found, lab.balancer.violations[:] = list(lab.balancer.violations), []
    return found


# Where the reply is wrong: the offset of a byte of the Geneve packet, and what the balancer says.
@pytest.mark.parametrize("offset, fault", [
    (1, "altered header"), (7, "altered header"), (12, "altered header"), (39, "altered header"),
    (40 + 8, "wrong IPv4 header checksum"), (40 + 21, "wrong checksum of protocol 17"),
    (40 + 34, "wrong checksum of protocol 17"),
])
def test_an_altered_byte_is_found(lab, offset, fault):
    found = violations(lab, lambda reply: [reply.edited(offset, reply.payload[offset] ^ 1)])
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize("behaviour, fault", [
    (lambda reply: [replace(reply, ttl=63)], "outer TTL 63"),
    (lambda reply: [replace(reply, source="192.0.2.11")], "outer source 192.0.2.11"),
    (lambda reply: [replace(reply, port=reply.port ^ 1)], "outer source port"),
    (lambda reply: [replace(reply, destination=BALANCER[reply.destination == BALANCER[0]])], "outer destination"),
    (lambda reply: [replace(reply, payload=reply.payload[:-1])], "but IP says"),
    (lambda reply: [replace(reply, payload=reply.payload + b"\0")], "but IP says"),
    (lambda reply: [replace(reply, payload=reply.payload[:40])], "no inner packet"),
    (lambda reply: [replace(reply, payload=reply.payload[:50])], "no IP packet"),
    (lambda reply: [replace(reply, payload=b"")], "altered header"),
    (lambda reply: [reply, reply], "altered, repeated, or of another flow"),
    (lambda reply: [one_hop_older(reply)], "altered, repeated, or of another flow"),
])
def test_a_wrong_reply_is_found(lab, behaviour, fault):
    found = violations(lab, behaviour)
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize("expectation", [gwlb.Identical(), gwlb.Forwarded()])
@pytest.mark.parametrize("dont_fragment", [True, False])
def test_another_ip_id_is_found(lab, expectation, dont_fragment):
    sent, returned = (packets.udp(CLIENT[0], SERVER[0], 1, 2, ident=ident, dont_fragment=dont_fragment) for ident in (0, 1))
    found = violations(lab, lambda reply: [replace(reply, payload=reply.payload[:40] + returned)], expectation, (sent,))
    assert len(found) == 1 and "altered" in found[0]


@pytest.mark.parametrize("expectation", [gwlb.Identical(), gwlb.Forwarded(), gwlb.WellFormed()])
def test_a_packet_under_another_flows_header_is_found(lab, expectation):
    headers = []

    def swap_headers(reply):
        headers.append(reply)
        if len(headers) < 2:
            return []
        first, second = headers
        return [replace(first, payload=second.payload[:40] + first.payload[40:], port=second.port,
                        destination=second.destination)]

    found = violations(lab, swap_headers, expectation, (PACKET, OTHER))
    assert len(found) == 1 and ("of another flow" in found[0])


def test_an_old_header_after_a_newer_one_is_found(lab):
    endpoint = lab.endpoint()
    flow = endpoint.flow(PACKET)
    first = []
    with EchoAppliance(lab.appliance, lambda reply: [first.append(reply) or first[0]]):
        endpoint.send(PACKET)
        assert lab.balancer.wait(lambda: len(endpoint.received) == 1)
        flow.renew(port=flow.envelope.port ^ 1)
        endpoint.send(PACKET)
        assert lab.balancer.wait(lambda: lab.balancer.violations)
    assert "sent under envelope 1, returned under an older one" in lab.balancer.violations.pop()


def test_a_forwarded_packet_may_be_a_hop_older_but_no_more(lab):
    assert violations(lab, lambda reply: [one_hop_older(reply)], gwlb.Forwarded()) == []
    found = violations(lab, lambda reply: [reply, one_hop_older(reply)], gwlb.Forwarded())
    assert len(found) == 1


def test_a_router_may_send_errors_under_the_header_of_the_flow_they_are_about(lab):
    error = packets.icmp("192.0.2.10", CLIENT[0], 11, 0, bytes(4), PACKET[:28])
    answer = lambda reply: [replace(reply, payload=reply.payload[:40] + error)]  # noqa: E731
    assert violations(lab, answer, gwlb.Forwarded()) == []
    assert len(violations(lab, answer, gwlb.Identical())) == 1
    assert len(violations(lab, answer, gwlb.Forwarded(), (OTHER,))) == 1


def test_lost_packets_are_awaited(lab):
    endpoint = lab.endpoint()
    with EchoAppliance(lab.appliance, lambda reply: []):
        endpoint.send(PACKET)
        endpoint.send(PACKET)
    assert lab.balancer.awaited == 2


def test_impairment_loses_doubles_delays_and_reorders(lab):
    endpoint = lab.endpoint()
    lab.balancer.impairment = gwlb.Impairment(loss=0.1, duplicate=0.1, reorder=0.2)
    sent = [packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"%d" % number) for number in range(500)]
    with EchoAppliance(lab.appliance):
        for packet in sent:
            endpoint.send(packet)
        counters = lab.balancer.counters
        expected = 500 - counters.lost + counters.duplicated
        assert lab.balancer.wait(lambda: len(endpoint.received) == expected)
    assert counters.lost > 10 and counters.duplicated > 10
    order = list(dict.fromkeys(endpoint.received))
    assert len(order) == 500 - counters.lost
    assert order != [packet for packet in sent if packet in set(order)]


def test_large_datagrams_are_injected_whole(lab):
    sizes = []
    with EchoAppliance(lab.appliance, lambda reply: sizes.append(len(reply.payload)) or []):
        lab.balancer.inject(bytes(65507))
        lab.balancer.inject(b"")
        assert lab.balancer.wait(lambda: sizes == [65507, 0])
