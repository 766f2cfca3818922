# SPDX-License-Identifier: MIT-0
"""The daemon: builds the parts, waits, drains, stops."""
import os
import resource
import select
import signal
import socket
import threading
import time
from typing import List, Optional

from . import StartError, __version__, fastpath, health, hooks, nftwatch, rpfilter, tun
from .endpoints import Endpoints
from .logs import CORE, Log
from .receiver import Receiver, buffer_size, open_sockets, raw_socket
from .settings import Settings
from .trace import Trace, level_wanted
from .watch import DropWatch
from .web import Answer, Server
from .worker import Worker

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
TICK_S = 1.0
WATCH_SHARE = 0.05  # of one core at most, for adding up counters


class Daemon:
    """The process. Made and run once, by the main thread."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._log = Log(settings.log_levels)
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._watch_due = 0.0

    def run(self) -> int:
        """The exit status. Raises StartError when it cannot begin."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to take down
        threading.current_thread().name = "gwlbtun"
        fastpath.set_thread_name("gwlbtun")
        self._build()
        try:
            self._start()
        except RuntimeError as error:  # no room for a thread
            raise StartError(str(error)) from None
        self._loop()
        self._log.stop()
        return 0

    def _build(self) -> None:
        """Takes all that may be refused, before anything runs."""
        settings, log = self._settings, self._log
        shim = fastpath.Shim()
        offloads = tun.probe(settings.offload)
        _raise_descriptor_limit()
        sockets = open_sockets(settings, log)
        self._server: Optional[Server] = None
        if settings.health_port:
            self._server = Server(settings.health_port, self._answer, log)
        places = settings.udp_places
        try:
            self._handler = fastpath.Handler(shim, len(places), len(settings.tunnel_places), settings.max_endpoints,
                                             settings.max_flows, settings.flow_idle_s, offloads, raw_socket(log))
        except OSError as error:
            raise StartError(f"cannot set up the fast path ({error.strerror}): give a smaller --max-flows, "
                             "--max-endpoints or number of threads") from None
        self._endpoints = Endpoints(self._handler, settings, offloads, log)
        self._receivers: List[Receiver] = [
            Receiver(index, place, self._handler, udp_socket, self._endpoints.admit, log)
            for index, (place, udp_socket) in enumerate(zip(places, sockets))]
        self._health = health.Health(settings, self._receivers, self._endpoints, list(shim.drop_texts),
                                     self._handler.flow_entries, min(map(buffer_size, sockets)), self._stopping)
        self._drop_watch = DropWatch(shim.drop_texts, log)
        self._filter_watch = rpfilter.watch()
        self._table_watch = nftwatch.watch(log, settings.create_hook)

    def _start(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # Any thread may be the one that a signal interrupts; the byte written here wakes this one.
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: None)
        traced = level_wanted(self._log)
        self._handler.trace(traced)
        self._log.start(Trace(self._handler, self._log) if traced else None)
        self._log.info(CORE, f"gwlbtun {__version__} starts, process {os.getpid()}.")
        Worker(self._log, "gwlbtun Stop", self._stop).start()  # at once: later there may be no room for it
        for receiver in self._receivers:
            receiver.worker.start()
        if self._server:
            self._server.start()

    def _loop(self) -> None:
        """Waits for signals, and does what is due every second, until all has been stopped."""
        poll = select.poll()  # unlike select, with any number of sockets
        for source in filter(None, (self._wake_read, self._filter_watch, self._table_watch)):
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
            if time.monotonic() >= tick_due:
                tick_due = time.monotonic() + TICK_S
                self._tick()

    def _tick(self) -> None:
        if self._stopping.is_set():
            return
        self._handler.expire()
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

    def _hear_signals(self) -> None:
        for number in _drain(self._wake_read):
            if number not in STOP_SIGNALS:
                continue
            name = signal.Signals(number).name
            if self._stopping.is_set():
                hooks.kill_all()
                os._exit(128 + number)
            self._log.important(CORE, f"{name}: stopping; another one stops at once.")
            self._stopping.set()

    def _stop(self) -> None:
        """Once told to, lets what has come in go through and takes everything down in order."""
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
        finally:
            self._stopped.set()
            self._wake_write.send(b"\0")

    def _answer(self) -> Answer:
        snapshot = self._health.snapshot()
        status = 200 if snapshot["healthy"] else 503
        if self._settings.health_status_only:
            return status, "", b""
        if self._settings.health_json:
            return status, "application/json", health.render_json(snapshot).encode()
        return status, "text/html; charset=utf-8", health.render_html(snapshot).encode()


def _drain(source: socket.socket) -> bytes:
    """What a non-blocking socket holds. Netlink's ENOBUFS, too many changes to tell, is a change as well."""
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
