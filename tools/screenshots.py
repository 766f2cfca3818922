#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""Makes the pictures of the page at /status that the documents show: docs/status-light.png, -dark.png and -phone.png.

A daemon runs in a network namespace with some endpoints and traffic, for two minutes, until the charts are full. It needs
root and the packages of the tests; pngquant makes the files smaller where it is installed.

Usage: sudo tools/screenshots.py [DIRECTORY]
"""
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, List

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT)]

import packets  # type: ignore[import-not-found]  # noqa: E402
from browser import Browser  # type: ignore[import-not-found]  # noqa: E402
from lab import CLIENT, HEALTH_PORT, SERVER, Lab  # type: ignore[import-not-found]  # noqa: E402

SECONDS = 125
ENDPOINTS = 0x0A1B7F3C52D9E8461, 0x04E2D90B6C7A15F38, 0x0F86A3D1247B9C05E, 0x0C3957E8A4B1D620F, 0x07D5B18F93C2E4A6B
STRANGER = 0x0BAD0BAD0BAD0BAD0


def settings() -> List[str]:
    allowed = ",".join(f"vpce-{eni:017x}" for eni in ENDPOINTS)
    return ["--udpthreads", "2", "--tunthreads", "2", "--allow-endpoint", allowed]


def send_some(endpoints: List[Any], seconds: float, chance: random.Random) -> None:
    """What each endpoint has in a fiftieth of a second; they rise and fall at paces of their own."""
    for index, endpoint in enumerate(endpoints):
        wave = 1 + 0.7 * math.sin(seconds / (7 + 4 * index)) + 0.2 * math.sin(seconds / 1.7 + index)
        for _ in range(int(6 * wave * chance.uniform(0.8, 1.2) / (1 + 0.6 * index))):
            port = 1024 + chance.randrange(200 >> index)
            size = chance.choice((60, 200, 1200, 1400, 1400))
            make = packets.tcp if chance.random() < 0.8 else packets.udp
            family = chance.random() < 0.3
            endpoint.send(make(CLIENT[family], SERVER[family], port, 443, payload=bytes(size)))


def run_traffic(lab: Any, done: threading.Event) -> None:
    endpoints = [lab.endpoint(eni) for eni in ENDPOINTS]
    stranger = lab.balancer.endpoint(STRANGER)
    chance = random.Random(6081)
    begin = time.monotonic()
    while not done.wait(0.02):
        send_some(endpoints, time.monotonic() - begin, chance)
        if chance.random() < 0.02:
            stranger.send(packets.udp(CLIENT[0], SERVER[0], 1, 2))
            lab.emit(endpoints[0].gwo, packets.udp("10.0.9.9", "10.0.9.8", 5353, 5353))


def take_pictures(browser: Any, directory: Path) -> None:
    for name, width, most, scheme in (("light", 0, 2000, "light"), ("dark", 0, 2000, "dark"), ("phone", 390, 1500, "dark")):
        if width:
            browser.width(width)
        browser.scheme(scheme)
        time.sleep(2)  # until it has been drawn anew
        picture = directory / f"status-{name}.png"
        picture.write_bytes(browser.picture(most))
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--strip", "--output", picture, "64", picture], check=True)
        print(f"{picture}: {picture.stat().st_size} bytes")


def main(arguments: List[str]) -> int:
    directory = Path(arguments[0]) if arguments else ROOT / "docs"
    if os.geteuid():
        print("screenshots.py: it makes network namespaces: run it as root", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(Path(scratch))
        try:
            daemon = lab.start(*settings())
            with Browser(lab.appliance, width=1200) as browser:
                browser.open(f"http://localhost:{HEALTH_PORT}/status")
                done = threading.Event()
                traffic = threading.Thread(target=run_traffic, args=(lab, done))
                traffic.start()
                try:
                    time.sleep(SECONDS)
                    take_pictures(browser, directory)
                finally:
                    done.set()
                    traffic.join()
            return daemon.stop()
        finally:
            lab.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
