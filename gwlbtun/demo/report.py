# SPDX-License-Identifier: MIT-0
"""The texts of the demo: what there is to see, what was counted, and what to try."""
from typing import Iterator

from .books import Books
from .output import BOLD, Output
from .scene import APPLIANCE, BALANCER, CLIENT, CLOSED_PORT, GWI, HEALTH_PORT, SERVER, TABLE, Health, Scene
from .steps import Outcome

INTRODUCTION = f"""\
Everything here is in network namespaces of this machine:

  client {CLIENT} ──┐                                       ┌── gwi ──→ nftables lets ping
                    ├── load balancer ══ Geneve ══ gwlbtun ─┤           and the web through,
  server {SERVER} ──┘     {BALANCER}              {APPLIANCE} └── gwo ←── and drops the rest
"""


def balance(books: Books, scene: Scene) -> Outcome:
    """Whether each packet is accounted for, and gwlbtun is well."""
    sums = f"{books.sent:,} packets to gwlbtun, {books.returned:,} back, {books.dropped:,} dropped"
    faults = list(books.health["reasons"])
    if not books.balanced:
        faults.append(f"{sums}: {books.lost:,} are missing; gwlbtun counts {books.counted[0]:,} and {books.counted[1]:,} back")
    if books.health["hooksFailed"]:
        faults.append("the hook has failed")
    faults += [f"the load balancer got what it should not: {violation}" for violation in scene.balancer.violations[:3]]
    if faults:
        return Outcome(False, tuple(faults))
    return Outcome(True, (f"{sums}: none is missing",))


def show_books(output: Output, books: Books) -> None:
    for endpoint in books.health["enis"]:
        output.say("\n" + output.paint(BOLD, f"Endpoint vpce-{endpoint['eniStr']}, as gwlbtun counts"))
        output.say("\n".join(_of_endpoint(endpoint)))
    output.say(output.paint(BOLD, "Dropped, and why"))
    for drop in books.drops:
        output.say(f"  {drop.packets:>7,} by {drop.by:<9} {drop.why}")


def _of_endpoint(endpoint: Health) -> Iterator[str]:
    inward, tunnels = endpoint["tunnelIn"], (endpoint["tunnelIn"], endpoint["tunnelOut"])
    flows = endpoint["v4FlowCache"]["size"] + endpoint["v6FlowCache"]["size"]
    yield f"  {inward['pktsOut']:>7,} packets to Linux, {inward['bytesOut'] / 1e6:,.1f} MB"
    yield (f"  {sum(tunnel['pktsSent'] for tunnel in tunnels):>7,} packets back from Linux, "
           f"{sum(tunnel['bytesSent'] for tunnel in tunnels) / 1e6:,.1f} MB")
    yield f"  {flows:>7,} flows"


def show_things_to_try(output: Output, scene: Scene) -> None:
    client, appliance = (f"ip netns exec {namespace.name}" for namespace in (scene.client, scene.appliance))
    output.say("\n" + output.paint(BOLD, "It stays up until Ctrl-C. As root, in another terminal, try:"))
    for purpose, command in (
            ("ping and a page, which pass", f"{client} ping {SERVER}"),
            ("", f"{client} curl http://{SERVER}/"),
            ("a page that is blocked", f"{client} curl -m 2 http://{SERVER}:{CLOSED_PORT}/"),
            ("the firewall with its counters, and a rule that lets the page through",
             f"{appliance} nft list table inet {TABLE}"),
            ("", f"{appliance} nft insert rule inet {TABLE} forward tcp dport {CLOSED_PORT} accept"),
            ("packets as the firewall sees them, and on the wire", f"{appliance} tcpdump -ni {GWI}"),
            ("", f"{appliance} tcpdump -ni eth0 udp port 6081"),
            ("the health of gwlbtun", f"{appliance} curl -s 127.0.0.1:{HEALTH_PORT}/text")):
        if purpose:
            output.say(output.paint(BOLD, f"  # {purpose}"))
        output.say(f"  {command}")


def show_log(output: Output, scene: Scene) -> None:
    output.say("\n" + output.paint(BOLD, "The log of gwlbtun ends with"))
    for line in scene.log_end():
        output.say(f"  {line}")
