# SPDX-License-Identifier: MIT-0
"""An appliance whose named network namespaces are not those of the host, so that tests with --netns meet no other's."""
import time
from pathlib import Path

import netns


class Appliance:
    """A network namespace with a mount namespace, and a /run/netns in that, for all that runs here."""

    def __init__(self, namespace: netns.Namespace):
        self._namespace = namespace
        # `ip netns exec` makes the mount namespace.
        self._keeper = namespace.start("sh", "-ec", "mount -t tmpfs none /run/netns; exec sleep infinity")
        comm = Path(f"/proc/{self._keeper.pid}/comm")
        while comm.read_text() != "sleep\n":
            time.sleep(0.01)

    def __getattr__(self, name):
        return getattr(self._namespace, name)

    def _inside(self, argv):
        return "nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", *argv

    def start(self, *argv, **options):
        return self._namespace.start(*self._inside(argv), **options)

    def run(self, *argv, **options):
        return self._namespace.run(*self._inside(argv), **options)

    def names(self):
        """The namespaces of endpoints."""
        return sorted(word for word in self.run("ip", "netns", "list").stdout.split() if word.startswith("vpce-"))

    def within(self, name: str, *argv, **options):
        """Runs a command in a named namespace; its result."""
        return self.run("ip", "netns", "exec", name, *argv, **options)
