# SPDX-License-Identifier: MIT-0
"""Network namespaces of tests, as gwlbtun.demo makes them: named after the test run, with the kernel's counters."""
import itertools
import os
import re
from typing import Dict

from gwlbtun.demo import netns
from gwlbtun.demo.netns import ip, link, remove, run  # noqa: F401

PREFIX = "gwt"

_numbers = itertools.count()


class Namespace(netns.Namespace):
    """A network namespace with loopback up, gone with its processes at close()."""

    def __init__(self, label: str):
        super().__init__(f"{PREFIX}-{os.getpid()}-{next(_numbers)}-{label}")

    def counter(self, name: str) -> int:
        """One of the kernel's SNMP counters, as nstat names them: UdpInErrors, Udp6InCsumErrors."""
        found = re.search(rf"^{name} +(\d+)", self.run("nstat", "-asz", name).stdout, re.MULTILINE)
        return int(found.group(1))

    def checksum_errors(self) -> Dict[str, str]:
        """How many packets the kernel found with a wrong checksum, by counter; those of 0 are left out."""
        found = re.findall(r"^(\w+InCsumErrors) +(\d+)", self.run("nstat", "-asz", "*InCsumErrors").stdout, re.MULTILINE)
        assert {"TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"} <= dict(found).keys()
        return {name: count for name, count in found if count != "0"}


def sweep() -> None:
    """Removes what test runs that were killed have left behind."""
    for line in ip("netns list").splitlines():
        name = line.split()[0]
        owner = re.match(rf"{PREFIX}-(\d+)-", name)
        if owner and not os.path.exists(f"/proc/{owner.group(1)}"):
            remove(name)
