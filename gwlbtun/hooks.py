# SPDX-License-Identifier: MIT-0
"""The create and destroy commands: run as a shell would run a command line, heard, waited for, never in the way.

A flood of new ENI IDs must not become one of processes: at most SIDE_BY_SIDE hooks take their turn at a time. A turn ends
with the hook, but after TURN_S at the latest, so that one that hangs holds up no other.

They are started with posix_spawn, which does not copy the page tables of a process with a large flow table, and waited
for on a pidfd. What they print goes to the log line by line, and so does what a process they leave behind prints later.
"""
import collections
import contextlib
import os
import select
import signal
import threading
import time
from typing import Deque, Optional, Set, Tuple

from .logs import CORE, Log
from .worker import Worker

SIDE_BY_SIDE = 16
TURN_S = 2.0
LINE_BYTES = 1_000   # longer ones are cut into several
KEPT_LINES = 10      # the last ones, told again when a hook fails
GRACE_S = 5.0        # for a create hook that still runs when gwlbtun stops
KILL_S = 2.0         # between SIGTERM and SIGKILL
POLL_S = 0.1
FIRST_REMINDER_S = 5.0
READER_S = 0.5       # for the last lines of a hook that failed, when others still hold its output open

_SIGNALS_TO_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)  # Python ignores the first two

_turns = threading.Semaphore(SIDE_BY_SIDE)
_running: Set[int] = set()  # process groups
_running_lock = threading.Lock()


def kill_all() -> None:
    """Ends every hook that runs, at once."""
    with _running_lock:
        for group in _running:
            _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """False when nobody is left in it."""
    try:
        os.killpg(group, number)
        return True
    except OSError:
        return False


class Hook:
    """One run of a hook."""

    def __init__(self, log: Log, command: str, action: str, gwi: str, gwo: str, eni: int):
        """action: CREATE or DESTROY."""
        self._log = log
        self._action = action
        self._command = command
        self._title = f"{action} hook of {gwi}"
        self._argv = ["/bin/sh", "-c", f'{command} "$@"', command, action, gwi, gwo, f"{eni:017x}"]
        self._last_lines: Deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.terminated = False  # because gwlbtun stopped meanwhile

    def run(self, stop: Optional[threading.Event] = None) -> bool:
        """Runs it to its end: true when it exited with status 0.

        Once stop is set it has GRACE_S left, and is terminated then. Without a stop it may take as long as it likes.
        """
        with contextlib.ExitStack() as turn:
            _turns.acquire()
            turn.callback(_turns.release)
            self._log.info(CORE, f"Running the {self._title}: {self._command}")
            try:
                pid, reader = self._start()
            except (OSError, RuntimeError) as error:
                self._log.important(CORE, f"The {self._title} could not be started: {error}.")
                return False
            status = self._wait(pid, turn, stop)
        if status == 0:
            return True
        reader.join(READER_S)
        self._tell_failure(os.waitstatus_to_exitcode(status))
        return False

    def _start(self) -> Tuple[int, Worker]:
        """Its process, and the thread that hears it. Raises RuntimeError when the system has no room for the thread."""
        output, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            reader = Worker(self._log, "gwlbtun Hook", lambda: self._read(output))
            try:
                reader.start()
            except RuntimeError:
                os.close(output)
                raise
            return self._spawn(write_end), reader
        finally:
            os.close(write_end)

    def _spawn(self, write_end: int) -> int:
        with _running_lock:
            pid = os.posix_spawn(
                self._argv[0], self._argv, os.environ, setsid=True, setsigmask=(), setsigdef=_SIGNALS_TO_DEFAULT,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                              (os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, write_end, 2)])
            _running.add(pid)
        return pid

    def _read(self, output: int) -> None:
        """Logs what comes until nobody holds the other end any more: background processes of the hook may, for long."""
        rest = b""
        with open(output, "rb", buffering=0) as pipe:
            while True:
                data = pipe.read(65536)
                *lines, rest = (rest + data).split(b"\n")
                if not data and rest or len(rest) > LINE_BYTES:
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    for start in range(0, len(line) or 1, LINE_BYTES):
                        text = line[start:start + LINE_BYTES].decode("utf-8", "surrogateescape")
                        self._last_lines.append(text)
                        self._log.info(CORE, f"{self._title}: {text}")
                if not data:
                    return

    def _wait(self, pid: int, turn: contextlib.ExitStack, stop: Optional[threading.Event]) -> int:
        """Its wait status. Tells at growing intervals that it still runs."""
        begin = time.monotonic()
        reminder = FIRST_REMINDER_S
        terminate_at = kill_at = float("inf")
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while not poll.poll(POLL_S * 1000):
            now = time.monotonic()
            if now - begin >= TURN_S or stop and stop.is_set():
                turn.close()  # of effect once
            if now - begin >= reminder:
                self._log.important(CORE, f"The {self._title} has been running for {now - begin:.0f} s; "
                                          "its endpoint waits.")
                reminder *= 2
            if stop and stop.is_set() and not self.terminated:
                terminate_at = min(terminate_at, now + GRACE_S)
            if now >= terminate_at:
                self._log.important(CORE, f"The {self._title} still runs and is terminated: gwlbtun stops.")
                self.terminated = True
                terminate_at, kill_at = float("inf"), now + KILL_S
                _signal_group(pid, signal.SIGTERM)
            if now >= kill_at:
                _signal_group(pid, signal.SIGKILL)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        while time.monotonic() < kill_at < float("inf") and _signal_group(pid, 0):  # the shell was faster than the rest
            time.sleep(POLL_S)
        with _running_lock:
            if self.terminated:
                _signal_group(pid, signal.SIGKILL)
            _running.discard(pid)
        return status

    def _tell_failure(self, code: int) -> None:
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        if code > 128:  # as a shell tells of a signal
            how += f" ({_signal_name(code - 128)})"
        last = "".join(f"\n    {line}" for line in self._last_lines.copy())
        self._log.important(CORE, f"The {self._title} {how}" + (f"; its last lines:{last}" if last else "."))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
