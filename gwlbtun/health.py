# SPDX-License-Identifier: MIT-0
"""One snapshot of how gwlbtun does, and its renderings.

The snapshot is the JSON that monitoring relies on, key for key, the two spellings of the last-packet key included.
"""
import html
import json
import threading
import time
from typing import Any, Callable, Counter, Dict, List, Sequence, Tuple

from . import __version__
from .endpoint import Endpoint, State
from .endpoints import Endpoints
from .geneve import PORT
from .receiver import Receiver
from .settings import Settings
from .tunnel import Tunnel
from .worker import Worker

Snapshot = Dict[str, Any]


class Health:
    """Knows all parts and asks them."""

    def __init__(self, settings: Settings, receivers: Sequence[Receiver], endpoints: Endpoints,
                 drop_names: Sequence[str], flow_entries: Callable[[], int], buffer_bytes: int,
                 stopping: threading.Event):
        """flow_entries: how many flows there are; buffer_bytes: the granted receive buffer of each socket."""
        self._settings = settings
        self._receivers = receivers
        self._endpoints = endpoints
        self._drop_names = drop_names
        self._flow_entries = flow_entries
        self._buffer_bytes = buffer_bytes
        self._stopping = stopping
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._timed_out_told: Dict[Tuple[Endpoint, int], int] = {}

    def totals(self) -> Counter[str]:
        """The counters of all threads there are and have been, added up; the times among them mean nothing."""
        total = self._endpoints.totals()
        for receiver in self._receivers:
            for name, value in receiver.counters().items():
                if name in _OWN_OF_RECEIVERS:
                    total[f"udp_{name}"] += value
                else:
                    total[name] += value
        return total

    def snapshot(self) -> Snapshot:
        """One report; flows that timed out are said once as such, so each report is to be shown to somebody."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        reasons: List[str] = ["gwlbtun is stopping"] if self._stopping.is_set() else []
        now_ns = time.monotonic_ns()
        receivers = [self._receiver(receiver, now_ns, reasons) for receiver in self._receivers]
        endpoints = self._endpoints.all()
        enis = [self._endpoint(endpoint, now_ns, reasons) for endpoint in endpoints]
        self._timed_out_told = {key: told for key, told in self._timed_out_told.items() if key[0] in endpoints}
        totals = self.totals()
        return {
            "healthy": not reasons,
            "reasons": reasons,
            "version": __version__,
            "uptimeSecs": round(time.monotonic() - self._started, 3),
            "udp": {"UDPPacketReceiver": {
                "portNumber": PORT, "threads": receivers,
                "receiveBufferBytes": self._buffer_bytes, "socketDrops": totals["socket_drops"],
            }},
            "enis": enis,
            "totals": {key: totals[name] for key, name in _TOTALS.items()},
            "drops": {name[len("drop_"):]: totals[name] for name in self._drop_names},
            "flows": {"size": self._flow_entries(), "bound": self._settings.max_flows},
            "endpoints": {"size": len(endpoints), "bound": self._settings.max_endpoints},
            "hooksFailed": self._endpoints.hook_failures(),
        }

    def _receiver(self, receiver: Receiver, now_ns: int, reasons: List[str]) -> Snapshot:
        counters = receiver.counters()
        return {**_thread(receiver.worker, reasons, may_end=self._stopping.is_set()),
                "pktsIn": counters["packets_in"], "bytesIn": counters["bytes_in"],
                "secsSinceLastPacket": _seconds_since(counters["last_in_ns"], receiver.worker.started_ns, now_ns)}

    def _endpoint(self, endpoint: Endpoint, now_ns: int, reasons: List[str]) -> Snapshot:
        eni = f"{endpoint.eni:017x}"
        failure, state = endpoint.failure, endpoint.state  # once: it may come up meanwhile
        if failure and (endpoint.carried or self._settings.require_hook) and state is not State.UP:
            reasons.append(f"endpoint {eni} is {state.value}: {failure}")
        return {
            "eniStr": eni,
            "state": state.value,
            "failure": failure,
            "hooksFailed": endpoint.hook_failures,
            "queueBytes": endpoint.native.ring_bytes(),
            "queueDrops": endpoint.native.ring_drops(),
            "tunnelIn": self._tunnel(endpoint.inward, endpoint, now_ns, reasons),
            "tunnelOut": self._tunnel(endpoint.outward, endpoint, now_ns, reasons),
            "v4FlowCache": self._flow_cache(endpoint, 4, eni),
            "v6FlowCache": self._flow_cache(endpoint, 6, eni),
        }

    @staticmethod
    def _tunnel(tunnel: Tunnel, endpoint: Endpoint, now_ns: int, reasons: List[str]) -> Snapshot:
        threads = []
        counters = tunnel.counters()
        last_ns = max(own["last_out_ns"] for own in counters)
        for worker, own in tunnel.threads:
            threads.append({**_thread(worker, reasons, tunnel.name, endpoint.state is not State.UP),
                            "pktsIn": own["packets_in"], "bytesIn": own["bytes_in"],
                            "secsSincelastPacket": _seconds_since(own["last_in_ns"], worker.started_ns, now_ns),
                            "pktsSent": own["packets_sent"], "bytesSent": own["bytes_sent"]})
        return {
            "devname": tunnel.name,
            "queues": len(counters),
            "pktsOut": sum(own["packets_out"] for own in counters),
            "bytesOut": sum(own["bytes_out"] for own in counters),
            "framesOut": sum(own["frames_out"] for own in counters),
            "secsSincelastPacket": _seconds_since(last_ns, endpoint.made_ns, now_ns),
            "threads": threads,
        }

    def _flow_cache(self, endpoint: Endpoint, family: int, eni: str) -> Snapshot:
        timed_out = endpoint.native.flows_timed_out(family)
        told = self._timed_out_told.get((endpoint, family), 0)
        self._timed_out_told[endpoint, family] = timed_out
        return {"cacheName": f"IPv{family} Flow Cache for ENI {eni}", "size": endpoint.native.flows(family),
                "timedOut": max(timed_out - told, 0), "timedOutTotal": timed_out,
                "idleTimeoutSecs": self._settings.flow_idle_s}


# Counters by which receivers and T threads mean different things, so that one sum would mean nothing.
_OWN_OF_RECEIVERS = ("packets_in", "bytes_in", "entries", "batches")

_TOTALS = {
    "pktsFromGwlb": "udp_packets_in", "bytesFromGwlb": "udp_bytes_in",
    "pktsToLinux": "packets_out", "bytesToLinux": "bytes_out", "framesToLinux": "frames_out",
    "pktsFromLinux": "packets_in", "bytesFromLinux": "bytes_in",
    "pktsToGwlb": "packets_sent", "bytesToGwlb": "bytes_sent", "sendsToGwlb": "sends",
    "receiverBatches": "udp_batches", "receiverEntries": "udp_entries", "tunnelEntries": "entries",
    "receiveErrors": "receive_errors", "sendErrors": "send_errors", "tunErrors": "tun_errors",
}


def _thread(worker: Worker, reasons: List[str], where: str = "", may_end: bool = False) -> Snapshot:
    healthy = worker.alive or (may_end and not worker.failure)
    if not healthy:
        reasons.append(f"thread {worker.name}{where and ' of ' + where} is dead: {worker.failure or 'it has ended'}")
    return {"valid": True, "healthy": healthy, "threadNumber": worker.number, "threadId": worker.native_id}


def _seconds_since(last_ns: int, start_ns: int, now_ns: int) -> float:
    return round(max(now_ns - (last_ns or start_ns), 0) / 1e9, 3)


def render_json(snapshot: Snapshot) -> str:
    return json.dumps(snapshot) + "\n"


def render_text(snapshot: Snapshot) -> str:
    udp = snapshot["udp"]["UDPPacketReceiver"]
    totals = snapshot["totals"]
    lines = ["gwlbtun is healthy." if snapshot["healthy"] else "gwlbtun is unhealthy:",
             *(f"- {reason}" for reason in snapshot["reasons"]), "",
             f"UDP receiver on port {udp['portNumber']}: receive buffer {udp['receiveBufferBytes']} bytes, "
             f"{udp['socketDrops']} packets dropped by the kernel for want of room."]
    for thread in udp["threads"]:
        lines.append(f"UDP receiver thread {_render_thread(thread)}, {thread['pktsIn']} packets in, "
                     f"{thread['bytesIn']} bytes in, {thread['secsSinceLastPacket']:.3f}s since last packet.")
    for eni in snapshot["enis"]:
        lines += ["", f"Handler for ENI {eni['eniStr']}: {eni['state']}, {eni['hooksFailed']} hooks failed, "
                      f"{eni['queueBytes']} bytes waiting, {eni['queueDrops']} packets dropped from full queues."]
        for tunnel in (eni["tunnelIn"], eni["tunnelOut"]):
            lines.append(f"Interface {tunnel['devname']}: {tunnel['pktsOut']} packets out to OS, {tunnel['bytesOut']} "
                         f"bytes out to OS, {tunnel['secsSincelastPacket']:.3f}s since last packet.")
            for thread in tunnel["threads"]:
                lines.append(f"Tunnel handler thread {_render_thread(thread)}, {thread['pktsIn']} packets in from OS, "
                             f"{thread['bytesIn']} bytes in from OS, "
                             f"{thread['secsSincelastPacket']:.3f}s since last packet.")
        for cache in (eni["v4FlowCache"], eni["v6FlowCache"]):
            lines.append(f"{cache['cacheName']} : Contains {cache['size']} elements, of which {cache['timedOut']} were "
                         f"just timed out (idle timeout is {cache['idleTimeoutSecs']} seconds).")
    lines += ["", f"Total: {totals['pktsFromGwlb']} packets from the load balancer, {totals['pktsToLinux']} to OS, "
                  f"{totals['pktsFromLinux']} from OS, {totals['pktsToGwlb']} back to the load balancer."]
    lines += [f"Dropped: {count} packets ({name})." for name, count in snapshot["drops"].items() if count]
    lines += [f"Flows: {snapshot['flows']['size']} of at most {snapshot['flows']['bound']}. Endpoints: "
              f"{snapshot['endpoints']['size']} of at most {snapshot['endpoints']['bound']}. "
              f"Hooks failed: {snapshot['hooksFailed']}."]
    return "\n".join(lines) + "\n"


def _render_thread(thread: Snapshot) -> str:
    return f"{thread['threadNumber']} (ID {thread['threadId']}): {'Healthy' if thread['healthy'] else 'Unhealthy'}"


def render_html(snapshot: Snapshot) -> str:
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>gwlbtun health</title></head>\n'
            '<body><pre>\n'
            f"{html.escape(render_text(snapshot))}</pre></body></html>\n")
