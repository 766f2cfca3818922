#!/usr/bin/env python3
# SPDX-License-Identifier: MIT-0
"""The floor of the path in the kernel, at work until a signal ends it: path_floor.py PROGRAMS HOOK UPLINK GATEWAY.

PROGRAMS is what is in bench/bpf/, compiled (`make path-floor`), GATEWAY the Ethernet address to which packets return.
"""
import pathlib
import signal
import socket
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gwlbtun.kernel import attach, bpf, programs  # noqa: E402
from gwlbtun.tun import Device  # noqa: E402

GWI, GWO = "gwi-floor", "gwo-floor"
ETHERTYPE_IPV4 = b"\x08\x00"


def main() -> None:
    text, hook, uplink, gateway = sys.argv[1:]
    devices = [Device(name, 1, 0, None) for name in (GWI, GWO)]
    for device in devices:
        device.up()
    subprocess.run([hook, "CREATE", GWI, GWO, "floor"], check=True)
    index = socket.if_nametoindex(uplink)
    own = pathlib.Path(f"/sys/class/net/{uplink}/address").read_text(encoding="ascii").strip()
    way = bpf.map_create(bpf.ARRAY, 4, 24, 1, 0, "way_map")
    link = b"".join(bytes.fromhex(address.replace(":", "")) for address in (gateway, own)) + ETHERTYPE_IPV4
    bpf.map_update(way, bytes(4), struct.pack("=II14s2x", devices[0].index, index, link))
    made = programs.parse(pathlib.Path(text).read_text(encoding="ascii"))
    held = [attach.attach(at, place, programs.load_any(made[name], name, {"way_map": way}))
            for name, at, place in (("floor_in", index, attach.Place.INGRESS),
                                    ("floor_out", devices[1].index, attach.Place.EGRESS))]
    signal.sigwait({signal.SIGTERM})
    for attachment in held:
        attachment.detach()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
