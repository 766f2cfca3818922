# SPDX-License-Identifier: MIT-0
"""The forms of a health report: JSON for machines, text for people, by itself or in a minimal page."""
import html
import json
from typing import Callable, Iterable, Iterator, List, NamedTuple

from .health import Snapshot


class Form(NamedTuple):
    """A rendering in two parts. The head may change from one answer to the next; the tail is all the rest."""

    content_type: str
    head: Callable[[List[str]], str]             # of the reasons
    tail: Callable[[Snapshot], Iterable[str]]    # in pieces that each take little time
    fresh: bool = False        # its readers would rather wait than get a report that is some seconds old
    tells_health: bool = True  # by the status of the answer


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
           f"{udp['socketDrops']} packets dropped by the kernel before they were received.\n")
    for thread in udp["threads"]:
        yield (f"UDP receiver thread {_text_of_thread(thread)}, {thread['pktsIn']} packets in, "
               f"{thread['bytesIn']} bytes in, {thread['secsSinceLastPacket']:.3f}s since last packet.\n")
    for note in snapshot["notes"]:
        yield f"Note: {note}\n"
    if snapshot["noReturn"]:
        yield "Receive only (--no-return): nothing goes back to the load balancer.\n"
    yield _line_of_kernel(snapshot["ebpf"])
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


def _line_of_kernel(ebpf: Snapshot) -> str:
    if not ebpf["active"]:
        return f"In the kernel: nothing; threads carry all packets, as {ebpf['reason']}.\n"
    aside = "".join(f"Aside: {line}.\n" for line in ebpf["aside"])
    return (f"In the kernel: {ebpf['flows']} flows, {ebpf['ingress']['accelerated']} packets to OS, "
            f"{ebpf['egress']['accelerated']} back to the load balancer.\n{aside}")


def _lines_of_endpoint(eni: Snapshot) -> Iterator[str]:
    failure = eni["failure"] and f" ({eni['failure']})"
    name = eni["name"] and f" ({eni['name']})"
    where = eni["netns"] and f" of {eni['netns']}"
    yield (f"\nHandler for ENI {eni['eniStr']}{name}: {eni['state']}{failure}, {eni['hooksFailed']} hooks failed, "
           f"{eni['queueBytes']} bytes waiting, {eni['queueDrops']} packets dropped from full queues.")
    for tunnel in (eni["tunnelIn"], eni["tunnelOut"]):
        yield (f"Interface {tunnel['devname']}{where}: {tunnel['pktsOut']} packets out to OS, {tunnel['bytesOut']} "
               f"bytes out to OS, {tunnel['secsSincelastPacket']:.3f}s since last packet.")
        for thread in tunnel["threads"]:
            yield (f"Tunnel handler thread {_text_of_thread(thread)}, {thread['pktsIn']} packets in from OS, "
                   f"{thread['bytesIn']} bytes in from OS, {thread['secsSincelastPacket']:.3f}s since last packet.")
    for family in 4, 6:
        cache, tcp, udp, other = (eni[f"v{family}FlowCache{kind}"] for kind in ("", "Tcp", "Udp", "Other"))
        yield (f"{cache['cacheName']} : Contains {cache['size']} elements, of which {cache['timedOut']} were "
               f"just timed out (idle timeout is {cache['idleTimeoutSecs']} seconds).")
        yield (f"IPv{family} flows by protocol: {tcp['size']} TCP, {udp['size']} UDP, {other['size']} other (idle timeout "
               f"of all but TCP is {udp['idleTimeoutSecs']} seconds).")


def _text_of_thread(thread: Snapshot) -> str:
    return f"{thread['threadNumber']} (ID {thread['threadId']}): {'Healthy' if thread['healthy'] else 'Unhealthy'}"


def _html_head(reasons: List[str]) -> str:
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>gwlbtun health</title></head>\n'
            f"<body><pre>\n{html.escape(_text_head(reasons))}")


def _html_tail(snapshot: Snapshot) -> Iterator[str]:
    yield from map(html.escape, _text_tail(snapshot))
    yield "</pre></body></html>\n"


JSON = Form("application/json", _json_head, _json_tail)
TEXT = Form("text/plain; charset=utf-8", _text_head, _text_tail)
HTML = Form("text/html; charset=utf-8", _html_head, _html_tail)
