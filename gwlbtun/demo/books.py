# SPDX-License-Identifier: MIT-0
"""The books of the demo: what passed, what was dropped and why, by gwlbtun's health and the counters of nftables."""
import re
import time
from typing import List, NamedTuple, Tuple

from ..shim import Shim
from .scene import TABLE, Health, Scene

SETTLE_S = 5.0  # for the last packets of connections that have ended
POLL_S = 0.05
OF_LINUX = "not_ip", "no_flow"  # dropped of what Linux itself had to say: no packet of the load balancer


class Drop(NamedTuple):
    """Packets that one part has dropped for one reason."""

    packets: int
    by: str
    why: str


class Books(NamedTuple):
    """What everybody counted at one moment."""

    health: Health
    sent: int      # by the load balancer, the forgery included
    returned: int  # to the load balancer
    drops: List[Drop]

    @property
    def dropped(self) -> int:
        return sum(drop.packets for drop in self.drops)

    @property
    def lost(self) -> int:
        """Packets that nobody accounts for."""
        return self.sent - self.returned - self.dropped

    @property
    def counted(self) -> Tuple[int, int]:
        """What gwlbtun says that it got and gave back."""
        return self.health["totals"]["pktsFromGwlb"], self.health["totals"]["pktsToGwlb"]

    @property
    def balanced(self) -> bool:
        return not self.lost and self.counted == (self.sent, self.returned)


def close(scene: Scene, patience_s: float = SETTLE_S) -> Books:
    """The books when all is quiet, and they balance; or as they are in the end."""
    end = time.monotonic() + patience_s
    while True:
        scene.signals.check()
        books = _read(scene)
        if books.balanced or time.monotonic() > end:
            return books
        time.sleep(POLL_S)


def _read(scene: Scene) -> Books:
    health = scene.health()
    texts = Shim().drop_texts
    drops = [Drop(count, "gwlbtun", f"{reason}: {texts['drop_' + reason]}")
             for reason, count in health["drops"].items() if count and reason not in OF_LINUX]
    return Books(health, scene.balancer.sent, scene.balancer.returned, drops + _of_nftables(scene))


def _of_nftables(scene: Scene) -> List[Drop]:
    """Those of the endpoint's table, rule by rule."""
    drops, chain = [], ""
    for line in scene.appliance.run("nft", "list", "table", "inet", TABLE, check=False).stdout.splitlines():
        chain = line.split()[1] if line.strip().startswith("chain ") else chain
        found = re.search(r"counter packets (\d+) bytes \d+ drop", line)
        if found and int(found[1]):
            rule = " ".join(re.sub(r" packets \d+ bytes \d+", "", line).split())
            drops.append(Drop(int(found[1]), "nftables", f"the rule `{rule}` of chain {chain}, table inet {TABLE}"))
    return drops
