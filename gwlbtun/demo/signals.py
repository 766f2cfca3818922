# SPDX-License-Identifier: MIT-0
"""The signals that end a demo.

They are noted, and looked for at moments when everything can be taken down. An exception from a handler would come at any
moment, also where Python passes over it.
"""
import signal
import time
from types import FrameType
from typing import Optional

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
LOOK_S = 0.2


class Interrupted(Exception):
    """One of them has come."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Notes the first that comes. One that is ignored stays so, as nohup wants it."""

    def __init__(self) -> None:
        self._caught: Optional[int] = None
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        self._caught = self._caught or number

    def check(self) -> None:
        """Raises Interrupted when one has come."""
        if self._caught:
            raise Interrupted(self._caught)

    def wait(self) -> None:
        while not self._caught:
            time.sleep(LOOK_S)

    def ignore(self) -> None:
        """From now on, also in children, which do what has to be done before the end."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
