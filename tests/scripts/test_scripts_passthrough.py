# SPDX-License-Identifier: MIT-0
"""create-passthrough.sh."""
import packets
from scripts import CLIENT4_TO_SERVER, CLIENT6_TO_SERVER, HOST, sysctls, two_endpoints


def test_passthrough_leaves_the_filters_of_others(instance):
    stub = instance.endpoint()
    tc = "filter add dev", stub.gwi, "ingress pref 10 protocol ip u32 match ip protocol 50 0xff", \
        "action mirred egress mirror dev lo"
    instance.namespace.run("tc", "qdisc", "add", "dev", stub.gwi, "clsact")
    instance.namespace.run("tc", *" ".join(tc).split())

    def shown():
        return [instance.namespace.run("tc", what, "show", "dev", stub.gwi, "ingress").stdout
                for what in ("qdisc", "filter")]

    before = shown()
    stub.hook("create-passthrough.sh", "CREATE")
    assert shown() != before
    stub.hook("create-passthrough.sh", "DESTROY")
    assert shown() == before


def test_passthrough_returns_all_that_an_interface_carries(instance):
    stubs = two_endpoints(instance, "create-passthrough.sh")
    now = sysctls(instance.namespace)
    assert now["net.ipv4.ip_forward"] == now["net.ipv6.conf.all.forwarding"] == "0"
    sent = [packets.udp(*CLIENT4_TO_SERVER, 1000, 2000, b"x" * 8000),
            packets.udp(*CLIENT6_TO_SERVER, 1000, 2000, b"x" * 8000),
            packets.udp(*CLIENT4_TO_SERVER, 1000, 2000, ttl=1),
            packets.udp(HOST[0], HOST[0], 1000, 2000),             # to the host's own address, and from it
            packets.ipv4("127.0.0.1", "255.255.255.255", 89, b"what no host would take"),
            packets.ipv6("::1", "::", 253, b"")]
    for stub in stubs:
        for packet in sent:
            stub.send(packet)
            assert stub.receive() == ("gwo", packet)
    assert all(stub.silent() for stub in stubs)
