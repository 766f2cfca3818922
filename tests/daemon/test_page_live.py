# SPDX-License-Identifier: MIT-0
"""The page at /status in a browser: its figures follow the daemon, which may go and come back, and it fits every screen."""
import re
import shutil
import threading
from pathlib import Path

import pytest

import packets
from browser import Browser
from fixtures import laboratory_in
from gwlbtun import page
from lab import CLIENT, ENI, HEALTH_PORT, SERVER
from stand import PORT, Stand, endpoint, report

pytestmark = pytest.mark.debian

URL = f"http://localhost:{HEALTH_PORT}/status"
HOSTILE = """<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"'&amp;`${window.hacked=1}"""
LONG = "a-name-without-any-place-where-it-may-be-broken" * 5
SCRIPT = Path(page.__file__).with_name("page.js").read_text()

# The lowest contrast of any text with the ground, as WCAG counts it, and what that text is.
CONTRAST = """
const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
  .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const ground = light(getComputedStyle(document.body).backgroundColor);
return [...document.body.querySelectorAll("*")]
  .filter((element) => element.checkVisibility())
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .map((element) => [light(getComputedStyle(element).color), element.textContent])
  .map(([text, words]) => [(Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05), words])
  .sort((one, other) => one[0] - other[0])[0];
"""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    with laboratory_in(tmp_path_factory.mktemp("page")) as made:
        made.start("--udpthreads", "2", "--tunthreads", "1", "--kernel-path", "off")  # whose threads work
        yield made


@pytest.fixture(scope="module")
def chromium(laboratory):
    assert shutil.which("chromedriver"), "there is no Chromium: on Debian, the packages chromium and chromium-driver have it"
    with Browser(laboratory.appliance) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """No test leaves a complaint on the console that it has not asked for itself."""
    yield chromium
    left = chromium.complaints()
    chromium.width(0)
    chromium.open("about:blank")
    chromium.complaints()  # of a request that was under way, which is not the next test's
    assert left == []


@pytest.fixture
def stand(laboratory, chromium):
    stand = Stand(laboratory.appliance)
    yield stand
    chromium.open("about:blank")  # or it complains that nobody answers
    stand.close()


def live(browser):
    """Waits until the script has compared two reports."""
    return browser.wait(lambda: browser.run("return document.querySelector('[data-chart] .line')?.getAttribute('d')"))


def shown(browser, selector):
    """The texts of all elements."""
    return browser.run("return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector)


def drawn(browser):
    """The lines of the charts."""
    return browser.run("return [...document.querySelectorAll('svg .line')].map((line) => line.getAttribute('d') ?? '')")


def overflow(browser):
    """By how many pixels the page is wider than the screen."""
    return browser.run("return document.scrollingElement.scrollWidth - document.documentElement.clientWidth")


def tell_apart(browser, part):
    """Takes the complaints of one kind from the console; there must be some."""
    complaints = browser.complaints()
    assert complaints and [text for text in complaints if not re.search(part, text)] == []


def test_the_figures_follow_the_traffic(laboratory, browser):
    one, other = laboratory.endpoint(), laboratory.endpoint(ENI + 1)
    done = threading.Event()

    def stream():
        while not done.wait(0.005):
            for each in (one, other):
                each.send(packets.udp(CLIENT[0], SERVER[0], 1, 2, bytes(500)))
    streamer = threading.Thread(target=stream)
    streamer.start()
    try:
        browser.open(URL)
        assert browser.wait(lambda: browser.text("[data-rate='totals.pktsFromGwlb']") not in ("", "–", "0"))
        assert browser.wait(lambda: len(shown(browser, "[data-cell=id]")) == 2)
        before = browser.text("[data-count='totals.pktsToGwlb']")
        assert browser.wait(lambda: browser.text("[data-count='totals.pktsToGwlb']") != before)
        assert browser.wait(lambda: all(re.fullmatch(r"\d+/s", text) and text != "0/s"
                                        for text in shown(browser, "[data-cell=inRate], [data-cell=backRate]")))
        assert sorted(shown(browser, "[data-cell=id]")) == sorted(f"vpce-{each.id}" for each in (one, other))
        assert sorted(shown(browser, "[data-cell=device]")) == sorted(each.gwi for each in (one, other))
        assert browser.wait(lambda: len(drawn(browser)) == 4 + 2 * 2 and all(map(re.compile(r"M[\d.]+ [\d.]+L").match,
                                                                                 drawn(browser))))
        assert browser.run("return [...document.querySelectorAll('#threads meter')].some((meter) => meter.value === 1)")
        assert browser.text("h1") == "Healthy" and browser.text("#link") == "live"
    finally:
        done.set()
        streamer.join()
    assert browser.wait(lambda: browser.text("[data-rate='totals.pktsFromGwlb']") == "0")
    assert browser.wait(lambda: not laboratory.balancer.awaited)
    assert {URL.replace("status", "json"), URL} <= set(browser.requests())


def test_server_and_script_say_the_same(laboratory, browser):
    """While nothing changes."""
    sender = laboratory.endpoint(ENI + 2)
    sender.send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
    assert laboratory.wait(lambda: len(sender.received) == 1)
    daemon, returned = laboratory.daemons[0], laboratory.balancer.counters.returned
    assert laboratory.wait(lambda: daemon.health()["totals"]["pktsToGwlb"] == returned)  # counted just after it was sent
    html = daemon.get("/status")[2].decode()
    rendered = dict(re.findall(r'data-(?:count|bytes)="([\w.]+)">([^<]*)<', html))
    cells = {name: re.findall(rf'data-cell="{name}">([^<]+)<', html) for name in ("id", "device", "state", "inCount", "flows")}
    assert len(rendered) > 30 and all(cells.values())
    browser.open(URL)
    assert live(browser)
    assert dict(browser.run("return [...document.querySelectorAll('[data-count], [data-bytes]')].map((element) => "
                            "[element.dataset.count ?? element.dataset.bytes, element.textContent])")) == rendered
    for name, texts in cells.items():
        assert sorted(shown(browser, f"[data-cell={name}]")) == sorted(texts)


@pytest.mark.parametrize("name, python, values", [
    ("count", page.count, [0, 7, 999, 1000, 1234567, 2 ** 53 - 1]),
    ("scaled", page.scaled, [0, 0.04, 1, 7.46, 9.96, 42.4, 999.4, 999.6, 1000, 12345, 123456, 999600, 2.5e9, 1e15]),
    ("span", page.span, [0, 0.26, 9.94, 9.96, 59.6, 61, 3600, 86399.6, 90061, 1e8]),
])
def test_server_and_script_write_figures_alike(browser, name, python, values):
    functions = SCRIPT.partition("// ---- Figures as text")[2].partition("// ----")[0].partition("\n")[2]
    assert browser.run(f"{functions}; return arguments[0].map((value) => {name}(value))", values) == list(map(python, values))


def test_nothing_but_the_daemon_is_asked(browser):
    browser.requests()
    browser.open(URL)
    assert live(browser)
    origin = URL.partition("/status")[0]
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert len(asked) >= 3 and {url.rpartition("/")[0] for url in asked} == {origin}
    assert {url.rpartition("/")[2] for url in asked} == {"status", "json"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1240])
def test_it_fits_the_screen_and_can_be_read(browser, stand, scheme, width):
    down = {"healthy": False, "state": "failed to come up", "failure": LONG}
    enis = [endpoint(2 ** 60 + number, 10 ** 9, name=LONG * (number % 2), **down) for number in range(5)]
    stand.report = report(*enis, reasons=[LONG], notes=[LONG], uptimeSecs=9e8)
    stand.report["totals"].update(dict.fromkeys(stand.report["totals"], 10 ** 15))
    stand.report["drops"].update(no_flow=10 ** 12, send=10 ** 12)
    browser.width(width)
    browser.scheme(scheme)
    browser.open(stand.url)
    assert overflow(browser) <= 0
    assert browser.wait(lambda: browser.text("[data-cell=inRate]") != "")
    assert overflow(browser) <= 0
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
    contrast, words = browser.run(CONTRAST)
    assert contrast >= 4.5, words
    tell_apart(browser, r"503 \(Service Unavailable\)")


def test_hostile_text_is_shown_and_not_run(browser, stand):
    stand.report = report(endpoint(1, name=HOSTILE, failure=HOSTILE, state=HOSTILE), reasons=[HOSTILE], notes=[HOSTILE])
    browser.open(stand.url)
    for _ in range(2):  # as the server has rendered it, and as the script has
        for selector in "#reasons li", "#notes li", "[data-cell=name]", "[data-cell=failure]", "[data-cell=state]":
            assert shown(browser, selector) == [HOSTILE]
        assert browser.wait(lambda: browser.text("[data-cell=inRate]") != "")
    assert browser.run("return [window.hacked, document.querySelectorAll('img').length]") == [None, 0]
    tell_apart(browser, r"503 \(Service Unavailable\)")


def test_an_injected_script_does_not_run(browser):
    """Not even if something got past the escaping: the policy is a second wall."""
    browser.open(URL)
    refused = browser.run("""
      try { document.body.innerHTML += "<img src=x onerror=window.hacked=1>"; } catch (error) { return error.name; }""")
    assert refused == "TypeError" and browser.run("return window.hacked") is None
    browser.run("const script = document.createElement('script'); try { script.text = 'window.hacked = 1' } catch {}"
                "document.head.append(script)")
    assert browser.run("return window.hacked") is None
    tell_apart(browser, "TrustedScript|TrustedHTML|Content Security Policy")


def test_a_thousand_endpoints_are_found_by_typing(browser, stand):
    stand.report = report(*(endpoint(number, number, name="checkout" if number == 7 else "") for number in range(1000)))
    browser.open(stand.url)
    assert browser.wait(lambda: browser.text("[data-cell=inRate]") != "")
    assert len(shown(browser, "[data-cell=id]")) == page.ENDPOINTS
    assert browser.text("#endpoints-rest").startswith("900 more endpoints")
    assert browser.text("label[for=filter]") and browser.run("return document.querySelector('label').control.id") == "filter"
    for typed, found in (("CHECK", [7]), ("vpce-003e7", []), (f"{999:017x}", [999]), ("gwi-2a ", [42, *range(0x2a0, 0x2b0)])):
        browser.run("const field = document.querySelector('#filter'); field.value = arguments[0];"
                    "field.dispatchEvent(new Event('input'))", typed)
        assert sorted(shown(browser, "[data-cell=id]")) == sorted(f"vpce-{number:017x}" for number in found)
    assert browser.text("#endpoints-rest") == ""


def test_counters_that_begin_anew_are_no_rate(browser, stand):
    stand.report["totals"]["pktsFromGwlb"] = 1000

    def next_report(uptime, count):
        stand.report = report(uptimeSecs=uptime)
        stand.report["totals"]["pktsFromGwlb"] = count
        assert browser.wait(lambda: browser.text("[data-count='totals.pktsFromGwlb']") == f"{count:,}")
        return browser.text("[data-rate='totals.pktsFromGwlb']")
    browser.open(stand.url)
    assert browser.wait(lambda: browser.text("[data-rate]") == "–")
    assert next_report(12.0, 1400) == "200"
    assert next_report(1.0, 50) == "–"
    assert next_report(2.0, 80) == "30"
    assert next_report(4.0, 20) == "–"
    assert browser.run("return document.querySelector('[data-chart] .line').getAttribute('d').match(/M/g).length") == 2


def test_a_page_that_nobody_looks_at_asks_for_nothing(browser, stand):
    browser.open(stand.url)
    assert browser.wait(lambda: len(stand.asked) >= 2)
    browser.run("document.querySelector('#pause').click()")
    assert browser.text("#link") == "paused" and browser.run("return document.querySelector('#pause').ariaPressed") == "true"
    before = len(stand.asked)
    assert not browser.wait(lambda: len(stand.asked) > before + 1, 1.4)
    browser.run("document.querySelector('#pause').click()")
    assert browser.wait(lambda: len(stand.asked) > before + 1)

    hide = "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});" \
           "document.dispatchEvent(new Event('visibilitychange'))"
    browser.run(hide, True)
    before = len(stand.asked)
    assert not browser.wait(lambda: len(stand.asked) > before + 1, 1.4)
    browser.run(hide, False)
    assert browser.wait(lambda: len(stand.asked) > before + 1)


def test_a_path_with_a_slash_at_its_end_is_the_same_page(browser, stand):
    browser.open(stand.url + "/")
    assert browser.wait(lambda: "/json" in stand.asked)
    assert browser.run("return document.querySelector('footer a').href") == f"http://localhost:{PORT}/json"


def test_another_version_brings_another_page(browser, stand):
    browser.open(stand.url)
    assert browser.wait(lambda: "/json" in stand.asked)
    stand.report = report(version="2", uptimeSecs=11)
    assert browser.wait(lambda: browser.text("[data-text=version]") == "2") and stand.asked.count("/status") == 1
    browser.run("performance.now = () => 1e9")  # it does not do so at once, lest it never ends
    stand.report = report(version="2", uptimeSecs=12)
    assert browser.wait(lambda: stand.asked.count("/status") == 2)


def test_the_daemon_goes_and_comes_back(laboratory, browser):
    browser.open(URL)
    assert live(browser)
    laboratory.daemons[0].stop()
    assert browser.wait(lambda: browser.text("h1") == "No answer")
    assert browser.run("return document.title").startswith("No answer")
    assert "does not answer. The figures are those of " in browser.text("#reasons")
    laboratory.start("--udpthreads", "2", "--tunthreads", "1")
    assert browser.wait(lambda: browser.text("h1") == "Healthy" and browser.text("#link") == "live")
    assert browser.text("#reasons") == ""
    assert live(browser)
    tell_apart(browser, r"net::ERR_(CONNECTION_REFUSED|EMPTY_RESPONSE|CONNECTION_RESET)|503 \(Service Unavailable\)")
