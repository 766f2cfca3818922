# SPDX-License-Identifier: MIT-0
"""The time between the signal to stop and the stop (--drain).

gwlbtun is unhealthy meanwhile, so that the load balancer sends new flows elsewhere, and works as before.
"""
import time
from typing import Optional


class Draining:
    """begin() is for the main thread; any thread may ask."""

    def __init__(self, seconds: int):
        self.seconds = seconds
        self._end: Optional[float] = None

    def begin(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def begun(self) -> bool:
        return self._end is not None

    @property
    def left_s(self) -> float:
        """For how long it goes on."""
        return max(self._end - time.monotonic(), 0.0) if self._end is not None else 0.0
