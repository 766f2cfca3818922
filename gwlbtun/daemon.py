# SPDX-License-Identifier: MIT-0
"""The daemon: builds the parts, waits, drains and stops."""
import os
import resource
import select
import signal
import socket
import threading
import time
import traceback
from typing import List, Optional

from . import StartError, __version__, capacity, fastpath, health, hooks, nftwatch, rpfilter, tun
from .admission import SPARE, Admission
from .endpoints import Endpoints
from .logs import CORE, Log
from .receiver import Receiver, buffer_size, open_sockets, raw_socket
from .reports import Reports
from .request import Answer
from .settings import Settings
from .sources import Sources
from .trace import Trace, level_wanted
from .watch import DropWatch
from .web import Server
from .worker import Worker

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_S = 1.0
WATCH_SHARE = 0.05  # of one core, at most, for adding up counters


class Daemon:
    """The process. Made and run once, by the main thread."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._log = Log(settings.log_levels)
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._watch_due = 0.0
        self._stopper = Worker(self._log, "gwlbtun Stop", self._stop, vital=True)
        self._failed = False  # the exit status must not be 0
        self._report_failure = threading.excepthook

    def run(self) -> int:
        """Returns the exit status. Raises StartError when it cannot begin."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has to be taken down yet
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, hooks would have no exit status
        threading.current_thread().name = "gwlbtun"
        fastpath.set_thread_name("gwlbtun")
        self._build()
        try:
            self._start()
        except RuntimeError as error:  # no room for a thread
            raise StartError(str(error)) from None
        self._loop()
        self._stopper.join()
        self._log.stop()
        return int(self._failed)

    def _build(self) -> None:
        """Acquires everything that may be refused, before anything runs."""
        settings, log = self._settings, self._log
        os.environ["GWLBTUN_HEALTH_PORT"] = str(settings.health_port.port if settings.health_port else "")  # for hooks
        shim = fastpath.Shim()
        offloads = tun.probe(settings.offload)
        _raise_descriptor_limit()
        sockets = open_sockets(settings, log)
        self._server: Optional[Server] = None
        if settings.health_port:
            self._server = Server(settings.health_port, self._answer, log)
        places = settings.udp_places
        try:
            self._handler = fastpath.Handler(shim, len(places), len(settings.tunnel_places),
                                             min(settings.max_endpoints + SPARE, fastpath.SLOTS_MAX),
                                             settings.max_flows, settings.flow_idle_s, offloads, raw_socket(log))
        except OSError as error:
            raise StartError(f"cannot set up the fast path ({error.strerror}): give a smaller --max-flows, "
                             "--max-endpoints or number of threads") from None
        self._handler.limit_rings(capacity.ring_bytes())
        self._sources = Sources(self._handler, settings, log)
        self._endpoints = Endpoints(self._handler, settings, offloads, self._sources, self._stopping, log)
        self._admission = Admission(self._handler, self._endpoints, settings.max_endpoints, log)
        self._receivers: List[Receiver] = [
            Receiver(index, place, self._handler, udp_socket, log)
            for index, (place, udp_socket) in enumerate(zip(places, sockets))]
        self._health = health.Health(settings, self._receivers, self._endpoints, list(shim.drop_texts),
                                     self._handler.flow_entries, min(map(buffer_size, sockets)), self._stopping)
        if self._server:
            self._reports = Reports(self._health, self._form(), self._server.wake, log)
        self._drop_watch = DropWatch(shim.drop_texts, log)
        self._filter_watch = rpfilter.watch()
        self._table_watch = nftwatch.watch(log, settings.create_hook)

    def _start(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # A signal may interrupt any thread. The byte that Python writes here wakes this one.
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
                signal.signal(number, lambda number, frame: None)
        threading.excepthook = self._hear_failure
        traced = level_wanted(self._log)
        self._handler.trace(traced)
        self._log.start(Trace(self._handler, self._log) if traced else None)
        self._log.info(CORE, f"gwlbtun {__version__} starts, process {os.getpid()}.")
        self._stopper.start()  # now: later the system may have no room for it
        if self._server:
            self._server.start()
            self._reports.start()
        self._endpoints.start()
        self._admission.worker.start()
        for receiver in self._receivers:
            receiver.worker.start()
        if self._server:
            self._server.open()

    def _loop(self) -> None:
        """Waits for signals and does what is due every second, until everything has stopped."""
        poll = select.poll()  # unlike select, with any number of sockets
        for source in (self._wake_read, self._filter_watch, self._table_watch, self._sources.watcher):
            if source:
                poll.register(source, select.POLLIN)
        tick_due = time.monotonic()
        while not self._stopped.is_set():
            ready = {fd for fd, _ in poll.poll(max(tick_due - time.monotonic(), 0) * 1000)}
            if self._wake_read.fileno() in ready:
                self._hear_signals()
            if self._filter_watch and self._filter_watch.fileno() in ready:
                _drain(self._filter_watch)
                self._endpoints.check_filters()
            if self._table_watch and self._table_watch.fileno() in ready:
                self._table_watch.hear()
            if self._sources.watcher and self._sources.watcher.fileno() in ready:
                self._sources.hear()
            if time.monotonic() >= tick_due:
                tick_due = time.monotonic() + TICK_S
                try:
                    self._tick()
                except Exception:
                    traceback.print_exc()
                    self._fail("gwlbtun")

    def _tick(self) -> None:
        hooks.reap()
        if self._stopping.is_set():
            return
        self._handler.expire()
        self._sources.tick()
        self._endpoints.tick()
        if not self._filter_watch:
            self._endpoints.check_filters()
        if self._table_watch:
            self._table_watch.look(self._endpoints.up)
        begin = time.monotonic()
        if begin >= self._watch_due:
            self._drop_watch.look(self._health.totals())
            end = time.monotonic()
            self._watch_due = end + (end - begin) / WATCH_SHARE

    def _hear_failure(self, arguments: threading.ExceptHookArgs) -> None:
        """An exception has ended a thread. gwlbtun cannot go on without one of its own."""
        self._report_failure(arguments)
        if arguments.thread and arguments.thread.name.startswith("gwlbtun"):
            self._fail(arguments.thread.name)

    def _fail(self, thread: str) -> None:
        """Stops cleanly, but with status 1, so that a supervisor starts gwlbtun again."""
        self._failed = True
        self._log.critical(CORE, f"Stopping with status 1: gwlbtun cannot do without its thread {thread}.")
        self._stopping.set()

    def _hear_signals(self) -> None:
        for number in _drain(self._wake_read):
            if number not in STOP_SIGNALS:
                continue
            name = signal.Signals(number).name
            if self._stopping.is_set():
                if number == signal.SIGHUP:  # the end of a session may send it twice
                    continue
                hooks.kill_all()
                os._exit(128 + number)
            self._log.important(CORE, f"{name}: stopping. Another one stops gwlbtun at once.")
            self._stopping.set()

    def _stop(self) -> None:
        """Waits for the word to stop. Then packets that came in go through, and everything is taken down in order."""
        self._stopping.wait()
        try:
            self._handler.stop()
            for receiver in self._receivers:
                receiver.wake()
            for receiver in self._receivers:
                receiver.worker.join()
            self._endpoints.stop()
            if self._server:
                self._server.stop()
            self._log.important(CORE, "Stopped.")
        except Exception:
            self._failed = True
            raise
        finally:
            self._stopped.set()
            self._wake_write.send(b"\0")

    def _answer(self, path: str, accept: str, late: bool) -> Optional[Answer]:
        return self._reports.answer(late)

    def _form(self) -> Optional[health.Form]:
        if self._settings.health_status_only:
            return None
        return health.JSON if self._settings.health_json else health.HTML


def _drain(source: socket.socket) -> bytes:
    """Empties a non-blocking socket. Netlink's ENOBUFS means too many changes to tell, which the caller takes as one."""
    data = b""
    try:
        while True:
            more = source.recv(65536)
            if not more:
                return data
            data += more
    except OSError:
        return data


def _raise_descriptor_limit() -> None:
    """Every tunnel thread takes two descriptors, every connected socket one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass
