# SPDX-License-Identifier: MIT-0
"""Checks of what gwlbtun itself needs to start: Python, the shim, TUN, capabilities, its ports, its hooks."""
import os
import platform
import re
import socket
from typing import Iterator, Tuple

from .. import StartError, __version__, fastpath, netns, privilege, tun, web
from ..geneve import PORT
from ..kernel import wanted
from ..settings import Settings
from ..shim import Shim
from .finding import Finding, Verdict, output, read

_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
_HOLDER = re.compile(r'\(\("([^"]*)",pid=([0-9]+)')


def findings(settings: Settings) -> Iterator[Finding]:
    yield Finding(Verdict.OK, "gwlbtun", f"{__version__}, on Python {platform.python_version()} and Linux {platform.release()}")
    yield _shim()
    yield from _capabilities()
    if settings.netns:
        yield _namespaces()
    yield from _tun(settings)
    yield from _kernel_path(settings)
    yield _geneve_port()
    yield from _health_port(settings)
    yield _receive_buffer(settings)
    yield from _hooks(settings)


def _shim() -> Finding:
    try:
        Shim()
    except StartError as error:
        return Finding(Verdict.FAIL, "shim", str(error))
    return Finding(Verdict.OK, "shim", "loads, and fits this program")


def _capabilities() -> Iterator[Finding]:
    if not privilege.permitted(privilege.CAP_NET_ADMIN):
        yield Finding(Verdict.FAIL, "capabilities", "CAP_NET_ADMIN is missing",
                      "run gwlbtun as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN")
    elif not privilege.permitted(privilege.CAP_NET_RAW):
        yield Finding(Verdict.WARN, "capabilities", "CAP_NET_RAW is missing: what must leave by a port that another program "
                      "holds is dropped", "give the unit AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW")
    else:
        yield Finding(Verdict.OK, "capabilities", "CAP_NET_ADMIN and CAP_NET_RAW are there")


def _namespaces() -> Finding:
    try:
        netns.try_out()
    except StartError as error:
        return Finding(Verdict.FAIL, "namespaces", str(error))
    return Finding(Verdict.OK, "namespaces", "can be made, for --netns")


def _tun(settings: Settings) -> Iterator[Finding]:
    try:
        granted = tun.probe(settings.offload)
    except StartError as error:
        yield Finding(Verdict.FAIL, "TUN", str(error))
        return
    yield Finding(Verdict.OK, "TUN", "/dev/net/tun makes interfaces")
    names = {"TCP super-packets to TUN": ("tun", fastpath.OFFLOAD_MERGE_TCP),
             "UDP super-packets to TUN (Linux 6.2)": ("tun", fastpath.OFFLOAD_MERGE_UDP),
             "UDP_SEGMENT": ("udp-gso", fastpath.OFFLOAD_UDP_GSO)}
    lacking = [name for name, (option, bit) in names.items() if option in settings.offload and not granted & bit]
    if lacking:
        yield Finding(Verdict.WARN, "offloads", f"this kernel lacks {', '.join(lacking)}: bulk traffic costs more",
                      "use a newer kernel")
    else:
        yield Finding(Verdict.OK, "offloads", "the kernel has all that are asked for")


def _kernel_path(settings: Settings) -> Iterator[Finding]:
    if settings.kernel_path == "off":
        return
    found, subject = wanted.look(settings), "kernel path"
    if found.works:
        yield Finding(Verdict.OK, subject, "packets of known flows can stay in the kernel"
                      + ("" if found.ipv6 else ", but for those of IPv6, which takes Linux 6.3"))
    elif settings.kernel_path == "require":
        yield Finding(Verdict.FAIL, subject, f"--kernel-path require: {found.reason}", "give --kernel-path auto, or see to it")
    elif wanted.unwanted(settings):
        yield Finding(Verdict.OK, subject, f"threads carry all packets: {found.reason}")
    else:
        yield Finding(Verdict.WARN, subject, f"threads carry all packets, at a price: {found.reason}")


def _geneve_port() -> Finding:
    subject = f"UDP {PORT}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", PORT))
        except OSError as error:
            return _taken(subject, f"sport = :{PORT}", "-lunpH", error.strerror or str(error),
                          f"end what uses it; if ss names nothing, `ip -d link | grep -B2 {PORT}` shows the kernel's")
    return Finding(Verdict.OK, subject, "is free")


def _health_port(settings: Settings) -> Iterator[Finding]:
    address = settings.health_port
    if address is None:
        yield Finding(Verdict.WARN, "health port", "there is none: the load balancer's target group needs one",
                      "give -p 8080, and let TCP 8080 in from the load balancer's subnets")
        return
    subject = f"TCP {address.port}"
    try:
        web.listen(address).close()
    except StartError as error:
        yield _taken(subject, f"sport = :{address.port}", "-ltnpH", str(error), "")
        return
    yield Finding(Verdict.OK, subject, "is free for health checks")


def _taken(subject: str, selector: str, options: str, fault: str, remedy: str) -> Finding:
    found = _HOLDER.search(output("ss", options, selector) or "")
    holder = f"process {found[2]} ({found[1]})" if found else ""
    if found and _is_gwlbtun(found[2]):
        return Finding(Verdict.OK, subject, f"belongs to gwlbtun, which runs as {holder}")
    return Finding(Verdict.FAIL, subject, f"{holder + ' has it: ' if holder else ''}{fault}", remedy)


def _is_gwlbtun(pid: str) -> bool:
    return (read(f"/proc/{pid}/comm") or "").startswith("gwlbtun")


def _receive_buffer(settings: Settings) -> Finding:
    asked = settings.rcvbuf_mb << 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            try:
                probe.setsockopt(socket.SOL_SOCKET, option, asked)
                break
            except OSError:  # without CAP_NET_ADMIN
                continue
        granted = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if granted < asked:
        return Finding(Verdict.WARN, "receive buffer", f"the kernel grants {granted >> 10} KB of {settings.rcvbuf_mb} MB: "
                       "bursts may be lost", f"sysctl -w net.core.rmem_max={asked}")
    return Finding(Verdict.OK, "receive buffer", f"the kernel grants {settings.rcvbuf_mb} MB for each receiver")


def _hooks(settings: Settings) -> Iterator[Finding]:
    hooks: Tuple[Tuple[str, object], ...] = (("create hook", settings.create_hook), ("destroy hook", settings.destroy_hook))
    for subject, hook in hooks:
        if hook:
            yield Finding(Verdict.OK, subject, f"{hook} can be run")
    if not settings.create_hook:
        yield Finding(Verdict.WARN, "create hook", "there is none: packets come in, and nothing sends them back",
                      f"give -c FILE, such as {os.path.join('example-scripts', 'create-passthrough.sh')}")
