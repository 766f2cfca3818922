# SPDX-License-Identifier: MIT-0
"""/metrics of a daemon with traffic: both formats are valid, all names are there, and the figures are those of health."""
import json
import re
import signal
from pathlib import Path

import pytest

import packets
from documents import ROOT, coded, rows
from lab import CLIENT, ENI, SERVER
from monitoring import metrics_asked_for
from scrapes import PROMETHEUS, parse, promtool, scrape

# Of the fork with Prometheus: names and labels that dashboards rely on.
KNOWN = {
    "gwlbtun_up": "",
    "gwlbtun_udp_receiver_up": "port thread", "gwlbtun_udp_receiver_packets_in_total": "port thread",
    "gwlbtun_udp_receiver_bytes_in_total": "port thread", "gwlbtun_udp_receiver_seconds_since_last_packet": "port thread",
    "gwlbtun_tunnel_packets_total": "eni direction", "gwlbtun_tunnel_bytes_total": "eni direction",
    "gwlbtun_tunnel_seconds_since_last_packet": "eni direction",
    "gwlbtun_tunnel_thread_up": "eni direction thread", "gwlbtun_tunnel_thread_packets_total": "eni direction thread",
    "gwlbtun_tunnel_thread_bytes_total": "eni direction thread",
    "gwlbtun_tunnel_thread_seconds_since_last_packet": "eni direction thread",
    "gwlbtun_flowcache_entries": "eni cache", "gwlbtun_flowcache_evicted_last_check": "eni cache",
    "gwlbtun_flowcache_idle_timeout_seconds": "eni cache",
}


def udp(number=0, family=0):
    return packets.udp(CLIENT[family], SERVER[family], 1000 + number, 2000, b"x" * 50)


def carry(lab, eni=ENI, count=7):
    """Sends packets of as many flows, some with IPv6, and waits until they are back."""
    endpoint = lab.endpoint(eni)
    returned = lab.balancer.counters.returned + count
    for number in range(count):
        endpoint.send(udp(number, number % 2))
    assert lab.wait(lambda: lab.balancer.counters.returned == returned)
    return endpoint


@pytest.fixture
def busy(lab):
    """A daemon with two endpoints that have carried packets, and a packet that was dropped."""
    daemon = lab.start("--udpthreads", "2", "--tunthreads", "2", "-i", "77")
    carry(lab)
    carry(lab, ENI + 1, 12)
    lab.emit("gwo-887epl1g9A", packets.udp("203.0.113.1", "203.0.113.2", 1, 2))
    assert lab.wait(lambda: daemon.drops().get("no_flow") and daemon.health()["totals"]["pktsToGwlb"] == 19)
    return daemon


PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.debian
def test_each_format_is_what_it_says(busy):
    for accept, content_type in {
            None: PLAIN, "*/*": PLAIN, "text/plain": PLAIN, "application/json": PLAIN, PROMETHEUS: OPENMETRICS,
            "application/openmetrics-text": OPENMETRICS, "application/openmetrics-text;q=0.4,text/plain;q=0.5": PLAIN}.items():
        status, headers, body = busy.get("/metrics", accept=accept)
        assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, content_type, str(len(body)))
        text = body.decode()
        assert text.endswith("\n# EOF\n") == (content_type == OPENMETRICS)
        assert ("# TYPE gwlbtun_build info\n" in text) == (content_type == OPENMETRICS)
        found = parse(text)
        assert found.types["gwlbtun_hook_duration_seconds"] == "histogram"
        assert (found.types["gwlbtun_flows"], found.types["gwlbtun_drops"]) == ("gauge", "counter")
    promtool("check", "metrics", given=busy.get("/metrics")[2].decode())


def test_both_formats_say_the_same(busy):
    plain, openmetrics = scrape(busy), scrape(busy, PROMETHEUS)
    assert plain.samples.keys() == openmetrics.samples.keys()
    assert plain.types.keys() - {"gwlbtun_build_info", "gwlbtun_endpoint_info"} \
        == openmetrics.types.keys() - {"gwlbtun_build", "gwlbtun_endpoint"}


def test_names_and_labels_that_dashboards_know_are_there(busy):
    found = scrape(busy)
    assert {name: found.labels(name) for name in KNOWN} \
        == {name: {frozenset(labels.split())} for name, labels in KNOWN.items()}
    for name in KNOWN:
        of_endpoint = {dict(labels).get("eni") for sample, labels in found.samples if sample == name}
        assert of_endpoint in ({None}, {f"{ENI:017x}", f"{ENI + 1:017x}"})


def test_figures_are_those_of_health(busy):
    found, health = scrape(busy), json.loads(busy.get("/json")[2])
    totals = health["totals"]
    assert totals["pktsToGwlb"] == 19
    for name, key in {
            "from_gwlb_packets": "pktsFromGwlb", "from_gwlb_bytes": "bytesFromGwlb", "to_linux_packets": "pktsToLinux",
            "to_linux_bytes": "bytesToLinux", "to_linux_frames": "framesToLinux", "from_linux_packets": "pktsFromLinux",
            "from_linux_bytes": "bytesFromLinux", "to_gwlb_packets": "pktsToGwlb", "to_gwlb_bytes": "bytesToGwlb",
            "to_gwlb_messages": "sendsToGwlb", "receiver_batches": "receiverBatches"}.items():
        assert found.value(f"gwlbtun_{name}_total") == totals[key], name
    assert {reason: found.value("gwlbtun_drops_total", reason=reason) for reason in health["drops"]} == health["drops"]
    assert found.value("gwlbtun_drops_total", reason="no_flow") > 0
    for part in "flows", "endpoints":
        assert found.value(f"gwlbtun_{part}") == health[part]["size"] > 0
        assert found.value(f"gwlbtun_{part}_limit") == health[part]["bound"]
    assert found.value("gwlbtun_build_info", version=health["version"]) == 1
    assert found.value("gwlbtun_socket_drops_total") == health["udp"]["UDPPacketReceiver"]["socketDrops"]
    for thread in health["udp"]["UDPPacketReceiver"]["threads"]:
        labels = {"port": 6081, "thread": thread["threadNumber"]}
        assert found.value("gwlbtun_udp_receiver_up", **labels) == 1
        assert found.value("gwlbtun_udp_receiver_packets_in_total", **labels) == thread["pktsIn"]
        assert found.value("gwlbtun_udp_receiver_bytes_in_total", **labels) == thread["bytesIn"]


def test_figures_of_endpoints_are_those_of_health(busy):
    found, health = scrape(busy), json.loads(busy.get("/json")[2])
    assert len(health["enis"]) == 2
    for eni in health["enis"]:
        own = {"eni": eni["eniStr"]}
        assert found.value("gwlbtun_endpoint_info", **own, vpce=f"vpce-{eni['eniStr']}", name="", netns="",
                           gwi=eni["tunnelIn"]["devname"], gwo=eni["tunnelOut"]["devname"]) == 1
        assert found.value("gwlbtun_endpoint_up", **own) == 1
        assert found.value("gwlbtun_queue_bytes", **own) == eni["queueBytes"]
        assert found.value("gwlbtun_queue_drops_total", **own) == eni["queueDrops"]
        for direction, tunnel in ("in", eni["tunnelIn"]), ("out", eni["tunnelOut"]):
            for name, key in {"": "Out", "read_": "In", "sent_": "Sent"}.items():
                for what in "packets", "bytes":
                    assert found.value(f"gwlbtun_tunnel_{name}{what}_total", **own, direction=direction) \
                        == tunnel[{"packets": "pkts", "bytes": "bytes"}[what] + key]
            for thread in tunnel["threads"]:
                assert found.value("gwlbtun_tunnel_thread_packets_total", **own, direction=direction,
                                   thread=thread["threadNumber"]) == thread["pktsIn"]
            assert found.value("gwlbtun_tunnel_drops_total", **own, direction=direction) == tunnel["pktsDropped"]
        assert found.value("gwlbtun_endpoint_healthy", **own) == 1
        for cache in "v4", "v6":
            for protocol in "tcp", "udp", "other":
                assert found.value("gwlbtun_endpoint_flows", **own, cache=cache, protocol=protocol) \
                    == eni[f"{cache}FlowCache{protocol.capitalize()}"]["size"]
            assert found.value("gwlbtun_flowcache_entries", **own, cache=cache) == eni[f"{cache}FlowCache"]["size"] > 0
            assert found.value("gwlbtun_flowcache_idle_timeout_seconds", **own, cache=cache) \
                == eni[f"{cache}FlowCache"]["idleTimeoutSecs"]
        assert found.total("gwlbtun_tunnel_sent_packets_total", **own) in (7, 12)


def test_hooks_are_counted_with_how_they_ended_and_how_long_they_took(lab):
    daemon = lab.start("--max-endpoints", "8", hook='#!/bin/sh\nsleep 0.02; case "$1$4" in CREATE*1) exit 3;; esac\n')
    for number in range(3):
        lab.endpoint(ENI + number).send(udp())
    assert lab.wait(lambda: sum(scrape(daemon).total("gwlbtun_endpoint_up", eni=f"{ENI + number:017x}")
                                for number in range(3)) == 3)
    found = scrape(daemon)
    assert found.value("gwlbtun_hooks_total", action="create", result="ok") == 2
    assert found.value("gwlbtun_hooks_total", action="create", result="failed") == 1
    assert found.value("gwlbtun_hooks_total", action="destroy", result="ok") == 0
    assert found.value("gwlbtun_endpoint_hooks_failed_total", eni=f"{ENI + 1:017x}") == 1
    assert found.value("gwlbtun_hook_duration_seconds_count", action="create") == 3
    assert found.value("gwlbtun_hook_duration_seconds_bucket", action="create", le="+Inf") == 3
    assert found.value("gwlbtun_hook_duration_seconds_bucket", action="create", le="0.01") == 0
    assert found.value("gwlbtun_hook_duration_seconds_sum", action="create") >= 0.06
    assert found.value("gwlbtun_hooks_running") == 0


def test_totals_never_go_back_when_endpoints_go(lab):
    daemon = lab.start("-t", "1", "--tunthreads", "1")
    known, seen = scrape(daemon), set()

    def look():
        nonlocal known
        found = scrape(daemon)
        for sample, value in known.samples.items():
            name, labels = sample
            if name.endswith(("_total", "_count", "_sum", "_bucket")) and "eni" not in dict(labels):
                assert found.samples[sample] >= value, sample
        known = found
        seen.add(found.value("gwlbtun_endpoints"))
        return found
    for _ in range(2):
        carry(lab)
        assert lab.wait(lambda: look().value("gwlbtun_endpoints") == 0)
    assert known.value("gwlbtun_to_gwlb_packets_total") == 14
    assert known.value("gwlbtun_hooks_total", action="destroy", result="ok") == 2
    assert not known.total("gwlbtun_endpoint_up") and seen == {0, 1}


def test_an_unhealthy_daemon_has_metrics_too(lab):
    hook = '#!/bin/sh\n[ "$1" = CREATE ] && exit 0\nuntil [ -e "$(dirname "$0")/go" ]; do sleep 0.02; done\n'
    daemon = lab.start("-s", hook=hook)
    lab.endpoint().send(udp())
    assert lab.wait(lambda: scrape(daemon).total("gwlbtun_endpoint_up") == 1)
    assert (daemon.get()[2], scrape(daemon).value("gwlbtun_healthy")) == (b"", 1)
    daemon.process.send_signal(signal.SIGTERM)
    assert lab.wait(lambda: scrape(daemon).value("gwlbtun_healthy") == 0)
    assert scrape(daemon, PROMETHEUS).value("gwlbtun_up") == 0 and daemon.get("/")[0] == daemon.get("/json")[0] == 503
    assert lab.wait(lambda: scrape(daemon).value("gwlbtun_hooks_running") == 1)
    (lab.directory / "go").touch()
    assert daemon.process.wait(60) == 0


def test_the_process_is_as_the_kernel_has_it(busy, lab):
    busy.wait_hooks_read()
    assert lab.wait(lambda: scrape(busy).value("process_threads") == len(busy.threads()))
    found = scrape(busy)
    status = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{busy.pid}/status").read_text(), re.MULTILINE))
    assert abs(found.value("process_resident_memory_bytes") / 1024 - int(status["VmRSS"])) < 20_000
    assert found.value("process_virtual_memory_bytes") / 1024 > found.value("process_resident_memory_bytes") / 1024
    assert 10 < found.value("process_open_fds") < found.value("process_max_fds")
    assert 0 < found.value("process_cpu_seconds_total") < 60
    begun = Path(f"/proc/{busy.pid}").stat().st_ctime
    assert abs(found.value("process_start_time_seconds") - begun) < 5


def test_every_metric_is_explained_and_no_other(busy):
    explained = {name: (row[1], set(coded(row[2])))
                 for row in rows((ROOT / "docs" / "METRICS.md").read_text()) if len(row) == 4 for name in coded(row[0])}
    found = scrape(busy, PROMETHEUS)
    suffixes = {"counter": "_total", "info": "_info"}
    live = {}
    for family, kind in found.types.items():
        own = family + suffixes.get(kind, "")
        sample = own + "_bucket" * (kind == "histogram")
        live[own] = kind, {label for labels in found.labels(sample) for label in labels}
    assert live == explained


def test_alerts_and_dashboard_ask_for_metrics_that_are_there(busy):
    asked = metrics_asked_for()
    assert len(asked) > 30 and asked <= scrape(busy).names
