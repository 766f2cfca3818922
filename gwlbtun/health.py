# SPDX-License-Identifier: MIT-0
"""The health of gwlbtun: why it is unhealthy, if it is, and a snapshot of everything.

The snapshot is the JSON that monitoring relies on, key for key, the two spellings of the last-packet key included.
"""
import threading
import time
from typing import Any, Callable, Counter, Dict, List, Optional, Sequence

from . import __version__
from .draining import Draining
from .endpoint import Endpoint
from .endpoints import Endpoints
from .flowcaches import FlowCaches
from .geneve import PORT
from .identity import Identity
from .kernel.account import SideCarried
from .receiver import Receiver
from .settings import Settings
from .state import State
from .tunnel import Tunnel
from .worker import Worker, breathing

NAMED_TOLD = 10  # endpoints of --endpoint that are down, of which a report tells the reason

Snapshot = Dict[str, Any]


class Health:
    """Asks all parts."""

    def __init__(self, settings: Settings, receivers: Sequence[Receiver], endpoints: Endpoints,
                 drop_names: Sequence[str], flow_entries: Callable[[], int], buffer_bytes: int,
                 stopping: threading.Event, draining: Draining, notes: Callable[[], List[str]],
                 kernel: Callable[[], Snapshot]):
        """flow_entries(): the number of flows. buffer_bytes: the receive buffer that the kernel granted each socket.
        notes(): hints, which make nothing unhealthy. kernel(): `ebpf` of the report."""
        self._settings = settings
        self._receivers = receivers
        self._endpoints = endpoints
        self._drop_names = drop_names
        self._flow_entries = flow_entries
        self._buffer_bytes = buffer_bytes
        self._stopping = stopping
        self._draining = draining
        self.notes = notes
        self._kernel = kernel
        self.started = time.monotonic()
        self._flow_caches = FlowCaches(settings)

    @property
    def stopping(self) -> bool:
        """Whether it will never be healthy again."""
        return self._stopping.is_set() or self._draining.begun

    def totals(self) -> Counter[str]:
        """Adds up the counters of all threads, past ones included. The times among them mean nothing."""
        return self._totals(self._kernel())

    def _totals(self, kernel: Dict[str, Any]) -> Counter[str]:
        """kernel: `ebpf` of the report."""
        total = self._endpoints.totals()
        for receiver in self._receivers:
            for name, value in receiver.counters().items():
                if name in _OWN_OF_RECEIVERS:
                    total[f"udp_{name}"] += value
                else:
                    total[name] += value
        total["drop_kernel_strip"], total["drop_kernel_wrap"] = kernel["ingress"]["lost"], kernel["egress"]["lost"]
        total["udp_packets_in"] += total["kernel_packets_in"] + total["drop_kernel_strip"]
        total["udp_bytes_in"] += total["kernel_bytes_in"]
        total["packets_in"] += total["drop_kernel_wrap"]
        return total

    def reasons(self) -> List[str]:
        """Why gwlbtun is unhealthy; empty when it is healthy. Far cheaper than a snapshot."""
        stopping = self._stopping.is_set()
        reasons = ["gwlbtun is stopping"] if stopping else ["gwlbtun is draining, and stops then"] if self.stopping else []
        reasons += [_death(receiver.worker) for receiver in self._receivers if not _healthy(receiver.worker, stopping)]
        down: List[str] = []
        named_down: List[str] = []
        for endpoint in self._endpoints.glance():
            failure, state = endpoint.failure, endpoint.state  # once: it may come up meanwhile
            if state is State.UP:
                reasons += _deaths(endpoint)
            elif endpoint.identity.named or failure and (endpoint.carried or self._settings.require_hook):
                # Other endpoints do not count: a sender that invents ENI IDs must not make the appliance unhealthy.
                kind = named_down if endpoint.identity.named else down
                kind.append(_downfall(endpoint.identity, state, failure))
        named_down += [_downfall(identity, State.FAILED, why) for identity, why in self._endpoints.unmade()]
        if len(named_down) > NAMED_TOLD:
            named_down[NAMED_TOLD:] = [f"{len(named_down) - NAMED_TOLD} more endpoints of --endpoint are not up"]
        return reasons + down + named_down

    def resume(self, started: float) -> None:
        """Goes on from when another program was started."""
        self.started = started

    def tick(self) -> None:
        """Once a second."""
        self._flow_caches.tick(breathing(self._endpoints.glance()))

    def snapshot(self) -> Snapshot:
        """Makes one report; one thread at a time may."""
        reasons = self.reasons()
        now_ns = time.monotonic_ns()
        uptime_s = round(time.monotonic() - self.started, 3)
        receivers = [self._receiver(receiver, now_ns) for receiver in self._receivers]
        enis = [self._endpoint(endpoint, now_ns) for endpoint in breathing(self._endpoints.all())]
        kernel = self._kernel()
        totals = self._totals(kernel)
        drops = {name[len("drop_"):]: totals[name] for name in self._drop_names}
        return {
            "healthy": not reasons,
            "reasons": reasons,
            "notes": self.notes(),
            "version": __version__,
            "uptimeSecs": uptime_s,
            "summary": {**{key: totals[name] for key, name in _SUMMARY.items()},
                        "totalPktsDropped": sum(drops.values()), "eniCount": len(enis)},
            "noReturn": self._settings.no_return,
            "udp": {"UDPPacketReceiver": {
                "portNumber": PORT, "threads": receivers,
                "receiveBufferBytes": self._buffer_bytes, "socketDrops": totals["socket_drops"],
            }},
            "enis": enis,
            "totals": {key: totals[name] for key, name in _TOTALS.items()},
            "drops": drops,
            "flows": {"size": self._flow_entries(), "bound": self._settings.max_flows},
            "endpoints": {"size": len(enis), "bound": self._settings.max_endpoints},
            "hooks": self._endpoints.hooks.snapshot(),
            "hooksFailed": self._endpoints.hooks.failures,
            "ebpf": kernel,
        }

    def _receiver(self, receiver: Receiver, now_ns: int) -> Snapshot:
        counters = receiver.counters()
        return {**_thread(receiver.worker, self._stopping.is_set()),
                "pktsIn": counters["packets_in"], "bytesIn": counters["bytes_in"],
                "secsSinceLastPacket": _seconds_since(counters["last_in_ns"], receiver.worker.started_ns, now_ns)}

    def _endpoint(self, endpoint: Endpoint, now_ns: int) -> Snapshot:
        eni, native = f"{endpoint.eni:017x}", endpoint.native
        queue_drops, carried = native.ring_drops(), endpoint.kernel.read()
        inward = self._tunnel(endpoint.inward, endpoint, now_ns, queue_drops + native.flow_drops(), carried.of_side(0))
        outward = self._tunnel(endpoint.outward, endpoint, now_ns, 0, carried.of_side(1))
        return {
            "eniStr": eni,
            "gwlbEndpointId": endpoint.identity.vpce,
            "healthy": not (_deaths(endpoint) if endpoint.state is State.UP else endpoint.failure),
            "name": endpoint.identity.name,
            "netns": endpoint.identity.namespace,
            "state": endpoint.state.value,
            "failure": endpoint.failure or "",
            **{key: inward[key] + outward[key] for key in ("pktsOut", "bytesOut", "pktsDropped")},
            "secsSinceLastPacket": _seconds_since(endpoint.last_ns(), endpoint.made_ns, now_ns),
            "hooksFailed": endpoint.hook_failures,
            "queueBytes": native.ring_bytes(),
            "queueDrops": queue_drops,
            "ebpfRepunts": 0, "ebpfLateRepunts": 0,  # not counted by endpoint
            "tunnelIn": inward,
            "tunnelOut": outward,
            **self._flow_caches.of(endpoint, eni),
        }

    def _tunnel(self, tunnel: Tunnel, endpoint: Endpoint, now_ns: int, dropped_before: int,
                carried: SideCarried) -> Snapshot:
        """dropped_before: packets that were on their way to it. carried: what the kernel has carried alone."""
        threads = []
        counters = tunnel.counters()
        for worker, own in tunnel.threads:
            threads.append({**_thread(worker, endpoint.state is not State.UP),
                            "pktsIn": own.packets_in, "bytesIn": own.bytes_in,
                            "secsSincelastPacket": _seconds_since(own.last_in_ns, worker.started_ns, now_ns),
                            "pktsSent": own.packets_sent, "bytesSent": own.bytes_sent,
                            "pktsOut": own.packets_out, "bytesOut": own.bytes_out})
        return {
            "devname": tunnel.name,
            "queues": len(counters),
            "pktsOut": carried.packets_out + sum(own.packets_out for own in counters),
            "bytesOut": carried.bytes_out + sum(own.bytes_out for own in counters),
            "pktsDropped": dropped_before + sum(getattr(own, name) for own in counters for name in self._drop_names),
            "framesOut": carried.packets_out + sum(own.frames_out for own in counters),
            "pktsIn": carried.packets_in + sum(own.packets_in for own in counters),
            "bytesIn": carried.bytes_in + sum(own.bytes_in for own in counters),
            "pktsSent": carried.packets_in + sum(own.packets_sent for own in counters),
            "bytesSent": carried.bytes_in + sum(own.bytes_sent for own in counters),
            "secsSincelastPacket": _seconds_since(max(carried.last_out_ns, *(own.last_out_ns for own in counters)),
                                                  endpoint.made_ns, now_ns),
            "threads": threads,
        }


# Receivers and T threads mean different things by these counters, so one sum of both would mean nothing.
_OWN_OF_RECEIVERS = ("packets_in", "bytes_in", "entries", "batches")

_TOTALS = {
    "pktsFromGwlb": "udp_packets_in", "bytesFromGwlb": "udp_bytes_in",
    "pktsToLinux": "packets_out", "bytesToLinux": "bytes_out", "framesToLinux": "frames_out",
    "pktsFromLinux": "packets_in", "bytesFromLinux": "bytes_in",
    "pktsToGwlb": "packets_sent", "bytesToGwlb": "bytes_sent", "sendsToGwlb": "sends",
    "receiverBatches": "udp_batches", "receiverEntries": "udp_entries", "tunnelEntries": "entries",
    "threadFailures": "failures",
    "receiveErrors": "receive_errors", "sendErrors": "send_errors", "tunErrors": "tun_errors",
}

_SUMMARY = {"totalPktsIn": "udp_packets_in", "totalBytesIn": "udp_bytes_in",
            "totalPktsOut": "packets_out", "totalBytesOut": "bytes_out"}


def _deaths(endpoint: Endpoint) -> List[str]:
    """Its threads that have ended, and interfaces that are down: none may while it is up."""
    return [_death(worker, tunnel.title) for tunnel in endpoint.tunnels for worker in tunnel.workers
            if not _healthy(worker, False)] + [tunnel.link.fault for tunnel in endpoint.tunnels if tunnel.link.fault]


def _healthy(worker: Worker, may_end: bool) -> bool:
    return worker.alive or (may_end and not worker.failure)


def _death(worker: Worker, where: str = "") -> str:
    return f"thread {worker.name}{where and ' of ' + where} is dead: {worker.failure or 'it has ended'}"


def _downfall(identity: Identity, state: State, failure: Optional[str]) -> str:
    text = state.value if state is State.FAILED else f"is {state.value}"
    return f"endpoint {identity.eni:017x}{identity.remark} {text}" + (f": {failure}" if failure else "")


def _thread(worker: Worker, may_end: bool) -> Snapshot:
    return {"valid": True, "healthy": _healthy(worker, may_end), "threadNumber": worker.number,
            "threadId": worker.native_id}


def _seconds_since(last_ns: int, start_ns: int, now_ns: int) -> float:
    return round(max(now_ns - (last_ns or start_ns), 0) / 1e9, 3)
