# SPDX-License-Identifier: MIT-0
"""Health reports in several forms, which all clients share.

With few endpoints each question gets a report of its own. With many a report takes a while: a thread of its own makes at most
one a second for all clients, in each form that somebody has asked for lately, and less often when those are several. The server
answers with the one before it when that takes too long. The thread makes reports unasked as well, so that a fresh one is at
hand. Whether gwlbtun is healthy does not wait for any of this.
"""
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from .forms import Form
from .health import Health
from .logs import CORE, Log
from .request import PATIENCE_MOST_S, PATIENCE_S, Answer
from .worker import WAKE_S, Worker, breathing

AGE_S = 1.0            # how long a report is shared
RECENT_S = 20.0        # how long a form is made for all after somebody has asked for it
SMALL_BYTES = 65_536   # of a report that is made for each question, in a millisecond or two
SMALL_SHARE = 0.2      # of one core, which small reports may take;
SAVED_S = 5.0          # that share is saved up for so long while nobody asks
UNASKED_SHARE = 0.05   # of one core, at most, for reports made unasked


class _Report(NamedTuple):
    """One form of it."""

    begun: float
    due: float  # when it is too old to be shared
    reasons: List[str]
    tail: bytes


class _Verdict(NamedTuple):
    reasons: List[str]
    stopping: bool
    due: float


class Reports:
    """Makes reports in the forms that are asked for."""

    def __init__(self, health: Health, usual: Optional[Form], wake: Callable[[], None], log: Log):
        """usual: the form that is always at hand. wake(): called when there is a new report."""
        self._health = health
        self._usual = usual
        self._wake = wake
        self._log = log
        self._reports: Dict[Form, _Report] = {}
        self._asked: Dict[Form, float] = {}  # when somebody last asked for that form
        self._verdict = _Verdict([], False, 0.0)
        self._failure = ""
        self._cost, self._spent = 0.0, 0.0  # of the newest report; until when the share of small ones is used up
        self._making = threading.Lock()
        self._wanted = threading.Event()

    def start(self) -> None:
        """Raises RuntimeError when the system has no room for another thread."""
        Worker(self._log, "gwlbtun Report", self._make_them, again=True, wakes=True).start()

    def answer(self, form: Optional[Form], waited_s: float) -> Optional[Answer]:
        """The report in that form, or the status only. waited_s: since the question came. Only one thread may call this.

        None: a newer report is being made. After a while an older one will do.
        """
        if not form:
            return Answer(503 if self._reasons() else 200)
        self._asked[form] = now = time.monotonic()
        late = waited_s >= (PATIENCE_MOST_S if form.fresh else PATIENCE_S)
        if not late and self._outdated(form, now - waited_s) and not (self._is_small(form) and self._make([form])):
            self._wanted.set()
            return None
        report, reasons = self._reports.get(form), self._reasons()
        if report is None:
            self._wanted.set()
            return None
        return Answer(503 if reasons and form.tells_health else 200, form.content_type,
                      (form.head(reasons).encode(), report.tail))

    def _is_small(self, form: Form) -> bool:
        report = self._reports.get(form)
        return report is not None and len(report.tail) <= SMALL_BYTES

    def _outdated(self, form: Form, asked: float) -> bool:
        """A report that was begun after the question is good, however long it took."""
        report = self._reports.get(form)
        return report is None or report.begun < asked and (
            time.monotonic() >= report.due or report.reasons != self._reasons())

    def _reasons(self) -> List[str]:
        """Why gwlbtun is unhealthy. With many endpoints it is some hundredths of a second old."""
        stopping, begin, work = self._health.stopping, time.monotonic(), time.thread_time()
        if begin >= self._verdict.due or stopping != self._verdict.stopping:
            reasons = self._health.reasons()
            self._verdict = _Verdict(reasons, stopping, begin + (time.thread_time() - work) / UNASKED_SHARE)
        return self._verdict.reasons

    def _make_them(self) -> None:
        while True:
            forms = self._forms()
            if forms:
                self._make(forms)
            self._wanted.clear()  # before waking: the server may want a newer one at once
            self._wake()
            due = time.monotonic() + max(AGE_S, self._cost / UNASKED_SHARE) if forms else float("inf")
            while not self._wanted.wait(WAKE_S) and time.monotonic() < due:
                pass

    def _forms(self) -> List[Form]:
        """Those to make for all. Forgets reports in others: they are too old by now."""
        since = time.monotonic() - RECENT_S
        forms = [form for form, asked in list(self._asked.items()) if asked >= since and form != self._usual]
        if self._usual:
            forms.insert(0, self._usual)
        for form in list(self._reports):
            if form not in forms:
                del self._reports[form]
        return forms

    def _make(self, forms: Sequence[Form]) -> bool:
        """False: there is no new report, as the other thread makes one, or it failed."""
        if not self._making.acquire(blocking=False):
            return False
        begin, work = time.monotonic(), time.thread_time()
        try:
            snapshot = self._health.snapshot()
            basis = time.thread_time() - work
            costs, tails = [], []
            for form in forms:
                costs.append(-time.thread_time())
                tails.append("".join(breathing(form.tail(snapshot))).encode())
                costs[-1] += time.thread_time()
            self._cost = basis + sum(costs)
            # In several forms a report lasts longer, so that they cost no more than the dearest alone.
            due = begin + AGE_S * self._cost / (basis + max(costs))
            for form, cost, tail in zip(forms, costs, tails):
                own_due = self._small_due(begin, basis + cost) if len(tail) <= SMALL_BYTES else due
                self._reports[form] = _Report(begin, own_due, snapshot["reasons"], tail)
            self._verdict = self._verdict._replace(due=begin)  # the report may know better
            return True
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")
            return False
        finally:
            self._making.release()

    def _small_due(self, begin: float, cost: float) -> float:
        """When a small report begun at that time is too old to be shared, so that another may be made."""
        self._spent = max(self._spent, begin - SAVED_S) + cost / SMALL_SHARE
        return min(self._spent, begin + AGE_S)

    def _tell(self, failure: str) -> None:
        if failure != self._failure:
            self._failure = failure
            self._log.critical(CORE, f"Cannot make a health report ({failure}). Health checks still get the right status.")
