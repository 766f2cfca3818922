# SPDX-License-Identifier: MIT-0
"""What the daemon tells `gwlbtun show`: its endpoints, threads and drops, a line of JSON for each, and flows as packed records.

Flows are chosen and packed by the fast path, and formatted by who asks: a million of them cost the interpreter next to nothing.
"""
import ipaddress
import os
import threading
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from . import fastpath, identity
from .control import Answer, Answerer, Refusal, line
from .endpoint import Endpoint
from .endpoints import Endpoints
from .health import Health
from .receiver import SOCKET_DROPS, Receiver
from .settings import Settings
from .takeover import state
from .tunnel import Tunnel
from .worker import Worker

STEP_FLOWS = 512  # records in one piece: 40 KB


Asked = Dict[str, Any]
Row = Dict[str, Any]


class Answers:
    """Asks all parts, as Health does, but makes an answer piece by piece."""

    def __init__(self, settings: Settings, handler: fastpath.Handler, receivers: Sequence[Receiver], endpoints: Endpoints,
                 health: Health, names: Mapping[int, str]):
        """names: those that the operator has given to endpoints, by ENI ID."""
        self._settings = settings
        self._handler = handler
        self._receivers = receivers
        self._endpoints = endpoints
        self._health = health
        self._names = names

    @property
    def by_word(self) -> Dict[str, Answerer]:
        return {"endpoints": self.endpoints, "flows": self.flows, "threads": self.threads, "drops": self.drops,
                "takeover": self.takeover}

    def takeover(self, asked: Asked) -> Answer:
        """By which another program says whether it could take over from this one."""
        yield line({"outline": state.outline(self._settings, self._handler.shim, len(self._endpoints.passing()))})

    def endpoints(self, asked: Asked) -> Answer:
        reasons = self._health.reasons()
        yield line({"healthy": not reasons, "reasons": reasons[:100], "notes": self._health.notes(),
                    "flows": self._handler.flow_entries(),
                    "flowsBound": self._settings.max_flows, "endpointsBound": self._settings.max_endpoints})
        for endpoint in self._chosen(asked):
            yield line({"row": self._endpoint(endpoint)})

    def _endpoint(self, endpoint: Endpoint) -> Row:
        counters, native = endpoint.counters(), endpoint.native
        sizes = [flows.size for flows in native.flows()]
        return {"endpoint": identity.endpoint_id(endpoint.eni), "name": self._names.get(endpoint.eni, ""),
                "gwi": endpoint.inward.name, "gwo": endpoint.outward.name,
                "state": endpoint.state.value, "failure": endpoint.failure or "",
                "flowsV4": sum(sizes[:3]), "flowsV6": sum(sizes[3:]),
                "pktsToLinux": counters["packets_out"], "bytesToLinux": counters["bytes_out"],
                "pktsToGwlb": counters["packets_sent"], "bytesToGwlb": counters["bytes_sent"],
                "queueBytes": native.ring_bytes(), "queueDrops": native.ring_drops(),
                "secsSinceLastPacket": _seconds_since(endpoint.last_ns() or endpoint.made_ns)}

    def threads(self, asked: Asked) -> Answer:
        known = set()
        for row in self._packet_threads(asked):
            known.add(row["tid"])
            yield line({"row": row})
        for thread in threading.enumerate() if not asked.get("endpoint") else ():
            if thread.name.startswith("gwlbtun") and thread.native_id not in known:
                yield line({"row": {"name": thread.name, "role": "control", "endpoint": "", "interface": "",
                                    "tid": thread.native_id, "cores": _cores(thread.native_id), "state": "runs"}})

    def _packet_threads(self, asked: Asked) -> Iterator[Row]:
        for receiver in self._receivers if not asked.get("endpoint") else ():
            own = receiver.counters()
            yield {**_thread(receiver.worker, "from GWLB"), "pkts": own["packets_in"], "bytes": own["bytes_in"],
                   "secsSinceLastPacket": _seconds_since(own["last_in_ns"] or receiver.worker.started_ns)}
        for endpoint in self._chosen(asked):
            for tunnel in endpoint.tunnels:
                yield from self._tunnel_threads(tunnel, endpoint.identity)

    @staticmethod
    def _tunnel_threads(tunnel: Tunnel, endpoint: identity.Identity) -> Iterator[Row]:
        for worker, own in tunnel.threads:
            last_ns = max(own.last_in_ns, own.last_out_ns, own.last_sent_ns)
            role = "to and from Linux" if tunnel.name.startswith("gwi") else "from Linux"
            yield {**_thread(worker, role, endpoint.vpce, tunnel.name), "endpointName": endpoint.name,
                   "pkts": own.packets_out + own.packets_sent, "bytes": own.bytes_out + own.bytes_sent,
                   "secsSinceLastPacket": _seconds_since(last_ns or worker.started_ns)}

    def drops(self, asked: Asked) -> Answer:
        totals = self._health.totals()
        yield line({"row": {"reason": "socket", "pkts": totals["socket_drops"], "meaning": SOCKET_DROPS}})
        for name, text in self._handler.shim.drop_texts.items():
            yield line({"row": {"reason": name[len("drop_"):], "pkts": totals[name], "meaning": text}})

    # ---- Flows -------------------------------------------------------------------------------------------------------

    def flows(self, asked: Asked) -> Answer:
        """Pieces of packed records. Reads no further than the limit."""
        chosen, left = self._filter(asked), _number(asked, "limit", 1 << 32) or 1 << 32
        more = False
        yield line({"size": fastpath.FLOW_RECORD.size, "entries": self._handler.flow_entries(),
                    "entriesBound": self._settings.max_flows,
                    "names": {identity.endpoint_id(eni): name for eni, name in self._names.items() if name}})
        for records in self._handler.dump_flows(chosen, STEP_FLOWS):
            number = len(records) // fastpath.FLOW_RECORD.size
            more = number > left
            number = min(number, left)
            left -= number
            if number:
                size = number * fastpath.FLOW_RECORD.size
                yield line({"bytes": size}) + records[:size]
            else:
                yield b""  # a step of the walk, between which others have their turn
            if more:
                break
        yield line({"more": more})

    def _filter(self, asked: Asked) -> fastpath.FlowFilter:
        chosen = fastpath.FlowFilter(fragments=bool(asked.get("fragments")))
        if asked.get("endpoint"):
            chosen.eni, chosen.by_eni = self._find(str(asked["endpoint"])).eni, 1
        if asked.get("address"):
            network = _network(str(asked["address"]))
            chosen.family = network.version
            _fill(chosen.address, network.network_address.packed)
            _fill(chosen.mask, network.netmask.packed)
        port, protocol = _number(asked, "port", 65_535), _number(asked, "protocol", 255)
        if port is not None:
            chosen.port, chosen.by_port = port, 1
        if protocol is not None:
            chosen.protocol, chosen.by_protocol = protocol, 1
        return chosen

    def _chosen(self, asked: Asked) -> List[Endpoint]:
        return [self._find(str(asked["endpoint"]))] if asked.get("endpoint") else self._endpoints.all()

    def _find(self, text: str) -> Endpoint:
        """The endpoint that somebody means by its name, its ID, or the name of one of its interfaces."""
        endpoints = self._endpoints.all()
        try:
            eni: Optional[int] = identity.endpoint_ids(text)[0]
        except ValueError:
            eni = None
        for meant in (lambda each: self._names.get(each.eni) == text, lambda each: each.eni == eni,
                      lambda each: text in (each.inward.name, each.outward.name)):
            found = list(filter(meant, endpoints))
            if len(found) == 1:
                return found[0]
        raise Refusal(f"there is no endpoint '{text[:40]}': `show endpoints` lists those there are" if not found else
                      f"{len(found)} endpoints have an interface {text[:40]}: give the ID of one")


def _network(text: str) -> Union[ipaddress.IPv4Network, ipaddress.IPv6Network]:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Refusal(f"'{text[:60]}' is neither an address nor a network") from None


def _fill(field: Any, packed: bytes) -> None:
    field[:len(packed)] = list(packed)


def _number(asked: Asked, key: str, most: int) -> Optional[int]:
    number = asked.get(key)
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number <= most:
        raise Refusal(f"the {key} is not a number from 0 to {most}")
    return number


def _thread(worker: Worker, role: str, endpoint: str = "", interface: str = "") -> Row:
    state = "runs" if worker.alive else f"has failed: {worker.failure}" if worker.failure else "has ended"
    return {"name": worker.name, "role": role, "endpoint": endpoint, "interface": interface, "tid": worker.native_id,
            "cores": _cores(worker.native_id), "state": state}


def _cores(tid: Optional[int]) -> List[int]:
    try:
        return sorted(os.sched_getaffinity(tid)) if tid else []
    except OSError:  # it has ended
        return []


def _seconds_since(then_ns: int) -> float:
    return round(max(time.monotonic_ns() - then_ns, 0) / 1e9, 3)
