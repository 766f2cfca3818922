# SPDX-License-Identifier: MIT-0
"""What can be wrong with a datagram that returns from the appliance, held against what was sent."""
from typing import Iterable, List, Optional

import packets
from flows import Envelope, Flow

OUTER_TTL = 64


def outer(flow: Flow, under: Envelope, source: str, ttl: int) -> Iterable[str]:
    if ttl != OUTER_TTL:
        yield f"outer TTL {ttl}, not {OUTER_TTL}"
    if source != flow.endpoint.balancer.appliance:
        yield f"outer source {source}, not {flow.endpoint.balancer.appliance}"
    index = latest_index(flow.envelopes, under)
    if index is not None:
        if index < flow.newest_returned:
            yield f"under envelope {index} after {flow.newest_returned} had come back"
        flow.newest_returned = index
        return
    candidates = [envelope for envelope in flow.envelopes if envelope.header == under.header]
    if under.address not in [envelope.address for envelope in candidates]:
        yield f"outer destination {under.address}, not {candidates[-1].address}"
    if under.port not in [envelope.port for envelope in candidates]:
        yield f"outer source port {under.port}, not {candidates[-1].port}"
    if len(candidates) > 1:
        yield "an envelope that never was"


def inner(flow: Flow, under: Envelope, packet: bytes) -> List[str]:
    expectation = flow.endpoint.expectation
    if not packet:
        return ["no inner packet"]
    fingerprint = expectation.fingerprint(packet)
    entries = flow.awaited.get(fingerprint) if fingerprint is not None else None
    if entries:
        sent_under, sent = entries.popleft()
        if not entries:
            del flow.awaited[fingerprint]
        if packet != sent and packet[0] >> 4 == 4 and packets.checksum(packet[:(packet[0] & 15) * 4]):
            return ["wrong IPv4 header checksum"]
        if latest_index(flow.envelopes, under) < sent_under:
            return [f"sent under envelope {sent_under}, returned under an older one"]
        return []
    found = packets.faults(packet)
    if found:
        return found
    if not expectation.admits(packet):
        return ["not a packet that this flow awaits: altered, repeated, or of another flow"]
    key = packets.flow_key(packet)
    parsed = packets.parse(packet)
    datagrams = flow.endpoint.datagrams
    if key[0] == "datagram":
        return [] if datagrams.get(key, flow) is flow else ["under the header of another datagram's flow"]
    if parsed.fragment:
        datagrams[packets.fragment_key(parsed)] = flow
    return [] if key == flow.key else ["under the header of another flow"]


def latest_index(envelopes: List[Envelope], envelope: Envelope) -> Optional[int]:
    if envelopes[-1] == envelope:
        return len(envelopes) - 1
    found = [index for index, known in enumerate(envelopes) if known == envelope]
    return found[-1] if found else None
