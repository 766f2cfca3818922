# SPDX-License-Identifier: MIT-0
"""Runs the create and destroy commands as a shell would, logs what they print, and waits for their end.

A hook runs under a turn (turns.py), so that a flood of new ENI IDs does not become one of processes, and hooks that number
what they make by what is there do not choose the same number. A hook that hangs loses its turn, so it holds up no other.

posix_spawn starts them, as it does not copy the page tables of a process with a large flow table. A pidfd tells of their
end. What they print goes to the log line by line, and so does what a process they leave behind prints later.
"""
import contextlib
import os
import select
import signal
import threading
import time
from typing import Callable, Iterator, Optional, Set, Tuple

from . import privilege
from .identity import Identity
from .listener import READER_S, Listener
from .logs import CORE, Log
from .netns import Namespace, inside
from .turns import Turn
from .worker import Worker

GRACE_S = 5.0        # for a create hook that still runs when gwlbtun stops
KILL_S = 2.0         # between SIGTERM and SIGKILL
POLL_S = 0.1
FIRST_REMINDER_S = 5.0

_SIGNALS_TO_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)  # Python ignores the first two

_running: Set[int] = set()  # process groups
_running_lock = threading.Lock()


class Hook:
    """One run of a hook."""

    def __init__(self, log: Log, command: str, action: str, identity: Identity, namespace: Optional[Namespace] = None):
        """action: CREATE or DESTROY. It runs in the namespace, if there is one."""
        self._log = log
        self._command = command
        self._title = f"{action} hook of {identity.title(identity.gwi)}"
        self._argv = ["/bin/sh", "-c", f'{command} "$@"', command, action, identity.gwi, identity.gwo, f"{identity.eni:017x}"]
        self._environment = {**os.environ, "GWLBTUN_ENDPOINT_NAME": identity.name}
        self._namespace = namespace
        self._listener = Listener(log, self._title)
        self.terminated = False  # because gwlbtun stopped meanwhile
        self.failure: Optional[str] = None  # how it ended, unless well
        self.seconds = 0.0  # how long it ran

    def run(self, turn: Turn, stop: Optional[threading.Event] = None) -> bool:
        """Runs it to its end. True: it exited with status 0. Renews the turn, which the caller has to end.

        Once stop is set, it is terminated after GRACE_S. Without a stop it may take as long as it likes. Raises OSError or
        RuntimeError when it cannot start: nothing has run then, and the caller may try again.
        """
        turn.renew()
        self._log.info(CORE, f"Running the {self._title}: {self._command}")
        begin = time.monotonic()
        pid, reader = self._start()
        status = self._wait(pid, stop)
        self.seconds = time.monotonic() - begin
        code = os.waitstatus_to_exitcode(status)
        if code or self._listener.too_much:
            reader.join(READER_S)
        last_lines = self._listener.end_run()
        if code:
            self.failure = _describe(code)
            last = "".join(f"\n    {line}" for line in last_lines)
            self._log.important(CORE, f"The {self._title} {self.failure}" + (f"; its last lines:{last}" if last else "."))
        return not code

    def _start(self) -> Tuple[int, Worker]:
        """Starts it. Returns its process, and the thread that hears it."""
        output, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                reader = self._listener.start(output)
            except RuntimeError:
                os.close(output)
                raise
            return self._spawn(write_end), reader
        finally:
            os.close(write_end)

    def _spawn(self, write_end: int) -> int:
        with privilege.all_rights(), _running_lock, inside(self._namespace):  # locked, so that reap() knows it
            pid = os.posix_spawn(
                self._argv[0], self._argv, self._environment, setsid=True, setsigmask=(), setsigdef=_SIGNALS_TO_DEFAULT,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                              (os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, write_end, 2)])
            _running.add(pid)
        return pid

    def _wait(self, pid: int, stop: Optional[threading.Event]) -> int:
        """Returns its wait status. Says at growing intervals that it still runs."""
        begin = time.monotonic()
        reminder = FIRST_REMINDER_S
        terminate_at = kill_at = float("inf")
        with _end_of(pid) as ended:
            while not ended():
                now = time.monotonic()
                if now - begin >= reminder:
                    self._log.important(CORE, f"The {self._title} has been running for {now - begin:.0f} s; "
                                              "its endpoint waits.")
                    reminder *= 2
                if stop and stop.is_set() and not self.terminated:
                    terminate_at = min(terminate_at, now + GRACE_S)
                if now >= terminate_at:
                    self._log.important(CORE, f"The {self._title} still runs. gwlbtun terminates it, as gwlbtun stops.")
                    self.terminated = True
                    terminate_at, kill_at = float("inf"), now + KILL_S
                    _signal_group(pid, signal.SIGTERM)
                if now >= kill_at:
                    _signal_group(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        while time.monotonic() < kill_at < float("inf") and _signal_group(pid, 0):  # the shell was faster than the rest
            time.sleep(POLL_S)
        with _running_lock:
            if self.terminated:
                _signal_group(pid, signal.SIGKILL)
            _running.discard(pid)
        return status


@contextlib.contextmanager
def _end_of(pid: int) -> Iterator[Callable[[], object]]:
    """Yields a function that waits for the process to end, for POLL_S at most. It returns something true when it has."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # no descriptor is left, but the hook runs
        yield lambda: _look_for_end(pid)
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        yield lambda: poll.poll(POLL_S * 1000)
    finally:
        os.close(pidfd)


def _look_for_end(pid: int) -> bool:
    time.sleep(POLL_S)
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _describe(code: int) -> str:
    if code < 0:
        return f"was ended by {_signal_name(-code)}"
    if code > 128:  # how a shell reports a signal
        return f"ended with status {code} ({_signal_name(code - 128)})"
    return f"ended with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal_group(group: int, number: int) -> bool:
    """False: no process is left in the group."""
    try:
        with privilege.all_rights():  # it may run as another user
            os.killpg(group, number)
        return True
    except OSError:
        return False


def running() -> int:
    """How many hooks run."""
    return len(_running)


def reap() -> None:
    """Buries children that are no hooks. Process 1, as in a container, inherits those that hooks leave behind."""
    with _running_lock, contextlib.suppress(ChildProcessError):
        while True:
            child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if child is None or child.si_pid in _running:  # which has a thread that waits for its status
                return
            os.waitpid(child.si_pid, os.WNOHANG)


def kill_all() -> None:
    """Ends every hook that runs, at once."""
    with _running_lock:
        for group in _running:
            _signal_group(group, signal.SIGKILL)
