# SPDX-License-Identifier: MIT-0
"""The daemon: builds the parts, waits, drains and stops."""
import os
import select
import signal
import socket
import threading
import time
import traceback
from typing import List, Optional

from . import (StartError, __version__, capacity, fastpath, health, hooks, netns, nftwatch, privilege, rpfilter, title, tun)
from .admission import Admission
from .answers import Answers
from .control import Control
from .draining import Draining
from .endpoints import Endpoints
from .logs import CORE, FORMATS, Log
from .kernel.path import Path
from .lapse import Lapses
from .lookout import drain
from .page import Page
from .overload import Overload
from .patrol import Patrol
from .receiver import Receiver, buffer_size, open_sockets, raw_socket
from .reports import Reports
from .request import Answer
from .routes import Routes
from .service import Service
from .settings import Settings
from .sources import Sources
from .surroundings import Surroundings
from .takeover import state as takeover
from .takeover.handover import Handover
from .takeover.inheritance import Inheritance
from .terminal import ends_with_session
from .trace import Trace, level_wanted
from .watch import DropWatch
from .web import Server
from .worker import FOR_MAIN, INTERRUPT, WAKE_S, Worker

WATCH_SHARE = 0.05  # of one core, at most, for adding up counters


class Daemon:
    """The process. Made and run once, by the main thread."""

    def __init__(self, settings: Settings, arguments: List[str]):
        """arguments: what the settings come from. A program that takes over from this one reads them again."""
        self._settings = settings
        self._arguments = arguments
        self._log = Log(settings.log_levels, FORMATS[settings.log_format])
        self._stopping = threading.Event()
        self._draining = Draining(settings.drain_s)
        self._service = Service(self._log, self._stopping, self._draining)
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._signals: List[int] = []  # by their handlers, since bytes of a storm of them may find no room
        self._watch_due = 0.0
        self._stopper = Worker(self._log, "gwlbtun Stop", self._stop, vital=True, wakes=True)
        self._failed = False  # the exit status must not be 0
        self._report_failure = threading.excepthook

    def run(self) -> int:
        """Returns the exit status. Raises StartError when it cannot begin."""
        self._inherited = inherited = Inheritance(self._log)
        if not inherited:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has to be taken down yet
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, hooks would have no exit status
        threading.current_thread().name = "gwlbtun"
        fastpath.set_thread_name("gwlbtun")  # pgrep finds the process by it
        title.take()
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
        if settings.netns:
            netns.prepare(sweep=not self._inherited)
        shim = self._shim = fastpath.Shim()
        capacity.raise_descriptor_limit()
        offloads, inherited = tun.probe(settings.offload), self._inherited
        self._kernel = Path(settings, bool(inherited), inherited.path_in_kernel(), self._stopping, log)
        sockets = open_sockets(settings, log, inherited.sockets)
        port, places, raw = settings.health_port, settings.udp_places, raw_socket(log)
        self._server = Server(port, self._answer, log, inherited.health_listener(port)) if port else None
        try:
            self._handler, self._flows_fd = inherited.with_flows(lambda flows_fd: fastpath.Handler(
                shim, len(places), len(settings.tunnel_places), takeover.slots(settings), takeover.flows_most(settings),
                settings.flow_idle_s, settings.udp_idle_s, offloads, raw, flows_fd))
            self._kernel.serve(self._handler, inherited.flows_go_on and len(inherited.sockets) == len(places))
        except OSError as error:
            raise StartError(f"cannot set up the fast path ({error.strerror}): give a smaller --max-flows, "
                             "--max-endpoints or number of threads") from None
        if settings.no_return:
            self._handler.receive_only()
        self._handler.limit_rings(capacity.ring_bytes())
        self._sources = Sources(self._handler, settings, log)
        self._endpoints = Endpoints(self._handler, settings, offloads, self._sources, self._kernel, self._stopping, log)
        self._admission = Admission(self._handler, self._endpoints, settings.max_endpoints, log)
        self._receivers = [Receiver(index, place, self._handler, udp_socket, log)
                           for index, (place, udp_socket) in enumerate(zip(places, sockets))]
        # Where each endpoint has a network namespace, each has watches and surroundings of its own (interfaces.py).
        self._surroundings = None if settings.netns else Surroundings()
        self._patrol = Patrol(self._endpoints, self._surroundings, shim.drop_texts, self._stopping, log)
        self._overload = Overload(self._receivers, self._endpoints, self._stopping, log)
        self._health = health.Health(settings, self._receivers, self._endpoints, list(shim.drop_texts),
                                     self._handler.flow_entries, min(map(buffer_size, sockets)), self._stopping,
                                     self._draining, lambda: self._patrol.notes.lines, self._kernel.report)
        if self._server:
            self._routes = Routes(settings, Page(shim.drop_texts).form)
            self._reports = Reports(self._health, self._routes.usual, self._server.wake, log)
        self._drop_watch = DropWatch(shim.drop_texts, log)
        self._filter_watch = self._table_watch = None
        if self._surroundings:
            self._filter_watch = rpfilter.watch()
            self._table_watch = nftwatch.watch(log, settings.create_hook, None, self._surroundings.stir_chains)
            self._surroundings.hears, self._surroundings.table_watch = self._filter_watch is not None, self._table_watch
        self._control: Optional[Control] = None
        claim = inherited.claim(settings.control)
        if claim:
            answers = Answers(settings, self._handler, self._receivers, self._endpoints, self._health,
                              {endpoint.eni: endpoint.name for endpoint in settings.endpoints})
            self._control = Control(claim, answers.by_word, log)
        self._handover = Handover(
            settings, arguments=self._arguments, log=log, service=self._service, handler=self._handler, claim=claim,
            receivers=self._receivers, endpoints=self._endpoints, server=self._server, health=self._health,
            drops=self._drop_watch, patrol=self._patrol, kernel=self._kernel, flows_fd=self._flows_fd)

    def _start(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # A signal may interrupt any thread. The byte that Python writes here wakes this one.
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(INTERRUPT, lambda number, frame: None)
        for number in FOR_MAIN:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
                signal.signal(number, lambda number, frame: self._signals.append(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_MAIN)  # the program before has blocked them, or gwlbtun.py
        threading.excepthook = self._hear_failure
        self._lapses = Lapses(self._log)
        self._trace = Trace(self._handler, self._settings.identities, self._log)
        traced = level_wanted(self._settings.log_levels)
        self._handler.trace(traced)
        needs = privilege.NEEDED | ({privilege.CAP_SYS_ADMIN} if self._settings.netns else set())
        self._log.info(CORE, privilege.prepare(self._shim, needs, self._kernel.capabilities))
        self._log.start(self._trace if traced else None)
        self._log.info(CORE, f"gwlbtun {__version__} starts, process {os.getpid()}.")
        self._inherited.resume(self._handler, self._receivers, self._endpoints, self._sources, self._health,
                               self._drop_watch, self._patrol)
        self._kernel.start()
        self._stopper.start()  # now: later the system may have no room for it
        if self._server:
            self._server.start()
            self._reports.start()
        if self._control:
            self._control.start()
        self._endpoints.start()
        self._admission.worker.start()
        self._patrol.worker.start()
        for receiver in self._receivers:
            receiver.worker.start()
        self._overload.worker.start()
        if self._server:
            self._server.open()
        self._service.begin(self._health, self._receivers, self._endpoints, self._server)
        self._inherited.tell(self._kernel.adopted)

    def _loop(self) -> None:
        """Waits for signals and does what is due every second, until everything has stopped."""
        poll = select.poll()  # unlike select, with any number of sockets
        for source in (self._wake_read, self._filter_watch, self._table_watch, self._sources.watcher,
                       self._endpoints.lookout):
            if source:
                poll.register(source, select.POLLIN)
        tick_due = time.monotonic()
        while not self._stopped.is_set():
            ready = {fd for fd, _ in poll.poll(max(tick_due - time.monotonic(), 0) * 1000)}
            if self._wake_read.fileno() in ready:
                self._hear_signals()
            if self._filter_watch and self._surroundings and self._filter_watch.fileno() in ready:
                drain(self._filter_watch)
                self._endpoints.check_filters()
                self._surroundings.stir()
            if self._table_watch and self._table_watch.fileno() in ready:
                self._table_watch.hear()
            if self._sources.watcher and self._sources.watcher.fileno() in ready:
                self._sources.hear()
            if self._endpoints.lookout.fileno() in ready:
                self._endpoints.lookout.hear()
            if time.monotonic() >= tick_due:
                tick_due = time.monotonic() + self._service.tick_s
                try:
                    self._tick()
                    self._service.tick()
                except Exception:
                    traceback.print_exc()
                    self._fail("gwlbtun")

    def _tick(self) -> None:
        hooks.reap()
        if self._draining.begun and not self._draining.left_s and not self._stopping.is_set():
            self._log.important(CORE, "Drained: stopping.")
            self._stopping.set()
        idleness_shows = self._lapses.look(self._handover.took_s)
        for line in privilege.news():
            self._log.critical(CORE, line)
        if self._stopping.is_set():
            return
        if idleness_shows and self._kernel.sweep():
            self._handler.expire()
        self._sources.tick()
        self._endpoints.tick(idleness_shows)
        self._health.tick()
        if not self._filter_watch and not self._settings.netns:
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
        self._service.stopping()

    def _hear_signals(self) -> None:
        drain(self._wake_read)
        heard, self._signals = self._signals, []
        for number in heard:
            name = signal.Signals(number).name
            if self._stopping.is_set() or self._draining.begun:
                if number == signal.SIGHUP:  # the end of a session may send it twice
                    if self._draining.begun and not self._stopping.is_set():
                        self._log.important(CORE, "SIGHUP: gwlbtun drains, so there is no restart in place.")
                    continue
                hooks.kill_all()
                os._exit(128 + number)
            if number == signal.SIGHUP and not ends_with_session(self._service.wanted):
                continue
            if number == signal.SIGTERM and self._draining.seconds:
                self._draining.begin()
                self._log.important(CORE, f"{name}: draining for {self._draining.seconds} s, unhealthy. "
                                          "Another one stops gwlbtun at once.")
                self._service.draining()
                continue
            self._log.important(CORE, f"{name}: stopping. Another one stops gwlbtun at once.")
            self._stopping.set()
            self._service.stopping()
        if signal.SIGHUP in heard and not (self._stopping.is_set() or self._draining.begun):
            self._handover.run(lambda: self._stopping.is_set() or any(number != signal.SIGHUP for number in self._signals))

    def _stop(self) -> None:
        """Waits for the word to stop. Then packets that came in go through, and everything is taken down in order."""
        while not self._stopping.wait(WAKE_S):
            pass
        try:
            self._kernel.rest()
            self._handler.stop()
            for receiver in self._receivers:
                receiver.wake()
            for receiver in self._receivers:
                receiver.worker.join()
            self._endpoints.stop()
            self._kernel.stop()
            if self._server:
                self._server.stop()
            if self._control:
                self._control.stop()
            self._log.important(CORE, "Stopped.")
        except Exception:
            self._failed = True
            raise
        finally:
            self._stopped.set()
            self._wake_write.send(b"\0")

    def _answer(self, path: str, accept: str, waited_s: float) -> Optional[Answer]:
        return self._reports.answer(self._routes.form(path, accept), waited_s)
