# SPDX-License-Identifier: MIT-0
"""The lab: two network namespaces joined by a veth pair, the generator in one, a handler in the other.

The generator's device has two addresses. The load comes from the first. The host's neighbour entry for it names a MAC
address that nobody has, so the kernel drops what returns there at its first look. On a veth pair that look takes time of
the handler's core, which is the one being measured. The device still counts every frame. The kernel delivers what returns
to the second address, that of the probes.
"""
import json
import os
import subprocess

from processes import run

SOURCE, HOST, PROBE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
NOBODY = "02:00:00:00:00:01"
LINK_MTU = 9001


class Bed:
    """The namespaces and the link between them."""

    def __init__(self) -> None:
        self.balancer = f"gwt-{os.getpid()}-lb"
        self.host = f"gwt-{os.getpid()}-host"
        self.host_mac = ""
        self.probe_mac = ""  # of the generator's device, which gets what returns to the address of the probes

    def __enter__(self) -> "Bed":
        try:
            for name in (self.balancer, self.host):
                run("ip", "netns", "add", name)
                # No neighbour discovery may mix with the frames that are counted.
                run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
                run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", self.balancer, "link", "add", "gwlb", "type", "veth", "peer", "name", "uplink", "netns", self.host)
            for name, device in ((self.balancer, "gwlb"), (self.host, "uplink")):
                run("ip", "-n", name, "link", "set", device, "mtu", str(LINK_MTU), "up")
            for address in (SOURCE, PROBE):
                run("ip", "-n", self.balancer, "addr", "add", f"{address}/24", "dev", "gwlb")
            run("ip", "-n", self.host, "addr", "add", f"{HOST}/24", "dev", "uplink")
            self.host_mac = self._mac(self.host, "uplink")
            self._neighbour(self.balancer, "gwlb", HOST, self.host_mac)
            self._neighbour(self.host, "uplink", SOURCE, NOBODY)
            self.probe_mac = self._mac(self.balancer, "gwlb")
            self._neighbour(self.host, "uplink", PROBE, self.probe_mac)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.balancer, self.host):
            subprocess.run(["ip", "netns", "del", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def segment_before_counting(self, on: bool) -> None:
        """Makes the host's device cut super-packets before it hands them over, so that each packet is counted as a frame."""
        self._cut(self.host, "uplink", on)

    def segment_before_arrival(self, on: bool) -> None:
        """Makes the generator's device cut super-packets, on the generator's core, so that they arrive as single datagrams."""
        self._cut(self.balancer, "gwlb", on)

    def steer(self, core: int) -> None:
        """Has the kernel receive what comes to the host on this core (RPS), not on the generator's."""
        run("ip", "netns", "exec", self.host, "sh", "-c", f"echo {1 << core:x} > /sys/class/net/uplink/queues/rx-0/rps_cpus")

    def steer_no_more(self) -> None:
        run("ip", "netns", "exec", self.host, "sh", "-c", "echo 0 > /sys/class/net/uplink/queues/rx-0/rps_cpus")

    @staticmethod
    def _cut(namespace: str, device: str, on: bool) -> None:
        run("ip", "-n", namespace, "link", "set", device, "gso_max_segs", "1" if on else "65535")

    @staticmethod
    def _mac(namespace: str, device: str) -> str:
        return json.loads(run("ip", "-n", namespace, "-j", "link", "show", device))[0]["address"]

    @staticmethod
    def _neighbour(namespace: str, device: str, address: str, mac: str) -> None:
        run("ip", "-n", namespace, "neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent")
