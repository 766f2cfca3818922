# SPDX-License-Identifier: MIT-0
"""Which form of report a request gets: its path names one, or its Accept header chooses, or the settings do."""
import re
from typing import Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import unquote

from . import forms, metrics
from .forms import Form
from .settings import Settings

# The forms that a path has, in either case whatever the settings. The Accept header chooses among several; the first is for
# who does not care.
PATHS: Dict[str, Tuple[Form, ...]] = {
    "/json": (forms.JSON,),
    "/text": (forms.TEXT,),
    "/metrics": (metrics.TEXT, metrics.OPENMETRICS),
}

RANGES = 32  # of an Accept header: those that follow do not count

_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)  # which a client puts before the path when it asks a proxy
_WEIGHT = re.compile(r"[01]?(?:\.[0-9]{0,3})?")


class Routes:
    """The forms by path and Accept header, under given settings."""

    def __init__(self, settings: Settings, page: Optional[Form] = None):
        """page: the form at /status. Without a path of its own, a request gets the form that the settings ask for, or the
        status only."""
        self._paths = {**PATHS, "/status": (page,)} if page else PATHS
        self.usual: Optional[Form] = forms.JSON if settings.health_json else forms.HTML
        if settings.health_status_only or settings.prometheus:
            self.usual = None

    def form(self, target: str, accept: str) -> Optional[Form]:
        """target: as the request line has it. None: the status only."""
        path = _path(target)
        if path in self._paths:
            return _preferred(self._paths[path], accept)
        if path or not self.usual:
            return self.usual
        return _preferred((self.usual, *(form for form in (forms.HTML, forms.JSON, forms.TEXT) if form != self.usual)), accept)


def _path(target: str) -> str:
    """Without what may come before and after it, and without a slash at its end: so the root is empty."""
    origin = _ORIGIN.match(target)
    return unquote(re.split("[?#]", target[origin.end() if origin else 0:], maxsplit=1)[0]).rstrip("/")


class _Range(NamedTuple):
    """What one media range of an Accept header says of a form. Greater is better."""

    weight: float = 0.0
    specific: int = 0  # how exactly it names the form
    early: int = 0     # how far ahead in the header it is


def _preferred(choice: Tuple[Form, ...], accept: str) -> Form:
    """The form that the client likes best; the first if it likes none of them, or all alike."""
    if len(choice) == 1:
        return choice[0]
    ranges = [_parsed(text) for text in accept.lower().split(",", RANGES)[:RANGES]]
    return max(choice, key=lambda form: _liking(form.content_type.partition(";")[0], ranges))


def _liking(media_type: str, ranges: List[Tuple[str, float]]) -> _Range:
    """What the range that names the type most exactly says of it."""
    exactness = {media_type: 3, media_type.partition("/")[0] + "/*": 2, "*/*": 1}
    best = max((_Range(weight, exactness[name], -index) for index, (name, weight) in enumerate(ranges) if name in exactness),
               key=lambda said: (said.specific, said.weight, said.early), default=_Range())
    return best if best.weight else _Range()


def _parsed(text: str) -> Tuple[str, float]:
    """A media range and its weight. One whose weight is no number has none."""
    name, *parameters = [part.strip() for part in text.split(";")]
    weights = [value.strip() for key, _, value in (parameter.partition("=") for parameter in parameters) if key.strip() == "q"]
    if not weights:
        return name, 1.0
    return name, min(float(weights[0]), 1.0) if weights[0].strip(".") and _WEIGHT.fullmatch(weights[0]) else 0.0
