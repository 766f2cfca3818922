# SPDX-License-Identifier: MIT-0
"""A daemon that is restarted in place, and traffic that goes on meanwhile."""
import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import packets
from lab import APPLIANCE, BALANCER, CLIENT, ENI, PASSTHROUGH, SERVER

STREAM = Path(__file__).with_name("stream.py")
COUNTING = PASSTHROUGH.replace("#!/bin/sh -e\n", '#!/bin/sh -e\necho "$1" >>"${0%/*}/ran"\n')


class Restartable:
    """A daemon with a file of options, which may change before a restart."""

    def __init__(self, lab, directory, *arguments, options="", **others):
        self.lab = lab
        self.directory = directory
        self.file = directory / "options"
        self.file.write_text(options)
        self.daemon = lab.start(f"@{self.file}", *arguments, **{"hook": COUNTING, **others})
        self.endpoint = lab.endpoint()
        self.numbers = iter(range(1, 60_000))

    def hang_up(self):
        self.daemon.process.send_signal(signal.SIGHUP)

    def told(self):
        return [line.partition("Restart in place: ")[2] for line in self.daemon.log().splitlines()
                if "Restart in place: " in line]

    def done(self):
        return sum("this is another program now" in line for line in self.told())

    def restart(self, options=None):
        """Returns when another program runs."""
        if options is not None:
            self.file.write_text(options)
        before = self.done()
        self.hang_up()
        assert self.lab.wait(lambda: self.done() > before or self.daemon.process.poll() is not None), self.daemon.log()
        assert self.daemon.process.poll() is None, self.daemon.log() + self.daemon.errors()

    def refuse(self, options=None):
        """Returns the line that says why there is no restart."""
        if options is not None:
            self.file.write_text(options)
        before, refused = self.done(), lambda: [line for line in self.told() if line.startswith("not now")]
        count = len(refused())
        self.hang_up()
        assert self.lab.wait(lambda: len(refused()) > count), self.daemon.log()
        assert self.done() == before
        return refused()[-1]

    def exchange(self, endpoint=None):
        """A packet of a new flow goes and returns."""
        endpoint = endpoint or self.endpoint
        packet, before = packets.udp(CLIENT[0], SERVER[0], next(self.numbers), 2, b"x"), len(endpoint.received)
        endpoint.send(packet)
        assert self.lab.wait(lambda: len(endpoint.received) > before), self.daemon.log()
        assert endpoint.received[-1] == packet

    def footprint(self):
        """Open descriptors, threads and memory in bytes, some time after a restart."""
        return self.daemon.descriptors(), len(self.daemon.threads()), self.daemon.memory()

    def ran(self):
        return (self.directory / "ran").read_text().split()

    def interfaces(self):
        links = self.lab.appliance.ip("-o link show type tun")
        return sorted(line.split(": ")[:2] for line in links.splitlines())


def patched(copy, name, old, new):
    """Makes the copy another program, with other text in one place. Returns the text that it had."""
    path = copy.parent / "gwlbtun" / "takeover" / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text


@contextlib.contextmanager
def streaming(lab, rate, flows=32, eni=ENI):
    """Traffic of a load balancer at that rate; yields a list that gets what has become of it."""
    process = lab.outside.start(sys.executable, STREAM, eni, rate, flows, BALANCER[1], APPLIANCE, stdin=subprocess.PIPE,
                                stderr=None)
    found = []
    try:
        assert process.stdout.readline() == b"streams\n"
        yield found
        process.stdin.write(b"\n")
        process.stdin.flush()
        found.append(json.loads(process.communicate(timeout=60)[0]))
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def again_and_again(act, pause_s):
    """While it is entered, something is done with pauses, in another thread."""
    over = threading.Event()

    def go_on():
        while not over.wait(pause_s):
            act()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
