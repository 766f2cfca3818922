# SPDX-License-Identifier: MIT-0
"""The hook scripts of example-scripts/, and what their tests stand on.

A script is run by itself in an Instance: a namespace that looks like one, with TUN interfaces whose other end a Stub holds
where gwlbtun would. Or it is run in gwlbtun, with hosts and a load balancer around it.
"""
import contextlib
import fcntl
import http.client
import http.server
import os
import random
import re
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

import pytest

import gwlb
import netns
from lab import CLIENT, ENI, SERVER

SCRIPTS = Path(__file__).resolve().parents[2] / "example-scripts"
HOOKS = sorted(path.name for path in SCRIPTS.glob("create-*.sh"))
FORWARDING = "create-route.sh", "create-overlapping-v4.sh", "create-firewall.sh"
NAT = "create-nat.sh", "create-nat-overlapping.sh"
NUMBERED = sorted(set(HOOKS) - {"create-passthrough.sh"})

FIRST, SECOND = ENI, 0x076BC493B822CD32

HOST = "198.51.100.10", "2001:db8:100::10"     # the host's own addresses, on eth0
WORLD = "198.51.100.1", "2001:db8:100::1"      # its default gateway
OUTSIDE = "203.0.113.80", "2001:db8:200::80"   # a server out there, behind the gateway

# <linux/if_tun.h>
IFF_MULTI_QUEUE = 0x0100

CLIENT4_TO_SERVER = CLIENT[0], SERVER[0]
CLIENT6_TO_SERVER = CLIENT[1], SERVER[1]

VERSIONS = pytest.mark.parametrize("version", [4, 6])

CONTENT = {eni: random.Random(eni).randbytes(1_000_000) for eni in (FIRST, SECOND)}


def pick(addresses, version):
    return addresses[version == 6]


def client_to_server(version):
    return pick(CLIENT, version), pick(SERVER, version)


class Returned(NamedTuple):
    side: str
    packet: bytes


class Stub:
    """The interfaces of one endpoint, and what gwlbtun does with them: packets go in at gwi, and come out of both."""

    def __init__(self, namespace: netns.Namespace, eni: int):
        self.namespace = namespace
        self.eni = eni
        name = gwlb.base60(eni)
        self.gwi, self.gwo = "gwi-" + name, "gwo-" + name
        self.fds = {"gwi": self._open(self.gwi), "gwo": self._open(self.gwo)}

    def _open(self, name: str) -> int:
        with self.namespace.entered():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, gwlb.TUNSETIFF,
                        struct.pack("16sH22x", name.encode(), gwlb.IFF_TUN | gwlb.IFF_NO_PI | IFF_MULTI_QUEUE))
        self.namespace.ip("link set", name, "mtu", gwlb.MTU, "up")
        return fd

    def close(self) -> None:
        """The interfaces go, as when gwlbtun dies."""
        while self.fds:
            os.close(self.fds.popitem()[1])

    def hook(self, script: str, action: str) -> str:
        """Runs it; it must end well and have nothing to say."""
        done = self.namespace.run(SCRIPTS / script, action, self.gwi, self.gwo, f"{self.eni:017x}")
        assert done.stdout + done.stderr == ""

    def send(self, packet: bytes) -> None:
        os.write(self.fds["gwi"], packet)

    def receive(self, timeout: float = 5) -> Optional[Returned]:
        """The next packet that Linux sends to the endpoint, with the side it came out of; None: there is none in time.

        Multicast is left out: Linux joins groups of its own accord.
        """
        end = time.monotonic() + timeout
        while True:
            ready = select.select(list(self.fds.values()), [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                return None
            for side, fd in self.fds.items():
                if fd in ready:
                    packet = os.read(fd, 65535)
                    if not gwlb.is_multicast(packet):
                        return Returned(side, packet)

    def silent(self) -> bool:
        """Nothing comes, however long one waits; one waits a little."""
        return self.receive(0.2) is None


def connect_to_world(namespace: netns.Namespace, name: str, world: netns.Namespace) -> None:
    """Gives a namespace an interface with a default route into the world, where a server has its addresses."""
    netns.link(namespace, name, world, "inner")
    for own, gateway, outside, length in zip(HOST, WORLD, OUTSIDE, (24, 64)):
        namespace.ip("address add", f"{own}/{length}", "dev", name)
        world.ip("address add", f"{gateway}/{length}", "dev inner")
        world.ip("address add", outside, "dev lo")
        namespace.ip("route add default via", gateway)


class Instance:
    """A host such as the scripts are for, with one interface besides the endpoints', and the world behind that."""

    def __init__(self, stack: contextlib.ExitStack):
        self.namespace = stack.enter_context(netns.Namespace("host"))
        self.world = stack.enter_context(netns.Namespace("world"))
        connect_to_world(self.namespace, "eth0", self.world)
        self._stubs: List[Stub] = []

    def endpoint(self, eni: int = FIRST) -> Stub:
        stub = Stub(self.namespace, eni)
        self._stubs.append(stub)
        return stub

    def close(self) -> None:
        for stub in self._stubs:
            stub.close()

    def numbers(self) -> dict:
        """The number of each endpoint, by its gwi."""
        rules = self.namespace.ip("rule")
        return {gwi: int(number) for number, gwi in re.findall(r"^(\d+):.* iif (\S+)", rules, re.MULTILINE)}


def two_endpoints(instance: Instance, script: str) -> List[Stub]:
    stubs = [instance.endpoint(eni) for eni in (FIRST, SECOND)]
    for stub in stubs:
        stub.hook(script, "CREATE")
    return stubs


def state(namespace: netns.Namespace) -> dict:
    """All that a hook might have changed, by the command that shows it."""
    shown = {}
    commands = ("ip -d rule", "ip -6 -d rule", "ip route show table all", "ip -6 route show table all", "ip address",
                "nft list ruleset", "iptables-save", "ip6tables-save", "tc qdisc", "sysctl -a -r ^net[.]")
    outputs = namespace.run("sh", "-ec", "; echo '===='; ".join(commands)).stdout.split("====\n")
    for command, output in zip(commands, outputs):
        # Without what counts by itself, and what the interface takes with it.
        shown[command] = "\n".join(
            line for line in output.splitlines()
            if not re.search(r"^#|conntrack_count|gwi-\w+\.(rp_filter|forwarding) = ", line))
    shown["/run"] = sorted(str(path) for path in Path("/run").glob("*/*gwlbtun*"))
    return shown


def without_interfaces(shown: dict) -> dict:
    return {key: value for key, value in shown.items() if key not in ("ip address", "tc qdisc")}


def sysctls(namespace: netns.Namespace) -> dict:
    lines = namespace.run("sysctl", "-a", "-r", "^net[.]").stdout.splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)


def turn_on(namespace: netns.Namespace) -> None:
    """All that hooks turn on for the whole host is on already."""
    for name in "ipv4.ip_forward", "ipv6.conf.all.forwarding", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect":
        namespace.sysctl(f"net.{name}", 1)


class Web:
    """An HTTP server in a namespace, on both families; it remembers who asked, and at which address."""

    def __init__(self, namespace: netns.Namespace, content: bytes, port: int = 80):
        self.asked = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                asked.append((self.client_address[:2], self.request.getsockname()[:2]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        with namespace.entered():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        self._server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def connect(host: gwlb.Host, address: str, port: int = 80, own_port: int = 0, timeout: float = 60):
    """An HTTP connection that stands, from a port that others may share."""
    version = 6 if ":" in address else 4
    with host.namespace.entered():
        tcp = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.settimeout(timeout)
    try:
        tcp.bind((host.address(version), own_port))
        tcp.connect((address, port))
    except OSError:
        tcp.close()
        raise
    connection = http.client.HTTPConnection(address, port)
    connection.sock = tcp
    return connection


def get(connection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def ping(host: gwlb.Host, address: str) -> None:
    """The first packet waits for the hook."""
    host.namespace.run("ping", "-c2", "-i0.02", "-W60", address)


def start(lab, script: str, *arguments):
    return lab.start("-c", SCRIPTS / script, "-r", SCRIPTS / script, *arguments, hook=None)


def of_hooks(daemon) -> List[str]:
    """What its log says of hooks, but for those that the host was too slow for."""
    return [line for line in daemon.log().splitlines() if "hook" in line and "has been running for" not in line]


@contextlib.contextmanager
def nothing_left_behind(lab, script: str):
    """Runs a daemon with the script, whose hooks end well and leave the appliance as it was."""
    before = state(lab.appliance)
    daemon = start(lab, script)
    yield daemon
    assert daemon.stop() == 0
    assert not of_hooks(daemon), daemon.log()
    assert without_interfaces(state(lab.appliance)) == without_interfaces(before)


@contextlib.contextmanager
def world_outside(lab):
    """The appliance has a second interface, by which its default route leads to a server outside."""
    with netns.Namespace("world") as world:
        connect_to_world(lab.appliance, "eth1", world)
        yield world
