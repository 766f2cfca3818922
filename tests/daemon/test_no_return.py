# SPDX-License-Identifier: MIT-0
"""--no-return: gwlbtun receives only."""
import signal

import packets
from lab import CLIENT, ENI, SERVER


def test_nothing_goes_back_and_no_flow_is_kept(lab):
    daemon = lab.start("--no-return")
    endpoint = lab.endpoint()
    whole = packets.udp(CLIENT[0], SERVER[0], 1, 2, b"x" * 3000)
    sent = [packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2, bytes(100)) for number in range(50)]
    sent += packets.fragments(CLIENT[0], SERVER[0], packets.UDP, whole[20:], 1480, ident=7)
    sent.append(packets.tcp(CLIENT[1], SERVER[1], 1000, 80, flags=packets.SYN))
    for packet in sent:
        endpoint.send(packet)
    assert lab.wait(lambda: daemon.drops().get("no_return") == len(sent))  # the hook sends them out of gwo
    health = daemon.health()
    eni = daemon.eni(endpoint)
    assert (eni["tunnelIn"]["pktsOut"], eni["v4FlowCache"]["size"], eni["v6FlowCache"]["size"]) == (len(sent), 0, 0)
    assert health["noReturn"] and health["healthy"]
    assert health["flows"] == {"size": 0, "bound": 0} and health["totals"]["pktsToGwlb"] == 0
    assert endpoint.received == [] and lab.balancer.counters.returned == 0
    assert f"gwo-{endpoint.gwi[4:]}" in lab.appliance.ip("link")


def test_the_text_says_so(lab):
    daemon = lab.start("--no-return", json_health=False)
    assert "Receive only (--no-return)" in daemon.get()[2].decode()


def test_super_packets_count_as_what_they_would_be_cut_into(lab):
    daemon = lab.start("--no-return", "--endpoint", f"{ENI:x}", "--udpthreads", "1")
    assert lab.wait(lambda: daemon.get()[0] == 200)
    endpoint = lab.endpoint()
    daemon.process.send_signal(signal.SIGSTOP)  # so that all are received together
    for number in range(40):
        endpoint.send(packets.tcp(CLIENT[0], SERVER[0], 1000, 80, bytes(1000), seq=1000 * number, ident=number))
    daemon.process.send_signal(signal.SIGCONT)
    assert lab.wait(lambda: daemon.drops().get("no_return") == 40)
    inward = daemon.eni(endpoint)["tunnelIn"]
    assert inward["pktsOut"] == 40 and inward["framesOut"] < 40
