# SPDX-License-Identifier: MIT-0
"""A bad network between the load balancer and the appliance."""
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
