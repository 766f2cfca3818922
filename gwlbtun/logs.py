# SPDX-License-Identifier: MIT-0
"""The log: sections, levels, and the one thread that writes lines to standard output.

A caller puts its line in a bounded queue and goes on. The logger thread takes what there is, sets it in order of time
with what the trace of the packet path holds, and writes whole lines. When it falls behind, lines are dropped and
counted: traffic never waits for the reader of the log.
"""
import enum
import os
import queue
import re
import select
import threading
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from . import fastpath

CORE, UDP, GENEVE, TUNNEL, HEALTHCHECK = SECTIONS = ("core", "udp", "geneve", "tunnel", "healthcheck")
DUMPED_SECTIONS = (UDP, GENEVE, TUNNEL)  # those that describe single packets

QUEUE_LINES = 10_000
BATCH_LINES = 1_000
TRACE_POLL_S = 0.05


class Level(enum.IntEnum):
    CRITICAL = 0
    IMPORTANT = 1
    INFO = 2
    DEBUG = 3
    DEBUGDETAIL = 4


class Entry(NamedTuple):
    """One entry. A text of several lines becomes several whole lines."""

    time_ns: int
    thread: str
    section: str
    level: Level
    text: str


def parse_levels(config: str) -> Tuple[Dict[str, Level], List[str]]:
    """Returns the levels that section=level,... sets, and a complaint for each word it does not know."""
    levels: Dict[str, Level] = {}
    complaints = []
    for word in filter(None, (word.strip() for word in config.split(","))):
        section, equals, level = (part.strip() for part in word.lower().partition("="))
        if not equals:
            complaints.append(f"'{word}' is not of the form section=level")
        elif section != "all" and section not in SECTIONS:
            complaints.append(f"there is no section '{section}' (there are {', '.join(SECTIONS)} and all)")
        elif level.upper() not in Level.__members__:
            complaints.append(f"there is no level '{level}' (there are {', '.join(Level.__members__).lower()})")
        else:
            levels.update(dict.fromkeys(SECTIONS if section == "all" else [section], Level[level.upper()]))
    return levels, complaints


# What a terminal or a reader of lines could take for more than text: C0, DEL, C1, Unicode's line ends, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def format_entry(entry: Entry) -> str:
    """Returns its lines, each with its line end."""
    seconds, rest = divmod(entry.time_ns, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    head = f"{stamp}.{rest // 1_000_000:03d}: {entry.thread}({entry.section},{entry.level.name.lower()}) : "
    return "".join(f"{head}{_UNPRINTABLE.sub(_escape, line)}\n" for line in entry.text.split("\n"))


class Log:
    """Every part logs here. Any thread may call all methods but start and stop."""

    def __init__(self, levels: Dict[str, Level], fd: int = 1, bound: int = QUEUE_LINES):
        self.levels = levels
        self._fd = fd
        self._bound = bound
        self._queue: "queue.SimpleQueue[Optional[Entry]]" = queue.SimpleQueue()
        self._lost = 0
        self._lost_lock = threading.Lock()
        self._trace: Optional[Callable[[int], Iterable[Entry]]] = None
        self._thread = threading.Thread(target=self._run, name="gwlbtun Logger", daemon=True)

    def wants(self, section: str, level: Level) -> bool:
        return level <= self.levels[section]

    def say(self, section: str, level: Level, text: str) -> None:
        if not self.wants(section, level):
            return
        if self._queue.qsize() >= self._bound:
            with self._lost_lock:
                self._lost += 1
        else:
            self._queue.put(Entry(time.time_ns(), threading.current_thread().name, section, level, text))

    def critical(self, section: str, text: str) -> None:
        self.say(section, Level.CRITICAL, text)

    def important(self, section: str, text: str) -> None:
        self.say(section, Level.IMPORTANT, text)

    def info(self, section: str, text: str) -> None:
        self.say(section, Level.INFO, text)

    def debug(self, section: str, text: str) -> None:
        self.say(section, Level.DEBUG, text)

    def start(self, trace: Optional[Callable[[int], Iterable[Entry]]] = None) -> None:
        """Begins to write. trace(most) returns up to so many entries of the packet path; it is called many times a second."""
        self._trace = trace
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Writes what is queued, and ends. Gives up after the timeout when nobody reads the log."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        fastpath.set_thread_name(self._thread.name)
        going, traced = True, 0
        while going:
            going, entries = self._take(wait=not traced)
            if self._trace:
                entries.extend(self._trace(BATCH_LINES))
                entries.sort(key=lambda entry: entry.time_ns)
                traced = len(entries)
            with self._lost_lock:
                lost, self._lost = self._lost, 0
            if lost:
                entries.append(Entry(time.time_ns(), self._thread.name, CORE, Level.IMPORTANT,
                                     f"{lost} log lines were dropped: whatever reads the log is too slow."))
            if entries:
                self._write("".join(map(format_entry, entries)).encode("utf-8", "backslashreplace"))

    def _take(self, wait: bool) -> Tuple[bool, List[Entry]]:
        """Returns False when asked to stop, and the entries that are queued. May wait for the first."""
        entries: List[Entry] = []
        try:
            entry = self._queue.get(wait, timeout=TRACE_POLL_S if self._trace else None)
            while entry is not None:
                entries.append(entry)
                if len(entries) >= BATCH_LINES:
                    return True, entries
                entry = self._queue.get_nowait()
            return False, entries
        except queue.Empty:
            return True, entries

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest):]
            except BlockingIOError:  # another process shares the descriptor and made it non-blocking
                select.select([], [self._fd], [])
            except OSError:          # nobody reads any more, and no place is left to say so
                return
