# SPDX-License-Identifier: MIT-0
"""The health of gwlbtun: why it is unhealthy, if it is, and a snapshot of everything.

The snapshot is the JSON that monitoring relies on, key for key, the two spellings of the last-packet key included.
"""
import html
import json
import threading
import time
from typing import Any, Callable, Counter, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from . import __version__
from .endpoint import Endpoint
from .endpoints import Endpoints
from .geneve import PORT
from .receiver import Receiver
from .settings import Settings
from .state import State
from .tunnel import Tunnel
from .worker import Worker, breathing

Snapshot = Dict[str, Any]
TimedOut = Dict[Tuple[Endpoint, int], int]  # flows that have timed out, by endpoint and family


class Health:
    """Asks all parts."""

    def __init__(self, settings: Settings, receivers: Sequence[Receiver], endpoints: Endpoints,
                 drop_names: Sequence[str], flow_entries: Callable[[], int], buffer_bytes: int,
                 stopping: threading.Event):
        """flow_entries(): the number of flows. buffer_bytes: the receive buffer that the kernel granted each socket."""
        self._settings = settings
        self._receivers = receivers
        self._endpoints = endpoints
        self._drop_names = drop_names
        self._flow_entries = flow_entries
        self._buffer_bytes = buffer_bytes
        self._stopping = stopping
        self._started = time.monotonic()
        self._timed_out: TimedOut = {}       # at the last snapshot
        self._timed_out_told: TimedOut = {}  # at the last snapshot that was shown

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def totals(self) -> Counter[str]:
        """Adds up the counters of all threads, past ones included. The times among them mean nothing."""
        total = self._endpoints.totals()
        for receiver in self._receivers:
            for name, value in receiver.counters().items():
                if name in _OWN_OF_RECEIVERS:
                    total[f"udp_{name}"] += value
                else:
                    total[name] += value
        return total

    def reasons(self) -> List[str]:
        """Why gwlbtun is unhealthy; empty when it is healthy. Far cheaper than a snapshot."""
        stopping = self.stopping
        reasons = ["gwlbtun is stopping"] if stopping else []
        reasons += [_death(receiver.worker) for receiver in self._receivers if not _healthy(receiver.worker, stopping)]
        for endpoint in self._endpoints.glance():
            failure, state = endpoint.failure, endpoint.state  # once: it may come up meanwhile
            if state is State.UP:
                reasons += [_death(worker, tunnel.name) for tunnel in endpoint.tunnels for worker in tunnel.workers
                            if not _healthy(worker, False)]
            elif failure and (endpoint.carried or self._settings.require_hook):
                # Other endpoints do not count: a sender that invents ENI IDs must not make the appliance unhealthy.
                state_text = state.value if state is State.FAILED else f"is {state.value}"
                reasons.append(f"endpoint {endpoint.eni:017x} {state_text}: {failure}")
        return reasons

    def snapshot(self, shown: bool = True) -> Snapshot:
        """Makes one report; one thread at a time may. shown: whether somebody has seen the one before."""
        if shown:
            self._timed_out_told = self._timed_out
        self._timed_out = {}
        reasons = self.reasons()
        now_ns = time.monotonic_ns()
        uptime_s = round(time.monotonic() - self._started, 3)
        receivers = [self._receiver(receiver, now_ns) for receiver in self._receivers]
        enis = [self._endpoint(endpoint, now_ns) for endpoint in breathing(self._endpoints.all())]
        totals = self.totals()
        return {
            "healthy": not reasons,
            "reasons": reasons,
            "version": __version__,
            "uptimeSecs": uptime_s,
            "udp": {"UDPPacketReceiver": {
                "portNumber": PORT, "threads": receivers,
                "receiveBufferBytes": self._buffer_bytes, "socketDrops": totals["socket_drops"],
            }},
            "enis": enis,
            "totals": {key: totals[name] for key, name in _TOTALS.items()},
            "drops": {name[len("drop_"):]: totals[name] for name in self._drop_names},
            "flows": {"size": self._flow_entries(), "bound": self._settings.max_flows},
            "endpoints": {"size": len(enis), "bound": self._settings.max_endpoints},
            "hooksFailed": self._endpoints.hook_failures(),
        }

    def _receiver(self, receiver: Receiver, now_ns: int) -> Snapshot:
        counters = receiver.counters()
        return {**_thread(receiver.worker, self.stopping),
                "pktsIn": counters["packets_in"], "bytesIn": counters["bytes_in"],
                "secsSinceLastPacket": _seconds_since(counters["last_in_ns"], receiver.worker.started_ns, now_ns)}

    def _endpoint(self, endpoint: Endpoint, now_ns: int) -> Snapshot:
        eni = f"{endpoint.eni:017x}"
        return {
            "eniStr": eni,
            "state": endpoint.state.value,
            "failure": endpoint.failure or "",
            "hooksFailed": endpoint.hook_failures,
            "queueBytes": endpoint.native.ring_bytes(),
            "queueDrops": endpoint.native.ring_drops(),
            "tunnelIn": self._tunnel(endpoint.inward, endpoint, now_ns),
            "tunnelOut": self._tunnel(endpoint.outward, endpoint, now_ns),
            "v4FlowCache": self._flow_cache(endpoint, 4, eni),
            "v6FlowCache": self._flow_cache(endpoint, 6, eni),
        }

    @staticmethod
    def _tunnel(tunnel: Tunnel, endpoint: Endpoint, now_ns: int) -> Snapshot:
        threads = []
        counters = tunnel.counters()
        for worker, own in tunnel.threads:
            threads.append({**_thread(worker, endpoint.state is not State.UP),
                            "pktsIn": own.packets_in, "bytesIn": own.bytes_in,
                            "secsSincelastPacket": _seconds_since(own.last_in_ns, worker.started_ns, now_ns),
                            "pktsSent": own.packets_sent, "bytesSent": own.bytes_sent})
        return {
            "devname": tunnel.name,
            "queues": len(counters),
            "pktsOut": sum(own.packets_out for own in counters),
            "bytesOut": sum(own.bytes_out for own in counters),
            "framesOut": sum(own.frames_out for own in counters),
            "secsSincelastPacket": _seconds_since(max(own.last_out_ns for own in counters), endpoint.made_ns, now_ns),
            "threads": threads,
        }

    def _flow_cache(self, endpoint: Endpoint, family: int, eni: str) -> Snapshot:
        timed_out = endpoint.native.flows_timed_out(family)
        told = self._timed_out_told.get((endpoint, family), 0)
        self._timed_out[endpoint, family] = timed_out
        return {"cacheName": f"IPv{family} Flow Cache for ENI {eni}", "size": endpoint.native.flows(family),
                "timedOut": max(timed_out - told, 0), "timedOutTotal": timed_out,
                "evictedTotal": endpoint.native.flows_evicted(family),
                "idleTimeoutSecs": self._settings.flow_idle_s}


# Receivers and T threads mean different things by these counters, so one sum of both would mean nothing.
_OWN_OF_RECEIVERS = ("packets_in", "bytes_in", "entries", "batches")

_TOTALS = {
    "pktsFromGwlb": "udp_packets_in", "bytesFromGwlb": "udp_bytes_in",
    "pktsToLinux": "packets_out", "bytesToLinux": "bytes_out", "framesToLinux": "frames_out",
    "pktsFromLinux": "packets_in", "bytesFromLinux": "bytes_in",
    "pktsToGwlb": "packets_sent", "bytesToGwlb": "bytes_sent", "sendsToGwlb": "sends",
    "receiverBatches": "udp_batches", "receiverEntries": "udp_entries", "tunnelEntries": "entries",
    "receiveErrors": "receive_errors", "sendErrors": "send_errors", "tunErrors": "tun_errors",
}


def _healthy(worker: Worker, may_end: bool) -> bool:
    return worker.alive or (may_end and not worker.failure)


def _death(worker: Worker, where: str = "") -> str:
    return f"thread {worker.name}{where and ' of ' + where} is dead: {worker.failure or 'it has ended'}"


def _thread(worker: Worker, may_end: bool) -> Snapshot:
    return {"valid": True, "healthy": _healthy(worker, may_end), "threadNumber": worker.number,
            "threadId": worker.native_id}


def _seconds_since(last_ns: int, start_ns: int, now_ns: int) -> float:
    return round(max(now_ns - (last_ns or start_ns), 0) / 1e9, 3)


class Form(NamedTuple):
    """A rendering in two parts. The head may change from one answer to the next; the tail is all the rest."""

    content_type: str
    head: Callable[[List[str]], str]             # of the reasons
    tail: Callable[[Snapshot], Iterable[str]]    # in pieces that each take little time


def _json_head(reasons: List[str]) -> str:
    return json.dumps({"healthy": not reasons, "reasons": reasons})[:-1]


def _json_tail(snapshot: Snapshot) -> Iterator[str]:
    for key, value in snapshot.items():
        if key == "enis":
            yield ', "enis": ['
            for index, eni in enumerate(value):
                yield ", " * bool(index) + json.dumps(eni)
            yield "]"
        elif key not in ("healthy", "reasons"):
            yield f", {json.dumps(key)}: {json.dumps(value)}"
    yield "}\n"


def _text_head(reasons: List[str]) -> str:
    return "".join(["gwlbtun is unhealthy:\n" if reasons else "gwlbtun is healthy.\n",
                    *(f"- {reason}\n" for reason in reasons)])


def _text_tail(snapshot: Snapshot) -> Iterator[str]:
    udp = snapshot["udp"]["UDPPacketReceiver"]
    totals = snapshot["totals"]
    yield (f"\nUDP receiver on port {udp['portNumber']}: receive buffer {udp['receiveBufferBytes']} bytes, "
           f"{udp['socketDrops']} packets dropped by the kernel for want of room.\n")
    for thread in udp["threads"]:
        yield (f"UDP receiver thread {_text_of_thread(thread)}, {thread['pktsIn']} packets in, "
               f"{thread['bytesIn']} bytes in, {thread['secsSinceLastPacket']:.3f}s since last packet.\n")
    for eni in snapshot["enis"]:
        yield "".join(f"{line}\n" for line in _lines_of_endpoint(eni))
    yield (f"\nTotal: {totals['pktsFromGwlb']} packets from the load balancer, {totals['pktsToLinux']} to OS, "
           f"{totals['pktsFromLinux']} from OS, {totals['pktsToGwlb']} back to the load balancer.\n")
    for name, count in snapshot["drops"].items():
        if count:
            yield f"Dropped: {count} packets ({name}).\n"
    yield (f"Flows: {snapshot['flows']['size']} of at most {snapshot['flows']['bound']}. Endpoints: "
           f"{snapshot['endpoints']['size']} of at most {snapshot['endpoints']['bound']}. "
           f"Hooks failed: {snapshot['hooksFailed']}.\n")


def _lines_of_endpoint(eni: Snapshot) -> Iterator[str]:
    failure = eni["failure"] and f" ({eni['failure']})"
    yield (f"\nHandler for ENI {eni['eniStr']}: {eni['state']}{failure}, {eni['hooksFailed']} hooks failed, "
           f"{eni['queueBytes']} bytes waiting, {eni['queueDrops']} packets dropped from full queues.")
    for tunnel in (eni["tunnelIn"], eni["tunnelOut"]):
        yield (f"Interface {tunnel['devname']}: {tunnel['pktsOut']} packets out to OS, {tunnel['bytesOut']} "
               f"bytes out to OS, {tunnel['secsSincelastPacket']:.3f}s since last packet.")
        for thread in tunnel["threads"]:
            yield (f"Tunnel handler thread {_text_of_thread(thread)}, {thread['pktsIn']} packets in from OS, "
                   f"{thread['bytesIn']} bytes in from OS, {thread['secsSincelastPacket']:.3f}s since last packet.")
    for cache in (eni["v4FlowCache"], eni["v6FlowCache"]):
        yield (f"{cache['cacheName']} : Contains {cache['size']} elements, of which {cache['timedOut']} were "
               f"just timed out (idle timeout is {cache['idleTimeoutSecs']} seconds).")


def _text_of_thread(thread: Snapshot) -> str:
    return f"{thread['threadNumber']} (ID {thread['threadId']}): {'Healthy' if thread['healthy'] else 'Unhealthy'}"


def _html_head(reasons: List[str]) -> str:
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>gwlbtun health</title></head>\n'
            f"<body><pre>\n{html.escape(_text_head(reasons))}")


def _html_tail(snapshot: Snapshot) -> Iterator[str]:
    yield from map(html.escape, _text_tail(snapshot))
    yield "</pre></body></html>\n"


JSON = Form("application/json", _json_head, _json_tail)
HTML = Form("text/html; charset=utf-8", _html_head, _html_tail)
