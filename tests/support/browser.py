# SPDX-License-Identifier: MIT-0
"""Chromium without a screen, in a network namespace. Driven by chromedriver, in the words of WebDriver (W3C) over HTTP."""
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List

from netns import Namespace

DRIVER_PORT = 9515
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
         "--disable-extensions", "--mute-audio", "--hide-scrollbars")


class Browser:
    """One browser with one window. Its profile, and whatever else it writes, is gone at close()."""

    def __init__(self, namespace: Namespace, width: int = 1240, height: int = 900):
        self._namespace = namespace
        self._home = Path(tempfile.mkdtemp(prefix="gwlbtun-browser-"))
        self._driver = namespace.start(
            "chromedriver", f"--port={DRIVER_PORT}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, "HOME": str(self._home), "TMPDIR": str(self._home)})
        self._session = ""
        try:
            self._await_driver()
            self._session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "goog:chromeOptions": {"args": [*FLAGS, f"--user-data-dir={self._home / 'profile'}",
                                                f"--window-size={width},{height}"]}}}})["sessionId"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        if self._session:
            with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                self._ask("DELETE", f"/session/{self._session}")  # ends Chromium
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._driver.pid, signal.SIGKILL)  # and what is left of both
        self._driver.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def _await_driver(self) -> None:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(ConnectionError):
                if self._ask("GET", "/status")["ready"]:
                    return
            assert self._driver.poll() is None and time.monotonic() < end, "chromedriver does not come up"
            time.sleep(0.02)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        with self._namespace.entered():
            connection = http.client.HTTPConnection("127.0.0.1", DRIVER_PORT, timeout=60)
            connection.connect()
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value

    def do(self, command: str, **arguments: Any) -> Any:
        """One command of WebDriver, such as url or window/rect."""
        return self._ask("POST", f"/session/{self._session}/{command}", arguments)

    def devtools(self, command: str, **arguments: Any) -> Any:
        """One command of the Chrome DevTools protocol, such as Emulation.setEmulatedMedia."""
        return self.do("goog/cdp/execute", cmd=command, params=arguments)

    def open(self, url: str) -> None:
        self.do("url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.do("execute/sync", script=script, args=arguments)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def wait(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def width(self, pixels: int, height: int = 800) -> None:
        """As wide as a telephone, say. 0: as wide as its window again."""
        if pixels:
            self.devtools("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=True)
        else:
            self.devtools("Emulation.clearDeviceMetricsOverride")

    def scheme(self, name: str) -> None:
        """light or dark."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def complaints(self) -> List[str]:
        """What has come to the console since the last call: errors, warnings and all else."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.do("se/log", type="browser")]

    def requests(self) -> List[str]:
        """The URLs that pages have asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.do("se/log", type="performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def picture(self, most: int) -> bytes:
        """The page down to that height, as PNG."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, most), "scale": 1}
        return base64.b64decode(self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])
