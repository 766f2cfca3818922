# SPDX-License-Identifier: MIT-0
"""Logs what a hook prints, line by line, and what the processes that it leaves running print later.

Operators see these lines at the default level, so they are bounded: RUN_LINES for the run, and from then on LATER_LINES a
second for what stays in the background. One line says how many more there were.
"""
import collections
import contextlib
import select
import threading
import time
from typing import Deque, Dict, Iterator, List

from .logs import CORE, Log
from .worker import Worker

RUN_LINES = 100
LATER_LINES = 5
LATER_S = 1.0
LINE_BYTES = 1_000   # longer ones are cut into several
KEPT_LINES = 10      # the last ones, shown when a hook fails
READER_S = 0.5       # for the last lines of a hook, when others still hold its output open
READER_MOST_S = 3.0  # for lines that are there to be read
POLL_S = 0.01


_heard: Dict[int, str] = {}  # by the descriptor that is read: what it is called


def heard() -> Dict[int, str]:
    """The outputs that are read now, and what they are called."""
    return dict(_heard)


def wait_for_readers() -> None:
    """Returns when what hooks have printed is in the log, or in a while: what they leave running may print for ever."""
    begin = time.monotonic()
    while _heard:
        unread = select.poll()
        for output in heard():
            unread.register(output, select.POLLIN)
        if time.monotonic() - begin >= (READER_MOST_S if unread.poll(0) else READER_S):
            return
        time.sleep(POLL_S)


@contextlib.contextmanager
def _forgotten(output: int) -> Iterator[None]:
    try:
        yield
    finally:
        _heard.pop(output, None)


def go_on_hearing(log: Log, output: int, title: str) -> None:
    """Reads what another program of this process has read so far. Raises RuntimeError when there is no room for a thread."""
    listener = Listener(log, title)
    listener.end_run()
    listener.start(output)


class Listener:
    """Reads one hook's output."""

    def __init__(self, log: Log, title: str):
        self._log = log
        self._title = title
        self._lock = threading.Lock()  # one thread reads, another calls end_run()
        self._left = RUN_LINES
        self._refill_at = float("inf")
        self._untold = 0
        self._last_untold: Deque[str] = collections.deque(maxlen=KEPT_LINES)

    @property
    def too_much(self) -> bool:
        return self._untold > 0

    def start(self, output: int) -> Worker:
        """Returns the thread that reads. Raises RuntimeError when there is no room for it; the output stays open then."""
        reader = Worker(self._log, "gwlbtun Hook", lambda: self.read(output), vital=True)
        _heard[output] = self._title  # before it starts, so that it is waited for
        try:
            reader.start()
        except RuntimeError:
            del _heard[output]
            raise
        return reader

    def read(self, output: int) -> None:
        """Reads until no process holds the other end; background processes of the hook may, for long. Closes output."""
        rest = b""
        with _forgotten(output), open(output, "rb", buffering=0) as pipe:
            while True:
                data = pipe.read(65536)
                *lines, rest = (rest + data).split(b"\n")
                if not data and rest or len(rest) > LINE_BYTES:
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    for start in range(0, len(line) or 1, LINE_BYTES):
                        self._hear(line[start:start + LINE_BYTES].decode("utf-8", "surrogateescape"))
                if not data:
                    break
        with self._lock:
            self._tell_untold()

    def end_run(self) -> List[str]:
        """To be called when the hook has ended. Returns its last lines, if they exceeded the bound."""
        with self._lock:
            self._refill_at = time.monotonic() + LATER_S
            self._tell_untold()
            return list(self._last_untold)

    def _hear(self, text: str) -> None:
        with self._lock:
            now = time.monotonic()
            if now >= self._refill_at:
                self._left = max(self._left, LATER_LINES)
                self._refill_at = now + LATER_S
            if self._left:
                self._left -= 1
                self._tell_untold()
                self._last_untold.clear()
                self._log.important(CORE, f"{self._title}: {text}")
            else:
                self._untold += 1
                self._last_untold.append(text)

    def _tell_untold(self) -> None:
        if self._untold:
            self._log.important(CORE, f"{self._title}: {self._untold} more lines are not shown.")
            self._untold = 0
