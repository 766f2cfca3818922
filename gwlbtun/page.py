# SPDX-License-Identifier: MIT-0
"""The page at /status: health for a person with a browser.

page.html has marks where figures go. page.css and page.js are put into it, so that it is one file that needs no other. All
figures are in what the server sends; the script only keeps them fresh, from /json, and turns counts into rates.

The marks: data-count="PATH">, and others in FORMATS, is followed by the figure at that path of the report; the script finds it
by the same mark. data-cell="NAME"> is the same within a row of a table. $NAME and $NAME:PATH are for all else.
"""
import base64
import hashlib
import heapq
import html
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple, Union

from . import installation
from .forms import Form
from .health import Snapshot
from .receiver import SOCKET_DROPS

ENDPOINTS = 100  # shown at most; the rest is summed
THREADS = 12
REASONS = 20
KINDS = {"Tcp": "TCP", "Udp": "UDP", "Other": "other"}  # of flows

_MARK = re.compile(r'(?P<before>data-(?P<kind>count|rate|bits|bytes|time|text|cell)="(?P<path>[\w.]+)"[^>]*>)'
                   r'|\$(?P<name>\w+)(?::(?P<of>[\w.]+))?')
_ROW = re.compile(r'<template id="(\w+)-row">(.*?)</template>', re.DOTALL)
_DROP = """<tr $shown:$path data-some="$path" title="$text">
<th scope="row" class="reason"><code>$reason</code><small>$text</small></th>
<td class="number" data-rate="$path"></td>
<td class="number" data-count="$path"></td>
</tr>"""
_SOCKET_DROPS_AT = "udp.UDPPacketReceiver.socketDrops"


class _Mark(NamedTuple):
    kind: str
    path: str


Template = List[Union[str, _Mark]]


# ---- Figures as text. The script has the same functions -----------------------------------------------------------------

def count(value: float) -> str:
    return f"{value:,.0f}"


def scaled(value: float, unit: str = "") -> str:
    """Three digits are enough for what changes all the time."""
    size = 0
    while value >= 999.5 and size < 4:
        value, size = value / 1000, size + 1
    if size:
        digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    else:
        digits = 0 if value >= 9.95 or value == int(value) else 1
    return f"{value:.{digits}f} {['', 'k', 'M', 'G', 'T'][size]}{unit}".rstrip()


def span(seconds: float) -> str:
    """The two largest units of a time."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    parts: List[str] = []
    left = round(seconds)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def _at(report: Snapshot, path: str) -> Any:
    """The value at a path of the report, or at one of those that are not in it but follow from it."""
    if path == "dropped":
        return sum(report["drops"].values()) + _at(report, _SOCKET_DROPS_AT)
    if path == "hooksRun":
        return sum(runs["ok"] + runs["failed"] for runs in report["hooks"].values())
    value: Any = report
    for key in path.split("."):
        value = value[key]
    return value


def _share(value: float, most: float) -> str:
    return f"{value / max(most, 1):.4f}"


FORMATS: Dict[str, Callable[[Snapshot, str], str]] = {
    "count": lambda report, path: count(_at(report, path)),
    "rate": lambda report, path: scaled(_mean(report, path)),
    "bits": lambda report, path: scaled(8 * _mean(report, path), "bit/s"),
    "bytes": lambda report, path: scaled(_at(report, path), "B"),
    "time": lambda report, path: span(_at(report, path)),
    "text": lambda report, path: html.escape(str(_at(report, path))),
    "share": lambda report, path: _share(_at(report, path + ".size"), _at(report, path + ".bound")),
    "hidden": lambda report, path: "hidden" if _at(report, path) else "",
    "shown": lambda report, path: "" if _at(report, path) else "hidden",
}


def _mean(report: Snapshot, path: str) -> float:
    return _at(report, path) / max(report["uptimeSecs"], 1)


# ---- Templates ----------------------------------------------------------------------------------------------------------

def _parse(text: str) -> Template:
    parts: Template = []
    end = 0
    for mark in _MARK.finditer(text):
        parts.append(text[end:mark.start()] + (mark["before"] or ""))
        parts.append(_Mark(mark["kind"] or mark["name"], mark["path"] or mark["of"] or ""))
        end = mark.end()
    return [*parts, text[end:]]


def _fill(template: Template, values: Dict[str, str]) -> str:
    """A row. values: by the names of its cells and of its other marks."""
    return "".join(html.escape(values.get(part.path or part.kind, "")) if isinstance(part, _Mark) else part
                   for part in template)


# ---- Rows: those that are down come first, then those with the most traffic ---------------------------------------------

class _Top:
    """The first so many of what may be very many, and the sum of the rest. What they say is made for these only."""

    def __init__(self, most: int):
        self.number = 0
        self._most = most
        self._load = 0
        self._heap: List[Tuple[bool, int, int, Snapshot, str, str]] = []  # the last of them first

    def add(self, bad: bool, load: int, what: Snapshot, name: str = "", endpoint: str = "") -> None:
        self.number += 1
        self._load += load
        row = bad, load, -self.number, what, name, endpoint
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, row)
        else:
            heapq.heappushpop(self._heap, row)

    def add_threads(self, threads: List[Snapshot], name: str, endpoint: str = "") -> None:
        for thread in threads:
            self.add(not thread["healthy"], thread["pktsIn"] + thread.get("pktsOut", 0), thread, name, endpoint)

    def endpoints(self, template: Template) -> Iterator[str]:
        for _, _, _, eni, _, _ in sorted(self._heap, reverse=True):
            yield _fill(template, _endpoint(eni))

    def threads(self, template: Template) -> Iterator[str]:
        busiest = max((row[1] for row in self._heap), default=0)
        for _, load, _, thread, name, endpoint in sorted(self._heap, reverse=True):
            yield _fill(template, _thread(thread, name, endpoint, load, busiest))

    def rest(self, kind: str) -> str:
        left = self.number - len(self._heap)
        load = self._load - sum(row[1] for row in self._heap)
        return f"{count(left)} more {kind}, with {count(load)} packets together." if left else ""


def _packets_back(eni: Snapshot) -> int:
    return int(eni["tunnelIn"]["pktsSent"] + eni["tunnelOut"]["pktsSent"])


def _endpoint(eni: Snapshot) -> Dict[str, str]:
    flows = {kind: eni[f"v4FlowCache{kind}"]["size"] + eni[f"v6FlowCache{kind}"]["size"] for kind in KINDS}
    return {
        "class": "" if eni["healthy"] else "bad", "name": eni.get("name", ""), "id": eni["gwlbEndpointId"],
        "device": eni["tunnelIn"]["devname"], "state": eni["state"], "failure": eni["failure"],
        "inCount": count(eni["pktsOut"]), "backCount": count(_packets_back(eni)), "flows": count(sum(flows.values())),
        "kinds": ", ".join(f"{count(size)} {KINDS[kind]}" for kind, size in flows.items() if size),
        "dropped": count(eni["pktsDropped"]), "age": span(eni["secsSinceLastPacket"]),
    }


def _thread(thread: Snapshot, name: str, endpoint: str, load: int, busiest: int) -> Dict[str, str]:
    about = [endpoint, f"ID {thread['threadId']}", "" if thread["healthy"] else "dead"]
    return {
        "class": "" if thread["healthy"] else "bad", "thread": f"{name} {thread['threadNumber']}",
        "about": ", ".join(filter(None, about)), "load": count(load), "share": _share(load, busiest),
    }


# ---- The page -----------------------------------------------------------------------------------------------------------

class Page:
    """Made once: its form renders reports."""

    def __init__(self, drop_texts: Dict[str, str]):
        """drop_texts: what the reasons for drops mean, by the names of their counters."""
        text, self._rows = _take_rows(installation.read("page.html").decode())
        drops = {_SOCKET_DROPS_AT: SOCKET_DROPS,
                 **{f"drops.{name[len('drop_'):]}": meaning for name, meaning in drop_texts.items()}}
        text = text.replace("$drops", "".join(
            _DROP.replace("$path", path).replace("$reason", path.split(".")[-1]).replace("$text", html.escape(meaning))
            for path, meaning in drops.items()))
        style, script = installation.read("page.css").decode(), installation.read("page.js").decode()
        policy = (f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
                  "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'")
        self._constants = {"policy": policy, "style": style, "script": script,
                           "cell": ""}  # of the rows that the script takes copies of
        self._head, self._tail = (self._settle(_parse(part)) for part in text.split("$tail\n"))
        self.form = Form("text/html; charset=utf-8", self._render_head, self._render_tail)

    def _settle(self, template: Template) -> Template:
        """With what is the same in every report."""
        return [self._constants.get(part.kind, part) if isinstance(part, _Mark) else part for part in template]

    def _render_head(self, reasons: List[str]) -> str:
        verdict = "Unhealthy" if reasons else "Healthy"
        lines = reasons[:REASONS] + ([f"and {len(reasons) - REASONS} more"] if len(reasons) > REASONS else [])
        values = {"class": "bad" if reasons else "good", "verdict": verdict, "title": f"{verdict}: gwlbtun",
                  "reasons": "".join(f"<li>{html.escape(line)}</li>" for line in lines)}
        return "".join(values[part.kind] if isinstance(part, _Mark) else part for part in self._head)

    def _render_tail(self, report: Snapshot) -> Iterator[str]:
        endpoints, threads = _Top(ENDPOINTS), _Top(THREADS)
        threads.add_threads(report["udp"]["UDPPacketReceiver"]["threads"], "receiver")
        for eni in report["enis"]:
            endpoints.add(not eni["healthy"], eni["pktsOut"] + _packets_back(eni), eni)
            for tunnel in eni["tunnelIn"], eni["tunnelOut"]:
                name = tunnel["devname"]  # which tells nothing where each endpoint has a namespace of its own
                threads.add_threads(tunnel["threads"], name, eni.get("name") or ("" if "-" in name else eni["gwlbEndpointId"]))
            yield ""  # the end of a piece, though there is nothing to send yet
        values = {"notes": [f"<li>{html.escape(note)}</li>" for note in report["notes"]],
                  "endpoints": endpoints.endpoints(self._rows["endpoints"]), "endpoints_rest": endpoints.rest("endpoints"),
                  "threads": threads.threads(self._rows["threads"]), "threads_rest": threads.rest("threads")}
        for part in self._tail:
            if not isinstance(part, _Mark):
                yield part
            elif part.kind in FORMATS:
                yield FORMATS[part.kind](report, part.path)
            else:
                yield from values[part.kind]


def _take_rows(text: str) -> Tuple[str, Dict[str, Template]]:
    """The templates of rows by name, and the page in which they are empty, as the script wants them."""
    rows = {}
    for name, row in _ROW.findall(text):
        rows[name] = _parse(row)
        text = text.replace(row, _fill(rows[name], {}))
    return text, rows


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
