# SPDX-License-Identifier: MIT-0
"""The page at /status as the server renders it: all figures, nothing from elsewhere, and no text that is markup."""
import base64
import hashlib
import re
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from forms import rendered
from gwlbtun import page
from stand import DROP_TEXTS, endpoint, report, thread

SOCKET_DROPS = "udp.UDPPacketReceiver.socketDrops"
FORM = page.Page(DROP_TEXTS).form
HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(2)'>&amp;"'`$policy ${x}"""


class Document(HTMLParser):
    """Elements with their attributes and their own text. What is in templates is no part of it."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open, self._templates = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._templates += tag == "template"
        element = {"tag": tag, "text": "", **dict(attributes)}
        if not self._templates:
            self.elements.append(element)
        self._open.append(element)

    def handle_endtag(self, tag):
        self._templates -= tag == "template"
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self._open[-1]["text"] += data

    def find(self, **attributes):
        return [element for element in self.elements
                if all(element.get(name.rstrip("_").replace("_", "-")) == value for name, value in attributes.items())]

    def text(self, **attributes):
        return [element["text"] for element in self.find(**attributes)]


def document(health):
    return Document(rendered(FORM, health))


def busy():
    health = report(endpoint(0xabc, 1234567, name="checkout"), endpoint(0xdef, 5, healthy=False, state="failed to come up",
                                                                        failure="no room"))
    health["totals"].update(pktsFromGwlb=1234567, bytesFromGwlb=9_876_543_210)
    health["drops"]["send"] = 4321
    health["udp"]["UDPPacketReceiver"].update(socketDrops=17, threads=[thread(0, pktsIn=99, secsSinceLastPacket=1.0)])
    return health


def test_all_figures_are_there():
    shown = document(busy())
    assert shown.text(tag="h1") == ["Healthy"] and shown.text(tag="title") == ["Healthy: gwlbtun"]
    assert shown.text(data_count="totals.pktsFromGwlb") == ["1,234,567"]
    assert shown.text(data_bytes="totals.bytesFromGwlb") == ["9.88 GB"]
    assert shown.text(data_rate="totals.pktsFromGwlb") == ["123 k"]  # in ten seconds
    assert shown.text(data_bits="totals.bytesFromGwlb") == ["7.90 Gbit/s"]
    assert shown.text(data_time="uptimeSecs") == ["10 s"] and shown.text(data_text="version") == ["1"]
    assert shown.text(data_count="flows.size") == ["7"] and shown.text(data_count="flows.bound") == ["100"]
    assert [meter["value"] for meter in shown.find(data_share="flows")] == ["0.0700"]
    assert shown.text(data_count="dropped") == ["4,338"]  # those of the kernel included
    assert shown.text(data_cell="id") == [f"vpce-{0xdef:017x}", f"vpce-{0xabc:017x}"]  # trouble first
    assert shown.text(data_cell="name") == ["", "checkout"]
    assert shown.text(data_cell="state") == ["failed to come up", "up"] and shown.text(data_cell="failure") == ["no room", ""]
    assert shown.text(data_cell="inCount") == shown.text(data_cell="backCount") == ["5", "1,234,567"]
    assert shown.text(data_cell="flows") == ["2,404"] * 2 and shown.text(data_cell="kinds") == ["2,400 TCP, 4 UDP"] * 2
    assert shown.text(data_cell="dropped") == ["6", "6"] and shown.text(data_cell="age") == ["0.1 s", "0.1 s"]
    assert shown.text(data_cell="thread") == ["gwi-abc 0", "receiver 0", "gwi-def 0", "gwo-abc 0", "gwo-def 0"]
    assert shown.text(data_cell="load") == ["1,234,567", "99", "5", "0", "0"]
    assert shown.text(data_count="hooksRun") == ["4"] and shown.text(data_count="hooksFailed") == ["1"]


def test_drops_are_shown_with_their_meaning_if_there_are_any():
    shown = document(busy())
    rows = {row["data-some"]: row for row in shown.find(tag="tr") if "data-some" in row}
    assert {path for path, row in rows.items() if "hidden" not in row} == {"drops.send", SOCKET_DROPS}
    assert rows["drops.send"]["title"] == DROP_TEXTS["drop_send"] in shown.text(tag="small")
    none, = shown.find(data_none="dropped")
    assert "hidden" in none and "hidden" not in document(report()).find(data_none="dropped")[0]


def test_threads_say_whose_they_are():
    plain = endpoint(2, 7)
    plain["tunnelIn"]["devname"] = plain["tunnelOut"]["devname"] = "gwi"  # as in a namespace of its own
    named = endpoint(1, 9, name="checkout")
    named["tunnelIn"]["threads"][0]["healthy"] = False
    shown = document(report(named, plain))
    assert shown.text(data_cell="about")[:2] == ["checkout, ID 4000, dead", f"vpce-{2:017x}, ID 4000"]


def test_hostile_text_is_text():
    health = report(endpoint(1, name=HOSTILE, failure=HOSTILE, state=HOSTILE), reasons=[HOSTILE], notes=[HOSTILE],
                    version=HOSTILE)
    shown = document(health)
    assert shown.text(tag="li") == [HOSTILE] * 2  # the reason and the note
    assert shown.text(data_cell="name") == shown.text(data_cell="failure") == [HOSTILE]
    assert shown.text(data_text="version") == [HOSTILE]
    assert len(shown.find(tag="script")) == 1 and shown.find(tag="img") == []


def test_it_asks_for_nothing_from_elsewhere_and_runs_only_its_own_script():
    text = rendered(FORM, busy())
    shown = Document(text)
    content = shown.find(http_equiv="Content-Security-Policy")[0]["content"]
    policy = dict(part.strip().split(" ", 1) for part in content.split(";"))
    script, = shown.text(tag="script")
    style, = shown.text(tag="style")
    for name, own in (("script-src", script), ("style-src", style)):
        assert policy.pop(name) == f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
    assert policy == {"default-src": "'none'", "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'",
                      "form-action": "'none'", "require-trusted-types-for": "'script'"}
    assert set(re.findall(r"\w+://[^'\"\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert {element["href"] for element in shown.elements if not element.get("href", "data:").startswith("data:")} == {
        "json", "text", "metrics"}
    assert not [element for element in shown.elements if "style" in element or "src" in element
                or any(name.startswith("on") for name in element)]


def test_reasons_come_first_and_not_all_thousand():
    health = report(reasons=[f"thread {number} is dead" for number in range(1000)])
    shown = document(health)
    assert shown.text(tag="h1") == ["Unhealthy"]
    assert shown.text(tag="li") == [*health["reasons"][:20], "and 980 more"]


def test_of_a_thousand_endpoints_those_with_most_traffic_are_shown():
    health = report(*(endpoint(number, packets=number) for number in range(1000)))
    shown = document(health)
    assert shown.text(data_cell="id") == [f"vpce-{number:017x}" for number in range(999, 899, -1)]
    assert shown.text(id="endpoints-rest") == [f"900 more endpoints, with {2 * sum(range(900)):,} packets together."]
    assert len(shown.text(data_cell="load")) == 12
    text = rendered(FORM, health)
    assert len(text) < 200_000
    assert "endpoints-rest\"></p>" in rendered(FORM, report(endpoint(1)))


def test_it_is_rendered_in_pieces_that_take_little_time():
    health = report(*(endpoint(number, packets=number) for number in range(1000)))
    spans, before = [], time.thread_time()
    for _ in FORM.tail(health):
        spans.append(time.thread_time() - before)
        before = time.thread_time()
    assert len(spans) > 1000 and max(spans) < 0.05


def test_its_parts_may_be_in_an_archive(tmp_path):
    package = Path(page.__file__).parent
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in package.rglob("*.*"):
            archive.write(path, f"gwlbtun/{path.relative_to(package)}")
    program = "from gwlbtun.page import Page; print(Page({}).form.head([]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "archive.zip")},
                          stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == page.Page({}).form.head([]).strip()


@pytest.mark.parametrize("value, text", [
    (0, "0"), (0.04, "0.0"), (0.5, "0.5"), (1, "1"), (7.46, "7.5"), (9.96, "10"), (42.4, "42"), (999.4, "999"),
    (999.6, "1.00 k"),
    (1000, "1.00 k"), (12_345, "12.3 k"), (123_456, "123 k"), (999_600, "1.00 M"), (2.5e9, "2.50 G"), (1e15, "1000 T"),
])
def test_rates_have_three_digits(value, text):
    assert page.scaled(value) == text


@pytest.mark.parametrize("seconds, text", [
    (0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"),
    (86_399.6, "1 d 0 h"), (90_061, "1 d 1 h"), (1e8, "1157 d 9 h"),
])
def test_times_have_two_units(seconds, text):
    assert page.span(seconds) == text
