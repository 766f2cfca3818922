# SPDX-License-Identifier: MIT-0
"""A machine to run the demo on: network, mounts and /run of its own, so that all that is left there can be told."""
import os
import subprocess
import sys
import uuid
from pathlib import Path

from command import PROGRAM

MARK = "GWLBTUN_TEST_MACHINE"  # what every process that the demo starts has in its environment

FURNISH = """
mount -t tmpfs none /run
mkdir -p /run/systemd/system
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add 198.51.100.10/24 dev eth0
ip link set eth0 up
ip route add default via 198.51.100.1
nft add table inet host
nft add chain inet host forward '{ type filter hook forward priority filter; policy drop; }'
"""

SHOW = """
ip -br link; ip -br address; ip rule; ip route show table all; ip -6 rule; nft list ruleset; iptables-save -c | grep -v ^#
sysctl -a -r '^net[.]' 2>/dev/null | grep -v conntrack_count
ip netns list; find /run -mindepth 1 -not -path /run/netns; ls "$TMPDIR"
"""


class Machine:
    """Hold it by one process; commands run beside that."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.environment = {**os.environ, MARK: uuid.uuid4().hex, "TMPDIR": str(directory)}
        self.started = []
        self._holder = subprocess.Popen(["unshare", "--mount", "--net", "sh", "-ec", FURNISH + "echo; exec sleep infinity"],
                                        stdout=subprocess.PIPE)
        assert self._holder.stdout.readline() == b"\n"
        self._before = self._state()

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for pid in self.processes():
            os.kill(pid, 9)
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()

    def inside(self, *argv) -> list:
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--", *map(str, argv)]

    def run(self, *argv, **options) -> subprocess.CompletedProcess:
        return subprocess.run(self.inside(*argv), **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True,
                              "stderr": subprocess.PIPE, "check": False, "timeout": 60, "env": self.environment, **options})

    def demo(self, *arguments, program=PROGRAM, **options) -> subprocess.CompletedProcess:
        return self.run(sys.executable, program, "demo", *arguments, **options)

    def start(self, *arguments, **options) -> subprocess.Popen:
        process = subprocess.Popen(self.inside(sys.executable, PROGRAM, "demo", *arguments), **{
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
            "env": self.environment, "start_new_session": True, **options})
        self.started.append(process)
        return process

    def names(self) -> list:
        """Of the network namespaces."""
        return [line.split()[0] for line in self.run("ip", "netns", "list").stdout.splitlines()]

    def processes(self) -> list:
        """That a demo has started, and that still run."""
        found = []
        mark = f"{MARK}={self.environment[MARK]}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                pass
        return found

    def _state(self) -> list:
        return self.run("sh", "-c", SHOW).stdout.splitlines()

    def is_as_before(self) -> bool:
        """Fails with the difference."""
        assert self._state() == self._before
        assert self.processes() == []
        return True
