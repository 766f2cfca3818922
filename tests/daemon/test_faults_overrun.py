# SPDX-License-Identifier: MIT-0
"""More happens to interfaces, addresses, settings and tables than the kernel has room to report: what is so then is seen."""
import contextlib
import re
import signal
import subprocess
import sys

import gwlb
import netns
from lab import APPLIANCE, PROGRAM, ROUTE
from test_faults_link import passes
from test_notes import up
from test_sources import LET_IN, PAYLOAD, PROBE, enis, local_user

ADDRESS = "192.0.2.77"
FORWARDING = "net.ipv4.ip_forward"
TABLE = 'nft add table inet "gwlbtun-${2#gwi-}"\n'

LITTLE_ROOM = """
import sys
sys.path.insert(0, {root!r})
from gwlbtun import cli, netlink
netlink.ROOM = 1
sys.exit(cli.main(sys.argv[1:]))
"""

FLOOD = "".join(f"link set lo alias a{number}\nroute replace 203.0.113.{number} dev lo\nroute del 203.0.113.{number} dev lo\n"
                f"address add 127.1.1.{number} dev lo\n" for number in range(1, 100))


@contextlib.contextmanager
def unheard(lab, daemon):
    """What happens within, the kernel does not report, as there is no room: for as long as gwlbtun stands still."""
    daemon.process.send_signal(signal.SIGSTOP)
    name = lab.appliance.name
    subprocess.run(["ip", "-n", name, "-force", "-batch", "-"], input=FLOOD, text=True, stderr=subprocess.DEVNULL)
    lab.appliance.run("nft", "".join(f"add table ip t{number};" for number in range(200)))
    lab.appliance.run("sh", "-c", "for n in $(seq 50); do echo $((n % 2)) >/proc/sys/net/ipv4/conf/lo/forwarding; done")
    yield
    daemon.process.send_signal(signal.SIGCONT)


def test_what_nobody_reports_is_seen_all_the_same(lab, tmp_path):
    program = tmp_path / "gwlbtun.py"
    program.write_text(LITTLE_ROOM.format(root=str(PROGRAM.parent)))
    lab.route()
    daemon = lab.start(hook=ROUTE + TABLE, command=[sys.executable, program])
    endpoint = lab.endpoint(expectation=gwlb.Forwarded())
    up(lab, daemon, endpoint)
    gwi, gwo = endpoint.gwi, endpoint.gwo
    table = f"gwlbtun-{gwi[4:]}"

    def says(pattern):
        assert lab.wait(lambda: re.search(pattern, daemon.log())), daemon.log()

    with netns.Namespace("elsewhere") as elsewhere:
        with unheard(lab, daemon):
            lab.appliance.ip("link set", gwo, "netns", elsewhere.name)
            lab.appliance.ip(f"address add {ADDRESS}/32 dev eth0")
            lab.appliance.run("nft", f"delete table inet {table}")
            lab.appliance.sysctl(f"net.ipv4.conf.{gwi}.rp_filter", 1)
            lab.appliance.sysctl(FORWARDING, 0)
        says("More has happened to interfaces at once than the kernel could report")
        says(f"Somebody has moved {gwo} to another network namespace")
        says(f"The nftables table inet {table} has been deleted")
        says(f"rp_filter of {gwi} had become 1. gwlbtun has set it to 0 again")
        assert lab.wait(lambda: [note.split(": ")[0] for note in daemon.health()["notes"]] == [f"{FORWARDING} has become 0"])
        local_user(lab, PAYLOAD, APPLIANCE, ADDRESS, "eth0")
        assert lab.wait(lambda: daemon.drops().get("source_own") == 1)
        with unheard(lab, daemon):
            elsewhere.ip("link set", gwo, "netns", lab.appliance.name)
            lab.appliance.ip("link set", gwo, "up")
            lab.appliance.ip(f"address del {ADDRESS}/32 dev eth0")
            lab.appliance.run("nft", f"add table inet {table}")
            lab.appliance.sysctl(FORWARDING, 1)
        says(f"{gwo} is in its network namespace again")
        says(f"{gwo} has been down, so Linux has removed its routes: gwlbtun makes it again")
        assert passes(lab, endpoint) and enis(daemon) == [endpoint.id]
        assert lab.wait(lambda: daemon.get()[0] == 200 and daemon.health()["notes"] == [])
        lab.balancer.transmit(ADDRESS, 4000, PROBE)
        assert lab.wait(lambda: daemon.drops().get(LET_IN) == 1), daemon.drops()
