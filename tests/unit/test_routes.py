# SPDX-License-Identifier: MIT-0
"""Which form a request gets: by its path, and by what its Accept header says, whatever that is."""
import random
import time

import pytest

from gwlbtun import forms, metrics, routes
from gwlbtun.routes import Routes
from gwlbtun.settings import Settings
from scrapes import PROMETHEUS

TEXT_SERVER, JSON_SERVER = Routes(Settings()), Routes(Settings(health_json=True))
STATUS_SERVER = Routes(Settings(health_status_only=True, health_json=True))
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/", "", "/health", "/any/path?full=1", "/jsonx", "/json/x", "/JSON", "/../json", "/./json",
                                  "json", "*", "//json", "/%00", "/%ff%", "/json%00", "/etc/passwd", "/json;x", "/\\json"])
def test_a_path_that_names_no_form_gets_the_usual_one(path):
    assert TEXT_SERVER.form(path, "") is forms.HTML
    assert JSON_SERVER.form(path, "") is forms.JSON
    assert STATUS_SERVER.form(path, "") is None


@pytest.mark.parametrize("server", [TEXT_SERVER, JSON_SERVER, STATUS_SERVER])
@pytest.mark.parametrize("accept", ["", "*/*", "text/html", FIREFOX, "application/json", "no/such", ";;;"])
@pytest.mark.parametrize("path, form", [
    ("/json", forms.JSON), ("/text", forms.TEXT), ("/text/", forms.TEXT), ("/json?x=y", forms.JSON), ("/json?", forms.JSON),
    ("/json/?a=/text", forms.JSON), ("/json#x", forms.JSON), ("/%6a%73on", forms.JSON), ("http://host:8080/json", forms.JSON),
    ("HTTPS://[::1]/text?http://x", forms.TEXT),
])
def test_a_path_that_names_a_form_gets_that_one(server, accept, path, form):
    assert server.form(path, accept) is form


@pytest.mark.parametrize("settings", [Settings(), Settings(health_json=True), Settings(health_status_only=True)])
@pytest.mark.parametrize("path", ["/status", "/status/", "/status?x", "http://host/status"])
def test_the_page_has_a_path_of_its_own(settings, path):
    page = forms.HTML._replace(content_type="text/page")
    assert Routes(settings, page).form(path, "application/json") is page
    assert Routes(settings, page).form("/json", "") is forms.JSON


@pytest.mark.parametrize("accept, text, json", [
    ("", forms.HTML, forms.JSON),
    ("*/*", forms.HTML, forms.JSON),
    ("*/*;q=0.1", forms.HTML, forms.JSON),
    ("image/png", forms.HTML, forms.JSON),
    ("application/json", forms.JSON, forms.JSON),
    ("Application/JSON ; charset=utf-8", forms.JSON, forms.JSON),
    ("application/json, */*", forms.JSON, forms.JSON),
    ("*/*, application/json", forms.JSON, forms.JSON),
    ("text/plain", forms.TEXT, forms.TEXT),
    ("text/html", forms.HTML, forms.HTML),
    (FIREFOX, forms.HTML, forms.HTML),
    ("text/*", forms.HTML, forms.HTML),
    ("text/*, text/html;q=0", forms.TEXT, forms.TEXT),
    ("text/html;q=0.5, text/plain;q=0.6", forms.TEXT, forms.TEXT),
    ("text/html;q=0.5, text/plain;q=.6", forms.TEXT, forms.TEXT),
    ("text/plain;q=0.5, application/json;q=0.5", forms.TEXT, forms.TEXT),
    ("application/json;q=0.5, text/plain;q=0.5", forms.JSON, forms.JSON),
    ("application/json;q=0, */*", forms.HTML, forms.HTML),
    ("application/*;q=0.3, text/html;q=0.2", forms.JSON, forms.JSON),
    ("application/json;version=1;q=0.9, text/plain;q=0.95", forms.TEXT, forms.TEXT),
    ("application/json;q=0.1, application/json;q=0.9, text/plain;q=0.5", forms.JSON, forms.JSON),
    # What is no weight makes its range worth nothing.
    *((f"application/json;q={weight}, text/plain;q=0.1", forms.TEXT, forms.TEXT)
      for weight in ["", ".", "x", "-1", "2.5", "1e9", "nan", "inf", "0.1234", "٣", '"1"', "0x1", "1 1", "="]),
])
def test_at_the_root_the_accept_header_chooses(accept, text, json):
    assert TEXT_SERVER.form("/", accept) is text
    assert JSON_SERVER.form("/?x", accept) is json
    assert STATUS_SERVER.form("/", accept) is None
    assert TEXT_SERVER.form("/health", accept) is forms.HTML


@pytest.mark.parametrize("unit", [",", ";", ";q=", "q=1,", "a/b,", "*/*;q=0.", "text/plain;", " ", "\t;\x0b,", "=" * 9])
def test_a_hostile_accept_header_costs_little_and_changes_nothing(unit):
    accept = (unit * 16_384)[:16_384]
    begin = time.thread_time()
    for _ in range(20):
        assert JSON_SERVER.form("/", accept) in (forms.JSON, forms.TEXT)
    assert (time.thread_time() - begin) / 20 < 0.02


@pytest.mark.parametrize("server", [TEXT_SERVER, JSON_SERVER, STATUS_SERVER])
@pytest.mark.parametrize("accept, form", [
    ("", metrics.TEXT), ("*/*", metrics.TEXT), ("text/plain", metrics.TEXT), (FIREFOX, metrics.TEXT),
    ("application/openmetrics-text", metrics.OPENMETRICS), ("application/openmetrics-text;q=0", metrics.TEXT),
    ("application/openmetrics-text; version=1.0.0; charset=utf-8,text/plain;q=0.5", metrics.OPENMETRICS),
    (PROMETHEUS, metrics.OPENMETRICS), ("text/plain;version=0.0.4;q=0.5," + PROMETHEUS, metrics.OPENMETRICS),
])
def test_metrics_have_two_formats(server, accept, form):
    assert server.form("/metrics", accept) is server.form("/metrics/?name[]=x", accept) is form


def test_only_so_many_ranges_count():
    many = ",".join(["a/b"] * routes.RANGES)
    assert JSON_SERVER.form("/", f"{many},text/plain") is forms.JSON
    assert JSON_SERVER.form("/", f"text/plain,{many}") is forms.TEXT


def test_garbage_gets_some_form():
    chance = random.Random(1)
    words = [*",;=/*.%?#: \t\"\\", "q", "0", "1", "text", "html", "application", "json", "http://", "é", "\0"]
    for _ in range(5000):
        text = "".join(chance.choices(words, k=chance.randrange(20)))
        assert TEXT_SERVER.form(text, text) in (forms.HTML, forms.JSON, forms.TEXT)


def test_prometheus_mode_has_metrics_and_the_status():
    server = Routes(Settings(prometheus=True, health_json=True))
    assert server.form("/metrics", "") is metrics.TEXT
    assert server.form("/", "application/json") is server.form("/health", "") is None
