# SPDX-License-Identifier: MIT-0
"""Metrics for Prometheus: every figure of health, by a name of its own. docs/METRICS.md explains each.

Names that dashboards of other releases know come first in their sections and stay as they are.
"""
from typing import Any, Callable, Iterable, Iterator, List

from . import hooks, process
from .exposition import (COUNTER, GAUGE, HISTOGRAM, INFO, OPENMETRICS_END, OPENMETRICS_TYPE, TEXT_TYPE, Family, Sample, Value,
                         labels, openmetrics_of, text_of)
from .forms import Form
from .health import Snapshot
from .state import State

Samples = Callable[[Snapshot], Iterable[Sample]]

_DIRECTIONS = {"in": "tunnelIn", "out": "tunnelOut"}
_CACHES = {"v4": "v4FlowCache", "v6": "v6FlowCache"}


# ---- Where samples come from. ENI IDs and numbers need no escaping, and there may be many of them. -------------------------


def _one(*path: str) -> Samples:
    """The value at a path of keys."""
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        value: Any = snapshot
        for key in path:
            value = value[key]
        yield "", value
    return samples


def _by(label: str, part: str, *keys: str) -> Samples:
    """The values of a part, or some of them, by key."""
    return lambda snapshot: ((labels(**{label: key}), snapshot[part][key]) for key in keys or snapshot[part])


def _receivers(key: str) -> Samples:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        udp = snapshot["udp"]["UDPPacketReceiver"]
        for thread in udp["threads"]:
            yield f'{{port="{udp["portNumber"]}",thread="{thread["threadNumber"]}"}}', _number(thread[key])
    return samples


def _endpoints(value_of: Callable[[Snapshot], Value]) -> Samples:
    return lambda snapshot: ((f'{{eni="{eni["eniStr"]}"}}', value_of(eni)) for eni in snapshot["enis"])


def _tunnels(key: str) -> Samples:
    return lambda snapshot: ((f'{{eni="{eni["eniStr"]}",direction="{direction}"}}', eni[tunnel][key])
                             for eni in snapshot["enis"] for direction, tunnel in _DIRECTIONS.items())


def _threads(key: str) -> Samples:
    return lambda snapshot: ((f'{{eni="{eni["eniStr"]}",direction="{direction}",thread="{thread["threadNumber"]}"}}',
                              _number(thread[key]))
                             for eni in snapshot["enis"] for direction, tunnel in _DIRECTIONS.items()
                             for thread in eni[tunnel]["threads"])


def _caches(key: str) -> Samples:
    return lambda snapshot: ((f'{{eni="{eni["eniStr"]}",cache="{cache}"}}', eni[part][key])
                             for eni in snapshot["enis"] for cache, part in _CACHES.items())


def _flows(snapshot: Snapshot) -> Iterator[Sample]:
    for eni in snapshot["enis"]:
        for cache, part in _CACHES.items():
            for protocol in "tcp", "udp", "other":
                yield (f'{{eni="{eni["eniStr"]}",cache="{cache}",protocol="{protocol}"}}',
                       eni[part + protocol.capitalize()]["size"])


def _ways(key: str) -> Samples:
    return lambda snapshot: ((labels(direction=direction), snapshot["ebpf"][part][key])
                             for direction, part in (("in", "ingress"), ("out", "egress")))


def _number(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value


def _endpoint_info(snapshot: Snapshot) -> Iterator[Sample]:
    for eni in snapshot["enis"]:
        yield labels(eni=eni["eniStr"], vpce=eni["gwlbEndpointId"], name=eni["name"], netns=eni["netns"],
                     gwi=eni["tunnelIn"]["devname"], gwo=eni["tunnelOut"]["devname"]), 1


def _hooks(snapshot: Snapshot) -> Iterator[Sample]:
    for action, runs in snapshot["hooks"].items():
        for result in "ok", "failed":
            yield labels(action=action, result=result), runs[result]


def _hook_durations(snapshot: Snapshot) -> Iterator[Sample]:
    for action, runs in snapshot["hooks"].items():
        count = runs["ok"] + runs["failed"]
        for bucket in (*runs["buckets"], {"le": "+Inf", "count": count}):
            yield "_bucket" + labels(action=action, le=bucket["le"]), bucket["count"]
        yield "_sum" + labels(action=action), runs["seconds"]
        yield "_count" + labels(action=action), count


# ---- The families ----------------------------------------------------------------------------------------------------------

_HEALTH = [
    Family("gwlbtun_up", GAUGE, "Whether gwlbtun is healthy (1) or not (0).", lambda reasons: [("", int(not reasons))]),
    Family("gwlbtun_healthy", GAUGE, "Whether gwlbtun is healthy (1) or not (0).", lambda reasons: [("", int(not reasons))]),
]

_FAMILIES = [
    Family("gwlbtun_build_info", INFO, "The version of gwlbtun.",
           lambda snapshot: [(labels(version=snapshot["version"]), 1)]),

    Family("gwlbtun_udp_receiver_up", GAUGE, "Whether the receiver runs.", _receivers("healthy")),
    Family("gwlbtun_udp_receiver_packets_in_total", COUNTER, "Packets from the load balancer.", _receivers("pktsIn")),
    Family("gwlbtun_udp_receiver_bytes_in_total", COUNTER, "Bytes from the load balancer, with the Geneve header.",
           _receivers("bytesIn")),
    Family("gwlbtun_udp_receiver_seconds_since_last_packet", GAUGE, "Time since the last packet from the load balancer.",
           _receivers("secsSinceLastPacket")),
    Family("gwlbtun_receive_buffer_bytes", GAUGE, "Receive buffer that the kernel granted each receiver.",
           _one("udp", "UDPPacketReceiver", "receiveBufferBytes")),
    Family("gwlbtun_socket_drops_total", COUNTER, "Datagrams that the kernel dropped as the receivers did not keep up.",
           _one("udp", "UDPPacketReceiver", "socketDrops")),

    Family("gwlbtun_from_gwlb_packets_total", COUNTER, "Packets received from the load balancer.",
           _one("totals", "pktsFromGwlb")),
    Family("gwlbtun_from_gwlb_bytes_total", COUNTER, "Bytes received from the load balancer, with the Geneve header.",
           _one("totals", "bytesFromGwlb")),
    Family("gwlbtun_to_linux_packets_total", COUNTER, "Packets handed to Linux.", _one("totals", "pktsToLinux")),
    Family("gwlbtun_to_linux_bytes_total", COUNTER, "Bytes handed to Linux.", _one("totals", "bytesToLinux")),
    Family("gwlbtun_to_linux_frames_total", COUNTER, "Frames handed to Linux, each of one packet or of several merged ones.",
           _one("totals", "framesToLinux")),
    Family("gwlbtun_from_linux_packets_total", COUNTER, "Packets read from Linux.", _one("totals", "pktsFromLinux")),
    Family("gwlbtun_from_linux_bytes_total", COUNTER, "Bytes read from Linux.", _one("totals", "bytesFromLinux")),
    Family("gwlbtun_to_gwlb_packets_total", COUNTER, "Packets sent back to the load balancer.", _one("totals", "pktsToGwlb")),
    Family("gwlbtun_to_gwlb_bytes_total", COUNTER, "Bytes sent back to the load balancer.", _one("totals", "bytesToGwlb")),
    Family("gwlbtun_to_gwlb_messages_total", COUNTER, "Messages sent back to the load balancer, each of one packet or more.",
           _one("totals", "sendsToGwlb")),
    Family("gwlbtun_receiver_batches_total", COUNTER, "Batches of receivers.", _one("totals", "receiverBatches")),
    Family("gwlbtun_fastpath_entries_total", COUNTER, "Calls from Python into the fast path.",
           lambda snapshot: [(labels(threads=threads), snapshot["totals"][key])
                             for threads, key in (("receiver", "receiverEntries"), ("tunnel", "tunnelEntries"))]),
    Family("gwlbtun_thread_failures_total", COUNTER, "Tunnel threads that failed, and were started again.",
           _one("totals", "threadFailures")),
    Family("gwlbtun_errors_total", COUNTER, "System calls that failed; work went on after each.",
           lambda snapshot: [(labels(call=call), snapshot["totals"][f"{call}Errors"]) for call in ("receive", "send", "tun")]),
    Family("gwlbtun_drops_total", COUNTER, "Packets dropped.", _by("reason", "drops")),

    Family("gwlbtun_flows", GAUGE, "Flows now.", _one("flows", "size")),
    Family("gwlbtun_flows_limit", GAUGE, "Flows at most.", _one("flows", "bound")),
    Family("gwlbtun_kernel_path_active", GAUGE, "Whether packets of known flows may take the kernel alone.",
           lambda snapshot: [("", int(snapshot["ebpf"]["active"]))]),
    Family("gwlbtun_kernel_packets_total", COUNTER, "Packets that took the kernel alone; other figures include them.",
           _ways("accelerated")),
    Family("gwlbtun_kernel_passed_on_packets_total", COUNTER, "Packets of the load balancer, and back to it, that the programs "
           "in the kernel left to the threads.", _ways("punted_userspace")),
    Family("gwlbtun_kernel_flows", GAUGE, "Flows that may take the kernel now.", _one("ebpf", "flows")),
    Family("gwlbtun_kernel_aside", GAUGE, "Interfaces whose packets do not take the kernel, so that others see them.",
           lambda snapshot: [("", snapshot["ebpf"]["interfacesAside"])]),

    Family("gwlbtun_notes", GAUGE, "Hints of health that something keeps packets from coming back.",
           lambda snapshot: [("", len(snapshot["notes"]))]),
    Family("gwlbtun_endpoints", GAUGE, "Endpoints now.", _one("endpoints", "size")),
    Family("gwlbtun_endpoints_limit", GAUGE, "Endpoints at most.", _one("endpoints", "bound")),

    Family("gwlbtun_hooks_total", COUNTER, "Hooks that have ended.", _hooks),
    Family("gwlbtun_hook_duration_seconds", HISTOGRAM, "How long hooks took.", _hook_durations),
    Family("gwlbtun_hooks_running", GAUGE, "Hooks that run now.", lambda snapshot: [("", hooks.running())]),

    Family("gwlbtun_endpoint_info", INFO, "What the endpoint and its interfaces are called.", _endpoint_info),
    Family("gwlbtun_endpoint_up", GAUGE, "Whether the endpoint carries traffic.",
           _endpoints(lambda eni: int(eni["state"] == State.UP.value))),
    Family("gwlbtun_endpoint_healthy", GAUGE, "Whether the endpoint is up, or coming up for the first time.",
           _endpoints(lambda eni: int(eni["healthy"]))),
    Family("gwlbtun_endpoint_seconds_since_last_packet", GAUGE,
           "Time since the last packet from the load balancer or back to it.",
           _endpoints(lambda eni: eni["secsSinceLastPacket"])),
    Family("gwlbtun_endpoint_flows", GAUGE, "Flows of the endpoint now, by protocol.", _flows),
    Family("gwlbtun_endpoint_hooks_failed_total", COUNTER, "Hooks of the endpoint that failed.",
           _endpoints(lambda eni: eni["hooksFailed"])),
    Family("gwlbtun_queue_bytes", GAUGE, "Bytes that wait for the tunnel threads of the endpoint.",
           _endpoints(lambda eni: eni["queueBytes"])),
    Family("gwlbtun_queue_drops_total", COUNTER, "Packets dropped because the tunnel threads did not keep up.",
           _endpoints(lambda eni: eni["queueDrops"])),

    Family("gwlbtun_tunnel_packets_total", COUNTER, "Packets handed to Linux by the interface.", _tunnels("pktsOut")),
    Family("gwlbtun_tunnel_bytes_total", COUNTER, "Bytes handed to Linux by the interface.", _tunnels("bytesOut")),
    Family("gwlbtun_tunnel_seconds_since_last_packet", GAUGE, "Time since the interface handed a packet to Linux.",
           _tunnels("secsSincelastPacket")),
    Family("gwlbtun_tunnel_frames_total", COUNTER, "Frames handed to Linux by the interface.", _tunnels("framesOut")),
    Family("gwlbtun_tunnel_read_packets_total", COUNTER, "Packets that Linux sent out of the interface.", _tunnels("pktsIn")),
    Family("gwlbtun_tunnel_read_bytes_total", COUNTER, "Bytes that Linux sent out of the interface.", _tunnels("bytesIn")),
    Family("gwlbtun_tunnel_sent_packets_total", COUNTER, "Packets of those that went back to the load balancer.",
           _tunnels("pktsSent")),
    Family("gwlbtun_tunnel_sent_bytes_total", COUNTER, "Bytes of those that went back to the load balancer.",
           _tunnels("bytesSent")),
    Family("gwlbtun_tunnel_drops_total", COUNTER,
           "Packets dropped on their way to the interface, or after Linux had sent them.", _tunnels("pktsDropped")),

    Family("gwlbtun_tunnel_thread_up", GAUGE, "Whether the tunnel thread runs.", _threads("healthy")),
    Family("gwlbtun_tunnel_thread_packets_total", COUNTER, "Packets that the tunnel thread read from Linux.",
           _threads("pktsIn")),
    Family("gwlbtun_tunnel_thread_bytes_total", COUNTER, "Bytes that the tunnel thread read from Linux.", _threads("bytesIn")),
    Family("gwlbtun_tunnel_thread_handed_on_packets_total", COUNTER, "Packets that the tunnel thread handed to Linux.",
           _threads("pktsOut")),
    Family("gwlbtun_tunnel_thread_seconds_since_last_packet", GAUGE, "Time since the tunnel thread read a packet from Linux.",
           _threads("secsSincelastPacket")),

    Family("gwlbtun_flowcache_entries", GAUGE, "Flows of the endpoint now.", _caches("size")),
    Family("gwlbtun_flowcache_evicted_last_check", GAUGE, "Idle flows forgotten in the last full period of 10 seconds.",
           _caches("timedOut")),
    Family("gwlbtun_flowcache_idle_timeout_seconds", GAUGE, "Time after which an idle flow is forgotten.",
           _caches("idleTimeoutSecs")),
    Family("gwlbtun_flowcache_timeouts_total", COUNTER, "Idle flows forgotten.", _caches("timedOutTotal")),
    Family("gwlbtun_flowcache_evictions_total", COUNTER, "Flows evicted from the full table.", _caches("evictedTotal")),
]


def _process(name: str, kind: str, help: str) -> Family:
    key = name[len("process_"):-len("_total") if kind == COUNTER else None]
    return Family(name, kind, help, lambda usage: [("", usage[key])] if key in usage else [])


_PROCESS = [
    _process("process_cpu_seconds_total", COUNTER, "User and system CPU time."),
    _process("process_resident_memory_bytes", GAUGE, "Resident memory."),
    _process("process_virtual_memory_bytes", GAUGE, "Virtual memory."),
    _process("process_open_fds", GAUGE, "Open file descriptors."),
    _process("process_max_fds", GAUGE, "Most open file descriptors."),
    _process("process_threads", GAUGE, "Threads."),
    _process("process_start_time_seconds", GAUGE, "When the process started, since the epoch."),
]

Renderer = Callable[[Family, object], Iterator[str]]


def _head(renderer: Renderer, reasons: List[str]) -> str:
    return "".join(piece for family in _HEALTH for piece in renderer(family, reasons))


def _tail(renderer: Renderer, snapshot: Snapshot) -> Iterator[str]:
    for family in _FAMILIES:
        yield from renderer(family, snapshot)
    usage = process.usage()
    for family in _PROCESS:
        yield from renderer(family, usage)


def _openmetrics_tail(snapshot: Snapshot) -> Iterator[str]:
    yield from _tail(openmetrics_of, snapshot)
    yield OPENMETRICS_END


# A scrape that does not end with 200 has no figures, and one of older figures has wrong rates.
TEXT = Form(TEXT_TYPE, lambda reasons: _head(text_of, reasons), lambda snapshot: _tail(text_of, snapshot),
            fresh=True, tells_health=False)
OPENMETRICS = Form(OPENMETRICS_TYPE, lambda reasons: _head(openmetrics_of, reasons), _openmetrics_tail,
                   fresh=True, tells_health=False)
