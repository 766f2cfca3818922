# SPDX-License-Identifier: MIT-0
"""A daemon that is restarted in place while flows of it take the kernel."""
import itertools
import os

from carrying import Carrying
from restarts import Restartable, again_and_again, patched

import packets

BEAT_S = 0.02  # between two packets of a flow


class Restarting(Carrying, Restartable):
    """One endpoint that Linux routes, whose flows take the kernel, and a file of options, which may change before a restart."""

    def __init__(self, lab, directory, *arguments, options="", **others):
        self.directory = directory
        self.file = directory / "options"
        self.file.write_text(options)
        lab.one_wire()
        Carrying.__init__(self, lab, f"@{self.file}", *arguments, **others)

    def is_replaced(self):
        """Whether the old program has gone, and the new one has yet to begin: it has no thread but the first."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/task")) == 1

    def begin(self):
        """Has the new program begin (see slowed), and returns when it runs."""
        (self.directory / "go").touch()
        assert self.lab.wait(lambda: self.done() == 1)

    def traffic(self, flows=4, first=3000):
        """Within it, packets of some flows go both ways, with pauses in which they may change over to the kernel."""
        replies = itertools.cycle((False, True))

        def send():
            reply = next(replies)
            for index in range(flows):
                self.endpoint.send(self.packet(port=first + index, reply=reply))
                self.sent += 1
        return again_and_again(send, BEAT_S)

    def in_order(self):
        """Whether of each flow and direction packets have come back in the order in which they were sent."""
        newest = {}
        for packet in self.endpoint.received:
            ends, number = packets.flow_key(packet)[2:], int(packet[28:])
            ends += packet[12:20],
            if newest.get(ends, -1) >= number:
                return False
            newest[ends] = number
        return True


def slowed(copy, directory):
    """Has the program of a copy wait for the file `go` before it begins after a restart in place."""
    begin = '    if not text:\n        return {}, ""\n'
    patched(copy, "state.py", begin, f"""{begin}    import time
    end = time.monotonic() + 60
    while not os.path.exists({str(directory / "go")!r}) and time.monotonic() < end:
        time.sleep(0.01)
""")
