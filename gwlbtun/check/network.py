# SPDX-License-Identifier: MIT-0
"""Checks of the host's network: what would drop, slow down or cut short the packets of gwlbtun."""
import json
import os
import re
from typing import Iterator, List, Optional

from .. import forwarding
from ..forwarding import Chain
from ..geneve import PORT
from ..settings import Settings
from ..tun import MTU
from .finding import Finding, Verdict, output, read

OVERHEAD = 68  # outer IPv4 and UDP, and the Geneve header with the load balancer's three options
QUEUES = "/sys/class/net/{}/queues"

_TRACKS = re.compile(r"\bct (state|mark|status|zone|original|reply)\b|\btype nat\b|\bmasquerade\b|xt match \"?conntrack")
_NOTRACK = ("nft add table inet gwlbtun-notrack; "
            "nft add chain inet gwlbtun-notrack in '{ type filter hook prerouting priority raw; }'; "
            "nft add chain inet gwlbtun-notrack out '{ type filter hook output priority raw; }'; "
            f"nft add rule inet gwlbtun-notrack in udp dport {PORT} notrack; "
            f"nft add rule inet gwlbtun-notrack out udp dport {PORT} notrack")


def findings(settings: Settings) -> Iterator[Finding]:
    yield _reverse_path_filter()
    yield from _forwarding()
    yield from _firewall(_dropping_chains(), output("nft", "list", "ruleset"))
    uplinks = list(settings.uplinks) or _default_interfaces()
    if not uplinks:
        yield Finding(Verdict.WARN, "way out", "there is no default route, so nothing is known of the interface to the load "
                      "balancer", "name it with --uplink")
    for uplink in uplinks:
        yield _mtu(uplink)
        yield from _queues(uplink, QUEUES.format(uplink), len(settings.udp_places))
    yield from _guarded(settings)
    yield Finding(Verdict.NOTE, "EC2", "the source/destination check drops what a two-armed appliance forwards; "
                  "the host cannot see whether it is off",
                  "aws ec2 modify-instance-attribute --instance-id ID --no-source-dest-check")


def _reverse_path_filter() -> Finding:
    value = forwarding.setting(forwarding.RP_FILTER)
    if value == 0:
        return Finding(Verdict.OK, "rp_filter", "is off for all interfaces; gwlbtun keeps it off on gwi")
    return Finding(Verdict.WARN, "rp_filter", f"is {value} for all interfaces, which counts on gwi as well: Linux drops what "
                   "comes from a source that it would not route back there", f"sysctl -w {forwarding.RP_FILTER}=0")


def _forwarding() -> Iterator[Finding]:
    for name in (forwarding.IPV4, forwarding.IPV6):
        value = forwarding.setting(name)
        if value is None:
            yield Finding(Verdict.OK, name, "this kernel has no IPv6")
        elif value == 0:
            yield Finding(Verdict.NOTE, name, "is 0; the hooks of example-scripts that route turn it on, yours may have to",
                          f"sysctl -w {name}=1")
        else:
            yield Finding(Verdict.OK, name, "is on")


def _dropping_chains() -> Optional[List[Chain]]:
    """None: the kernel does not tell."""
    try:
        return list(forwarding.dropping_chains())
    except OSError:
        return None


def _firewall(chains: Optional[List[Chain]], ruleset: Optional[str]) -> Iterator[Finding]:
    """ruleset: what nft prints, None where it cannot tell."""
    if chains is None or ruleset is None:
        yield Finding(Verdict.NOTE, "firewall", "nft is missing, or has no right to list the rules",
                      "install nftables; run as root")
        return
    yield _forward_policy(chains)
    tracks = _TRACKS.search(ruleset) is not None
    if tracks and not re.search(rf"\b{PORT}\b.*\bnotrack\b", ruleset):
        yield Finding(Verdict.WARN, "conntrack",
                      f"tracks the packets on UDP {PORT}: each costs more, and its table may fill up", _NOTRACK)
    else:
        yield Finding(Verdict.OK, "conntrack", f"does not track UDP {PORT}")


def _forward_policy(chains: List[Chain]) -> Finding:
    for chain in chains:
        return Finding(Verdict.WARN, "forwarding", f"the chain {chain} drops what no rule accepts",
                       f"{chain.acceptance()}; with NAT also oifname 'gwo-*'")
    return Finding(Verdict.OK, "forwarding", "no chain drops by its policy what is forwarded")


def _default_interfaces() -> List[str]:
    routes = json.loads(output("ip", "-j", "route", "show", "default") or "[]")
    hops = [hop for route in routes for hop in route.get("nexthops", [route])]
    return sorted({hop["dev"] for hop in hops if "dev" in hop})


def _mtu(uplink: str) -> Finding:
    links = json.loads(output("ip", "-j", "link", "show", "dev", uplink) or "[]")
    if not links:
        return Finding(Verdict.WARN, uplink, "there is no such interface: gwlbtun waits for it",
                       "ip -br link shows those that there are")
    mtu = links[0]["mtu"]
    if mtu < MTU + OVERHEAD:
        return Finding(Verdict.WARN, f"MTU of {uplink}", f"is {mtu}: replies of more than {mtu - OVERHEAD} bytes are dropped",
                       f"ip link set {uplink} mtu {MTU + OVERHEAD} (EC2 has 9001)")
    return Finding(Verdict.OK, f"MTU of {uplink}", f"is {mtu}: {MTU} bytes and the {OVERHEAD} of the outer headers fit")


def _queues(uplink: str, directory: str, receivers: int) -> Iterator[Finding]:
    """directory: the interface's queues in sysfs. A device without hardware has queues of no consequence."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    if not os.path.exists(os.path.join(os.path.dirname(directory), "device")):
        return
    inward = [name for name in names if name.startswith("rx-")]
    outward = [name for name in names if name.startswith("tx-")]
    if len(inward) < receivers:
        yield Finding(Verdict.WARN, f"{uplink} queues", f"{len(inward)} receive queues for {receivers} receivers: "
                      "so many cores do the kernel's part",
                      f"ethtool -L {uplink} combined {receivers}, if `ethtool -l {uplink}` allows it")
    else:
        yield Finding(Verdict.OK, f"{uplink} queues", f"{len(inward)} receive queues for {receivers} receivers")
    masks = [read(os.path.join(directory, name, "xps_cpus")) or "" for name in outward]
    if len(outward) > 1 and not any(mask.strip("0,") for mask in masks):
        yield Finding(Verdict.WARN, f"XPS of {uplink}", "is off: with two arms, what comes from a TUN leaves by one of "
                      f"{len(outward)} queues",
                      f"write the mask of a core, in hex, to {directory}/tx-N/xps_cpus, for each queue N")


def _guarded(settings: Settings) -> Iterator[Finding]:
    if settings.allow_from:
        yield Finding(Verdict.OK, "senders", f"--allow-from names {len(settings.allow_from)} networks")
    else:
        yield Finding(Verdict.WARN, "senders", f"whoever reaches UDP {PORT} is taken for the load balancer",
                      "give --allow-from the load balancer's subnets")
