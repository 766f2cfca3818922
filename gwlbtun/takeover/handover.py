# SPDX-License-Identifier: MIT-0
"""The program that goes: from SIGHUP to execve(). Whatever stands against it, the program goes on as it was, and says why.

All of it is done by the main thread. The others end with the old program; those that matter rest by then.
"""
import contextlib
import os
import signal
import sys
import time
from typing import Callable, Iterable, List, Optional, Tuple

from .. import fastpath, installation, listener, memfile, optionsfile, privilege
from ..endpoints import Endpoints
from ..health import Health
from ..kernel.path import Path
from ..logs import CORE, Log
from ..patrol import Patrol
from ..receiver import Receiver
from ..rendezvous import Claim
from ..service import Service
from ..settings import Settings
from ..watch import DropWatch
from ..web import Server
from ..worker import FOR_MAIN
from . import rehearsal, state
from .endpoint import PassingEndpoint

SETTLE_S = 10.0    # for endpoints to come up or go
DRAIN_S = 2.0      # for the sockets of receivers that are to be fewer
ANSWERS_S = 0.5    # for health clients that are here
LOG_S = 1.0
LOOK_S = 0.005
TRIES = 3          # rehearsals of files that change meanwhile


class Refusal(Exception):
    """Why there is no restart in place. Its text is for the operator."""


class Changed(Exception):
    """The program has been replaced since the rehearsal."""


class Handover:
    """Made once everything else is there."""

    def __init__(self, settings: Settings, arguments: List[str], log: Log, service: Service, handler: fastpath.Handler,
                 receivers: List[Receiver], endpoints: Endpoints, server: Optional[Server], claim: Optional[Claim],
                 health: Health, drops: DropWatch, patrol: Patrol, kernel: Path, flows_fd: int):
        """arguments: the program's, as it was started with."""
        self._settings = settings
        self._arguments = arguments
        self._log = log
        self._service = service
        self._handler = handler
        self._receivers = receivers
        self._endpoints = endpoints
        self._server = server
        self._claim = claim
        self._health = health
        self._drops = drops
        self._patrol = patrol
        self._kernel = kernel
        self._flows_fd = flows_fd
        self._interrupted: Callable[[], bool] = lambda: False
        self._fed = 0.0
        self.took_s = 0.0  # of the main thread's time, so far

    def outline(self) -> state.Json:
        return state.outline(self._settings, self._handler.shim, len(self._endpoints.passing()))

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Does not return if it succeeds. interrupted(): whether gwlbtun has been told to stop meanwhile."""
        self._interrupted = interrupted
        begin = time.monotonic()
        self._service.reloading()
        try:
            for _ in range(TRIES):
                with contextlib.suppress(Changed), installation.copied() as copy:
                    files = self._files()
                    self._hand_over(self._rehearse(copy), copy, files)
            raise Refusal("the program's files, or those of its options, change all the time: try again when all are in place")
        except Refusal as refusal:
            if not interrupted():
                self._log.important(CORE, f"Restart in place: not now, and gwlbtun goes on as it was: {refusal}.")
        except Exception as error:
            self._log.critical(CORE, f"Restart in place: it failed, and gwlbtun goes on as it was "
                                     f"({type(error).__name__}: {error}).")
        self._service.go_on()
        self.took_s += time.monotonic() - begin

    def _waits(self) -> bool:
        """To be called again and again: keeps the watchdog fed. True: gwlbtun is to stop, so never mind."""
        if time.monotonic() >= self._fed:
            self._fed = time.monotonic() + self._service.tick_s
            self._service.tick()
        return self._interrupted()

    def _files(self) -> List[Tuple[str, Tuple[int, ...]]]:
        """What the rehearsal goes by. What is executed must be what was rehearsed."""
        return installation.fingerprint(optionsfile.files(self._arguments))

    def _rehearse(self, copy: int) -> rehearsal.Verdict:
        if self._flows_fd < 0:
            raise Refusal("this kernel has no memory files, in which flows could pass over")
        verdict = rehearsal.rehearse(self.outline(), self._arguments, copy, self._waits)
        if verdict.reasons:
            raise Refusal("; ".join(reason.rstrip(".") for reason in verdict.reasons))
        for remark in verdict.remarks:
            self._log.important(CORE, f"Restart in place: {remark}")
        return verdict

    def _hand_over(self, verdict: rehearsal.Verdict, copy: int, files: object) -> None:
        try:
            self._settle()
            passing = self._endpoints.passing()
            for endpoint in passing:
                endpoint.prepare_to_rest()
            if self._server:
                self._server.suspend(ANSWERS_S)
            self._retire(self._receivers[verdict.receivers:])
            self._rest(passing, verdict, copy, files)
        finally:
            if self._server:
                self._server.go_on()
            self._endpoints.release()

    def _settle(self) -> None:
        """Waits until no endpoint is half made or about to go. Those that are still to be made pass over as they are."""
        end = time.monotonic() + SETTLE_S
        while not self._endpoints.hold():
            if time.monotonic() > end:
                unsettled = self._endpoints.unsettled()
                what = f" ({unsettled[0].identity.interfaces} {unsettled[0].state.value})" if unsettled else ""
                raise Refusal(f"{max(len(unsettled), 1)} endpoints are still coming up or going{what}: try again when their "
                              "hooks have ended")
            if self._waits():
                raise Refusal("it stops")
            time.sleep(LOOK_S)

    def _retire(self, receivers: List[Receiver]) -> None:
        """Empties the sockets of those that the next program does not have."""
        try:
            for receiver in receivers:
                receiver.retire()
        except OSError as error:
            raise Refusal(f"there cannot be fewer receivers without a loss ({error.strerror}): bring the interface lo up, or "
                          "keep --udpthreads as it is") from None
        end, looks = time.monotonic() + DRAIN_S, 0
        while looks < 2 and time.monotonic() < end:
            time.sleep(LOOK_S)
            looks = looks + 1 if all(receiver.is_empty for receiver in receivers) else 0

    def _rest(self, passing: List[PassingEndpoint], verdict: rehearsal.Verdict, copy: int, files: object) -> None:
        """Returns, or raises, only when there is no restart."""
        kept, retired = self._receivers[:verdict.receivers], self._receivers[verdict.receivers:]
        paused_ns = time.monotonic_ns()
        stays = len(self._receivers) == verdict.receivers and self._kernel.may_stay(verdict.kernel)
        if not stays:
            self._kernel.rest()
        self._handler.pause(True)
        try:
            for receiver in self._receivers:
                receiver.pause()
            if stays:
                self._kernel.rest(stays=True)
            for endpoint in passing:
                endpoint.begin_rest()
            for endpoint in passing:
                endpoint.rest()
            try:
                with memfile.held("gwlbtun-packets") as packets:
                    if self._interrupted():
                        raise Refusal("it stops")
                    self._handler.leave(packets)
                    record, descriptors = self._record(kept, retired, paused_ns, packets)
                    if self._files() != files:
                        raise Changed
                    self._log.important(CORE, f"Restart in place: gwlbtun {verdict.version} takes over.")
                    self._log.flush(LOG_S)
                    self._execute(record, descriptors, copy)
            finally:
                for endpoint in passing:
                    endpoint.go_on()
        finally:
            try:
                self._kernel.go_on()
            finally:
                self._handler.pause(False)
                for receiver in retired:
                    self._reopen(receiver)
                for receiver in self._receivers:
                    self._go_on(receiver)

    def _reopen(self, receiver: Receiver) -> None:
        try:
            receiver.reopen(self._settings)
        except OSError as error:
            self._log.critical(CORE, f"{receiver.worker.name} gets no packets any more, as it cannot open a socket "
                                     f"({error.strerror}): the others get them. A restart in place mends that.")

    def _go_on(self, receiver: Receiver) -> None:
        """It cannot be done without, so this waits until the system has room for its thread."""
        while True:
            try:
                receiver.go_on()
                return
            except RuntimeError:
                if self._waits():
                    return
                time.sleep(LOOK_S)

    def _record(self, kept: List[Receiver], retired: List[Receiver], paused_ns: int,
                packets: int) -> Tuple[state.Json, List[int]]:
        """What the next program gets, and the descriptors that it names."""
        server, claim, outputs, outline = self._server, self._claim, listener.heard(), self.outline()
        endpoints = self._endpoints.passing()
        kernel, of_kernel = self._kernel.record()
        descriptors = [self._flows_fd, packets, *(receiver.socket.fileno() for receiver in kept), *outputs,
                       *(fd for endpoint in endpoints for fd in endpoint.descriptors()), *of_kernel]
        descriptors += [server.socket.fileno()] if server else []
        descriptors += [claim.listener.fileno()] if claim else []
        return {
            **outline, "outline": outline, "flows_fd": self._flows_fd,
            "packets_fd": packets, "patrol": self._patrol.record(),
            "paused_ns": paused_ns, "started": self._health.started, "told": self._drops.told,
            "receivers": [{"fd": receiver.socket.fileno(), "counters": receiver.counters()} for receiver in kept],
            "retired": [receiver.counters() for receiver in retired],
            "server": {"fd": server.socket.fileno(), "address": str(self._settings.health_port)} if server else None,
            "control": {"fd": claim.listener.fileno(), "path": claim.path} if claim else None,
            "outputs": {str(fd): title for fd, title in outputs.items()}, "deleted": self._endpoints.deleted_interfaces(),
            "endpoints": self._endpoints.record(), "kernel_path": kernel,
        }, descriptors

    def _execute(self, record: state.Json, descriptors: List[int], copy: int) -> None:
        """Returns only by an OSError."""
        if copy >= 0:  # nobody takes it, so it is closed
            descriptors.append(copy)
        memory = state.write({**record, "descriptors": descriptors})
        words, more = installation.copied_command(copy)
        environment = {**os.environ, **self._service.environment, **more, state.VARIABLE: str(memory)}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_MAIN)  # they wait for the next program
        try:
            if self._interrupted():  # by a signal that came just before, which the next program would not hear of
                raise Refusal("it stops")
            self._bequeath((memory, *descriptors), True)
            sys.stdout.flush()
            with privilege.all_rights():
                os.execve(words[0], [*words, *self._arguments], environment)
        finally:
            self._bequeath(descriptors, False)
            os.close(memory)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @staticmethod
    def _bequeath(descriptors: Iterable[int], inheritable: bool) -> None:
        for fd in descriptors:
            with contextlib.suppress(OSError):  # what a hook prints may have ended just now
                os.set_inheritable(fd, inheritable)
