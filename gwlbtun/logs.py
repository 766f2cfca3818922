# SPDX-License-Identifier: MIT-0
"""The log: sections, levels, and the one thread that writes lines to standard output.

A caller puts its line in a bounded queue and goes on. The logger thread takes what there is, sets it in order of time
with what the trace of the packet path holds, and writes whole lines. When it falls behind, lines are dropped and
counted: traffic never waits for the reader of the log.
"""
import datetime
import enum
import json
import os
import queue
import re
import select
import signal
import stat
import threading
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from . import fastpath, journal, privilege

CORE, UDP, GENEVE, TUNNEL, HEALTHCHECK, OS, EBPF = SECTIONS = (
    "core", "udp", "geneve", "tunnel", "healthcheck", "os", "ebpf")
SILENT_SECTIONS = (OS, EBPF)  # which another gwlbtun has
DUMPED_SECTIONS = (UDP, GENEVE, TUNNEL)  # those that describe single packets

QUEUE_LINES = 10_000
BATCH_LINES = 1_000
TRACE_POLL_S = 0.05
RETRY_S = 1.0  # before another try, when lines could not be written


class Level(enum.IntEnum):
    CRITICAL = 0
    IMPORTANT = 1
    INFO = 2
    DEBUG = 3
    DEBUGDETAIL = 4


class Entry(NamedTuple):
    """One entry. In text, its lines become as many whole lines; in JSON, it is one object."""

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


def format_object(entry: Entry) -> str:
    """Returns it as one line of JSON, with its line end. The time is of RFC 3339."""
    seconds, rest = divmod(entry.time_ns, 1_000_000_000)
    at = datetime.datetime.fromtimestamp(seconds).astimezone().replace(microsecond=rest // 1000)
    return json.dumps({"time": at.isoformat(timespec="milliseconds"), "thread": entry.thread, "section": entry.section,
                       "level": entry.level.name.lower(),
                       "text": entry.text.encode("utf-8", "backslashreplace").decode()}) + "\n"


FORMATS: Dict[str, Callable[[Entry], str]] = {"text": format_entry, "json": format_object}


class Log:
    """Every part logs here. Any thread may call all methods but start and stop."""

    def __init__(self, levels: Dict[str, Level], form: Callable[[Entry], str] = format_entry, fd: int = 1,
                 bound: int = QUEUE_LINES):
        self.levels = levels
        self._form = form
        self._fd = fd
        self._bound = bound
        self._queue: "queue.SimpleQueue[Optional[Entry]]" = queue.SimpleQueue()
        self._lost = 0
        self._lost_lock = threading.Lock()
        self._refused: Optional[str] = None  # why the last write failed
        self._torn = False  # the last line that was written is not whole
        self._trace: Optional[Callable[[int], Iterable[Entry]]] = None
        self._journal = journal.reads(fd)
        self._writing = False
        self._busy = False
        self._rounds = 0
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

    def flush(self, timeout: float) -> None:
        """Returns when what is queued has been written, or after the timeout."""
        end = time.monotonic() + timeout
        while not (self._queue.empty() and not self._busy) and time.monotonic() < end:
            time.sleep(0.001)

    def progress(self) -> Tuple[bool, int]:
        """Whether there is something to write that its reader would take, and a number that changes as lines are written."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if self._writing:
            # A file always says that it would take more, and yet its disk may not.
            waits = not stat.S_ISREG(os.fstat(self._fd).st_mode) and bool(poll.poll(0))
        else:
            waits = not self._queue.empty()
        return waits, self._rounds

    def stop(self, timeout: float = 2.0) -> None:
        """Writes what is queued, and ends. Gives up after the timeout when nobody reads the log."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))  # as worker.py
        fastpath.set_thread_name(self._thread.name)
        privilege.take(privilege.Rights.CONTROL)
        going, traced = True, 0
        while going:
            self._rounds += 1
            self._busy = False
            going, entries = self._take(wait=not traced)
            if self._trace:
                entries.extend(self._trace(BATCH_LINES))
                entries.sort(key=lambda entry: entry.time_ns)
                traced = len(entries)
            with self._lost_lock:
                lost, self._lost = self._lost, 0
            if lost:
                why = self._refused or "whatever reads the log is too slow"
                entries.append(Entry(time.time_ns(), self._thread.name, CORE, Level.IMPORTANT,
                                     f"{lost} log lines were dropped: {why}."))
            text = "".join(map(self._lines, entries))
            left = self._write(text.encode("utf-8", "backslashreplace")) if text else 0
            if left:
                with self._lost_lock:  # the last of these lines, if it counted others, stands for those
                    self._lost += left + lost - bool(lost)

    def _lines(self, entry: Entry) -> str:
        lines = self._form(entry)
        return journal.with_priority(entry.level, lines) if self._journal else lines

    def _take(self, wait: bool) -> Tuple[bool, List[Entry]]:
        """Returns False when asked to stop, and the entries that are queued. May wait for the first."""
        entries: List[Entry] = []
        try:
            patience_s = TRACE_POLL_S if self._trace else RETRY_S if self._refused else None
            entry = self._queue.get(wait, timeout=patience_s)
            while entry is not None:
                self._busy = True
                entries.append(entry)
                if len(entries) >= BATCH_LINES:
                    return True, entries
                entry = self._queue.get_nowait()
            return False, entries
        except queue.Empty:
            return True, entries

    def _write(self, data: bytes) -> int:
        """Returns how many lines could not be written, as the disk is full or the reader has gone. That may pass."""
        rest = memoryview(b"\n" + data if self._torn else data)
        self._writing = True
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest):]
                except BlockingIOError:  # another process shares the descriptor and made it non-blocking
                    select.select([], [self._fd], [])
            self._refused, self._torn = None, False
            return 0
        except OSError as error:
            self._refused = f"they could not be written ({error.strerror})"
            self._torn = self._torn or len(rest) < len(data)
            return bytes(rest).count(b"\n") - (len(rest) > len(data))
        finally:
            self._writing = False
