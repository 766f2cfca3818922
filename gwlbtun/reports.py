# SPDX-License-Identifier: MIT-0
"""Health reports, which all clients share.

With few endpoints each question gets a report of its own. With many a report takes a while: a thread of its own makes at most
one a second for all clients, and the server answers with the one before it when that takes too long. It makes reports unasked
as well, so that a fresh one is at hand. Whether gwlbtun is healthy does not wait for any of this.
"""
import threading
import time
from typing import Callable, List, NamedTuple, Optional

from .health import Form, Health
from .logs import CORE, Log
from .request import Answer
from .worker import Worker, breathing

AGE_S = 1.0            # how long a report is shared
SMALL_BYTES = 32_768   # of a report that is made for each question, in a millisecond or two
SMALL_SHARE = 0.2      # of one core, which small reports may take;
SAVED_S = 5.0          # that share is saved up for so long while nobody asks
UNASKED_SHARE = 0.05   # of one core, at most, for reports made unasked


class _Report(NamedTuple):
    reasons: List[str]
    tail: bytes
    due: float  # when it is too old to be shared


class _Verdict(NamedTuple):
    reasons: List[str]
    stopping: bool
    due: float


class Reports:
    """Makes reports in one form. Without a form there is nothing but the status."""

    def __init__(self, health: Health, form: Optional[Form], wake: Callable[[], None], log: Log):
        """wake(): called when there is a new report."""
        self._health = health
        self._form = form
        self._wake = wake
        self._log = log
        self._report: Optional[_Report] = None
        self._verdict = _Verdict([], False, 0.0)
        self._shown = False
        self._failure = ""
        self._small, self._cost, self._due = True, 0.0, 0.0  # of the newest report
        self._making = threading.Lock()
        self._wanted = threading.Event()

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for another thread."""
        form = self._form
        if form:
            Worker(self._log, "gwlbtun Report", lambda: self._make_them(form)).start()

    def answer(self, late: bool) -> Optional[Answer]:
        """None: a newer report is being made. late: an older one will do. Only one thread may call this."""
        if not self._form:
            return Answer(503 if self._reasons() else 200)
        if not late and self._outdated() and not (self._small and self._make(self._form)):
            self._wanted.set()
            return None
        report, reasons = self._report, self._reasons()
        if report is None:
            return None
        self._shown = True
        return Answer(503 if reasons else 200, self._form.content_type, (self._form.head(reasons).encode(), report.tail))

    def _outdated(self) -> bool:
        report = self._report
        return report is None or time.monotonic() >= report.due or report.reasons != self._reasons()

    def _reasons(self) -> List[str]:
        """Why gwlbtun is unhealthy. With many endpoints it is some hundredths of a second old."""
        stopping, begin, work = self._health.stopping, time.monotonic(), time.thread_time()
        if begin >= self._verdict.due or stopping != self._verdict.stopping:
            reasons = self._health.reasons()
            self._verdict = _Verdict(reasons, stopping, begin + (time.thread_time() - work) / UNASKED_SHARE)
        return self._verdict.reasons

    def _make_them(self, form: Form) -> None:
        while True:
            self._make(form)
            self._wanted.clear()  # before waking: the server may want a newer one at once
            self._wake()
            self._wanted.wait(max(AGE_S, self._cost / UNASKED_SHARE))

    def _make(self, form: Form) -> bool:
        """False: there is no new report, as the other thread makes one, or it failed."""
        if not self._making.acquire(blocking=False):
            return False
        begin, work = time.monotonic(), time.thread_time()
        try:
            shown, self._shown = self._shown, False
            snapshot = self._health.snapshot(shown)
            tail = "".join(breathing(form.tail(snapshot))).encode()
            self._cost, self._small = time.thread_time() - work, len(tail) <= SMALL_BYTES
            self._due = self._due_of(begin)
            self._report = _Report(snapshot["reasons"], tail, self._due)
            self._verdict = self._verdict._replace(due=begin)  # the report may know better
            return True
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")
            return False
        finally:
            self._making.release()

    def _due_of(self, begin: float) -> float:
        """When a report begun at that time is too old to be shared, so that another may be made."""
        if not self._small:
            return begin + AGE_S
        return min(max(self._due, begin - SAVED_S) + self._cost / SMALL_SHARE, begin + AGE_S)

    def _tell(self, failure: str) -> None:
        if failure != self._failure:
            self._failure = failure
            self._log.critical(CORE, f"Cannot make a health report ({failure}). Health checks still get the right status.")
