# SPDX-License-Identifier: MIT-0
"""What the demo shows: a client and a server, a load balancer between them, and an appliance that runs gwlbtun.

    client --TUN--> load balancer --veth, Geneve--> appliance: gwlbtun --> gwi --> nftables --> gwo --> gwlbtun --> ...

Each is a network namespace. The load balancer and the servers are threads of this process, gwlbtun is a process of its own,
as everywhere. The appliance has a /run/systemd of its own, so a hook leaves no word there for the host's systemd.
"""
import contextlib
import http.client
import json
import os
import pkgutil
import signal
import subprocess
import time
from typing import Any, Dict, List

from .. import StartError, identity, installation
from . import netns
from .balancer import Balancer
from .host import Host
from .servers import Page, Sink
from .signals import Signals
from .workplace import Workplace

HOOK = "create-firewall.sh"
HOOK_FILES = HOOK, "common.sh", "firewall.nft"  # in hook/: links to example-scripts/

CLIENT, SERVER = "10.0.1.2", "10.0.2.2"
BALANCER, APPLIANCE = "192.0.2.1", "192.0.2.10"
ENI = 0x0123456789ABCDEF0
HEALTH_PORT = 8080
OPEN_PORT, BULK_PORT, CLOSED_PORT = 80, 443, 8080  # by what firewall.nft lets through

READY_S, ANSWER_S, STOP_S = 20.0, 5.0, 20.0
POLL_S = 0.02
LOG_LINES = 8

# Hooks leave a drop-in for systemd where there is one; and what systemd told this process about itself is not for gwlbtun.
START = '[ ! -d /run/systemd ] || mount -n -t tmpfs none /run/systemd; exec "$@"'
OF_SYSTEMD = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"

GWI = "gwi-" + identity.base60(ENI)
TABLE = f"gwlbtun-{identity.base60(ENI)}"  # of nftables, as the hooks name it

Health = Dict[str, Any]


class Scene:
    """All of it: build(), start(), and close() also where those have failed. Signals are looked at while it waits."""

    def __init__(self, place: Workplace, signals: Signals):
        self.signals = signals
        self._place = place
        self._stack = contextlib.ExitStack()

    def build(self) -> None:
        """Everything but gwlbtun. Raises StartError where the host does not let it."""
        try:
            roles = [self._stack.enter_context(self._place.namespace(role))
                     for role in ("balancer", "appliance", "client", "server")]
        except (RuntimeError, OSError) as error:
            raise StartError(f"no network namespace can be made here: {one_line(error)}. In a container, it takes "
                             "CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged)") from None
        outside, self.appliance, self.client, self.server = roles
        try:
            self._connect(outside)
        except (RuntimeError, OSError) as error:
            raise StartError(f"the demo cannot be set up: {one_line(error)}") from None

    def _connect(self, outside: netns.Namespace) -> None:
        for scope in "all", "default":
            self.appliance.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
            with contextlib.suppress(FileNotFoundError):  # with IPv6, Linux has something to say on each new interface
                self.appliance.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
        netns.link(outside, "eth0", self.appliance, "eth0")
        outside.ip("address add", f"{BALANCER}/24", "dev eth0")
        self.appliance.ip("address add", f"{APPLIANCE}/24", "dev eth0")
        self.balancer = self._stack.enter_context(Balancer(outside, [BALANCER], APPLIANCE))
        self.endpoint = self.balancer.endpoint(ENI)
        self.endpoint.attach(Host(self.client, [CLIENT]))
        self.endpoint.attach(Host(self.server, [SERVER]))
        for port, text in (OPEN_PORT, "The firewall lets this page through.\n"), (CLOSED_PORT, "Nobody outside sees this.\n"):
            self._stack.enter_context(contextlib.closing(Page(self.server, SERVER, port, text)))
        self.sink = self._stack.enter_context(contextlib.closing(Sink(self.server, SERVER, BULK_PORT)))

    # ---- gwlbtun -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts gwlbtun; wait() for it."""
        for name in HOOK_FILES:
            text = pkgutil.get_data(__package__, f"hook/{name}")
            assert text is not None
            with open(self._place.path(name), "wb") as file:
                file.write(text)
        hook = f"sh {self._place.path(HOOK)}"
        arguments = ["-c", hook, "-r", hook, "--allow-from", BALANCER, "-p", f"127.0.0.1:{HEALTH_PORT}",
                     "--control", self._place.path("control/control.sock")]  # it locks its directory, and we lock ours
        os.mkdir(self._place.path("control"), 0o700)
        environment = {name: value for name, value in os.environ.items() if name not in OF_SYSTEMD}
        with open(self._place.path("gwlbtun.log"), "wb") as log:
            self._process = self.appliance.start(
                "sh", "-c", START, "sh", *installation.command(), *arguments,
                stdout=log, stderr=log, env=environment, start_new_session=True)
        self._stack.callback(self._stop)

    def wait(self) -> None:
        """Until it answers. Raises StartError, and Interrupted."""
        end = time.monotonic() + READY_S
        while True:
            self.signals.check()
            try:
                self.health()
                return
            except StartError:
                if self._process.returncode is not None or time.monotonic() > end:
                    raise
            time.sleep(POLL_S)

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def health(self) -> Health:
        """What gwlbtun says of itself. Raises StartError when it says nothing."""
        try:
            with self.appliance.entered():
                connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=ANSWER_S)
                connection.connect()
            with contextlib.closing(connection):
                connection.request("GET", "/json")
                answer: Health = json.loads(connection.getresponse().read())
                return answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._process.poll() is not None:
                raise StartError(f"has ended with status {self._process.returncode}") from None
            raise StartError(f"does not answer: {one_line(error)}") from None

    def cpu_s(self) -> float:
        """Processor time that gwlbtun has taken. Raises StartError."""
        try:
            with open(f"/proc/{self._process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            raise StartError("has ended") from None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_end(self) -> List[str]:
        """The last lines that gwlbtun has written."""
        with open(self._place.path("gwlbtun.log"), encoding="ascii", errors="backslashreplace") as file:
            return file.read().splitlines()[-LOG_LINES:]

    def close(self) -> None:
        self._stack.close()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
