# SPDX-License-Identifier: MIT-0
"""A bad network between the load balancer and the appliance, and what passed on it."""
import random
from dataclasses import dataclass
from typing import List


@dataclass
class Impairment:
    """A bad network: chances from 0 to 1, and seconds. A reordered packet is overtaken for reorder_delay."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    reorder_delay: float = 0.003
    seed: int = 1

    def __post_init__(self):
        self._random = random.Random(self.seed)

    def copies(self) -> List[float]:
        """After how many seconds each copy of the next packet arrives; none: it is lost."""
        if self._random.random() < self.loss:
            return []
        delay = self.delay + (self.reorder_delay if self._random.random() < self.reorder else 0)
        return [delay] * (2 if self._random.random() < self.duplicate else 1)


@dataclass
class Counters:
    """sent: to the appliance; returned: from it, right or wrong; delivered: to hosts and Endpoint.received."""

    sent: int = 0
    sent_bytes: int = 0
    returned: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    injected: int = 0
