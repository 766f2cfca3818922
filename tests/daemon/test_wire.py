# SPDX-License-Identifier: MIT-0
"""Nothing changes on the wire: random streams through the whole daemon, with offloads and without, packet by packet."""
import itertools
import random

import pytest

import packets
from expectations import AsLongAsIpSays
from lab import CLIENT, ENI, SERVER
from superpackets import random_stream
from test_transmit import all_return, send_all, stopped

ROUNDS = 15


def interleaved(rng, streams):
    """The packets of all streams, each in its own order."""
    left = [list(stream) for stream in streams]
    while left:
        stream = rng.choice(left)
        yield stream.pop(0)
        if not stream:
            left.remove(stream)


def one_of_each_kind(rng):
    """Random streams of TCP and UDP over IPv4 and IPv6: four flows."""
    streams = {}
    while len(streams) < 4:
        stream = random_stream(rng)
        streams[stream[0][0] >> 4, stream[0][{4: 9, 6: 6}[stream[0][0] >> 4]]] = stream
    return streams.values()


def run(lab, eni, offload):
    """What comes back of random streams that the daemon finds waiting, some at a time; and how many went in one write."""
    rng = random.Random(11)
    daemon = lab.start("--offload", offload, "--udpthreads", 1, "--tunthreads", 1)
    lab.one_wire()
    endpoint = lab.endpoint(eni, AsLongAsIpSays())
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, b"first"))
    assert lab.wait(lambda: endpoint.received)
    sent = 1
    for _ in range(ROUNDS):
        with stopped(daemon):
            for packet in interleaved(rng, one_of_each_kind(rng)):
                endpoint.send(packet)
                sent += 1

        def done(expected=sent):
            health = daemon.health()
            totals = health["totals"]
            return totals["pktsFromGwlb"] == expected == totals["pktsToGwlb"] + sum(health["drops"].values())

        assert lab.wait(done), daemon.health()
    totals = daemon.health()["totals"]
    assert daemon.stop() == 0
    return packets.by_flow(endpoint.received), totals["pktsToLinux"] / totals["framesToLinux"]


def test_what_goes_out_with_offloads_is_what_goes_out_without(lab):
    plain, alone = run(lab, ENI, "none")
    merged, together = run(lab, ENI + 1, "all")
    assert alone == 1
    assert together > 1.3, "hardly anything was merged: this test shows nothing"
    assert merged.keys() == plain.keys()
    for key in plain:
        assert merged[key] == plain[key]


@pytest.mark.parametrize("offload", ["all", "none"])
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_keep_their_place_among_the_packets_of_their_flow(lab, offload, version):
    daemon = lab.start("--offload", offload, "--udpthreads", 1, "--tunthreads", 1)
    lab.one_wire()
    endpoint = lab.endpoint()
    ends = CLIENT[version == 6], SERVER[version == 6]
    whole = [packets.udp(*ends, 5000, 53, bytes([number]) * 100) for number in range(4)]
    parts = [packets.fragments(*ends, 17, packets.udp_datagram(*ends, 5000, 53, bytes([number]) * 2500), 1000, number + 1)
             for number in range(2)]
    sent = [whole[0], *itertools.chain(*zip(*parts)), whole[1], *parts[0], whole[2], whole[3]]
    endpoint.send(whole[0])
    assert all_return(lab)
    with stopped(daemon):
        for packet in sent:
            endpoint.send(packet)
    assert all_return(lab)
    assert endpoint.received[1:] == sent


def test_one_flow_in_several_datagrams_and_geneve_headers(lab):
    """The cookie changes within a batch: each packet goes back under the newest header there is, and none is lost."""
    daemon = lab.start("--udpthreads", 1, "--tunthreads", 1)
    lab.one_wire()
    endpoint = lab.endpoint()
    sent = [packets.udp(CLIENT[0], SERVER[0], 7, 8, bytes([number]) * 200) for number in range(40)]
    send_all(lab, endpoint, sent[:1])
    assert all_return(lab)
    with stopped(daemon):
        for number, packet in enumerate(sent):
            if number % 5 == 0:
                endpoint.flow(packet).renew()
            endpoint.send(packet)
    assert all_return(lab)
    assert endpoint.received[1:] == sent
