# SPDX-License-Identifier: MIT-0
"""`gwlbtun check` on hosts that lack this and that: it names each, and what it says to run mends it."""
import re
import shlex
import socket
import sys

import pytest

import netns
from command import PROGRAM
from gwlbtun.check import network
from gwlbtun.check.finding import Verdict
from lab import PASSTHROUGH

pytestmark = pytest.mark.one_path

HOOK = PROGRAM.parent / "example-scripts" / "create-passthrough.sh"
ARGUMENTS = "-p", "8080", "-c", HOOK, "--allow-from", "192.0.2.0/24"


@pytest.fixture
def host():
    """A host with an uplink of 9001 bytes and a default route."""
    with netns.Namespace("check") as namespace, netns.Namespace("router") as router:
        netns.link(namespace, "eth0", router, "veth0")
        namespace.ip("addr add 192.0.2.10/24 dev eth0")
        namespace.ip("route add default via 192.0.2.1")
        for name in "all", "default":
            namespace.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        yield namespace


def check(namespace, *arguments, status=0, prefix=()):
    """By subject, the verdict, text and remedy."""
    done = namespace.run(*prefix, sys.executable, PROGRAM, "check", *arguments, check=False)
    assert (done.returncode, done.stderr) == (status, ""), done
    found = re.findall(r"^(ok|warn|FAIL|note) +(.*?): (.*)(?:\n +-> (.*))?$", done.stdout, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\S", done.stdout, re.MULTILINE)), done.stdout
    return {subject: (verdict, text, remedy) for verdict, subject, text, remedy in found}


def test_a_host_that_is_ready(host):
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)
    found = check(host, *ARGUMENTS, "--kernel-path", "auto")
    assert {subject for subject, (verdict, *_) in found.items() if verdict != "ok"} == {"EC2"}
    assert {"shim", "TUN", "capabilities", "UDP 6081", "TCP 8080", "receive buffer", "offloads", "kernel path", "create hook",
            "rp_filter", "conntrack", "forwarding", "MTU of eth0", "senders", "net.ipv4.ip_forward"} < found.keys()


@pytest.mark.parametrize("arguments, status, verdict", [(["auto"], 0, "warn"), (["require"], 1, "FAIL"),
                                                        (["auto", "--no-return"], 0, "ok")])
def test_without_the_capability_for_the_path_in_the_kernel(host, arguments, status, verdict):
    found = check(host, *ARGUMENTS, "--kernel-path", *arguments, status=status,
                  prefix=["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all"])
    assert found["kernel path"][0] == verdict
    assert ("CAP_BPF" in found["kernel path"][1]) == (verdict != "ok")


@pytest.mark.parametrize("subject, verdict, spoil", [
    ("rp_filter", "warn", "sysctl -qw net.ipv4.conf.all.rp_filter=1"),
    ("net.ipv4.ip_forward", "note", "sysctl -qw net.ipv4.ip_forward=0"),
    ("net.ipv6.conf.all.forwarding", "note", "sysctl -qw net.ipv6.conf.all.forwarding=0"),
    ("MTU of eth0", "warn", "ip link set eth0 mtu 1500"),
    ("conntrack", "warn", "nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; "
                          "nft add rule inet t c ct state established accept"),
    ("conntrack", "warn", "iptables -t nat -A POSTROUTING -j MASQUERADE"),
    ("forwarding", "warn", "nft add table inet f; "
                           "nft add chain inet f forwards '{ type filter hook forward priority 0; policy drop; }'"),
    ("forwarding", "warn", "iptables -P FORWARD DROP"),
])
def test_what_it_says_to_run_mends_it(host, subject, verdict, spoil):
    host.run("sh", "-ec", spoil)
    found = check(host, *ARGUMENTS)
    assert found[subject][0] == verdict
    remedy = found[subject][2]
    if subject == "forwarding":  # the chain's policy stays; the rule lets the endpoints' packets through
        first = remedy.split(";")[0]
        host.run("sh", "-ec", first)
        assert "iifname \"gwi-*\" accept" in host.run("nft", "list", "ruleset").stdout
        return
    host.run("sh", "-ec", remedy.split(" (")[0])
    assert check(host, *ARGUMENTS)[subject][0] == "ok"


def test_ports_that_others_hold(host):
    with host.entered():
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with udp, tcp:
        udp.bind(("", 6081))
        tcp.bind(("", 8080))
        tcp.listen()
        found = check(host, *ARGUMENTS, status=1)
        for subject in "UDP 6081", "TCP 8080":
            verdict, text, _ = found[subject]
            assert verdict == "FAIL" and re.search(r"process \d+ \(.+\) has it: .* (in use|is taken)", text)


def test_beside_the_daemon(lab):
    daemon = lab.start("-c", lab.hook(PASSTHROUGH)).wait_ready()
    found = check(lab.appliance, "-p", "8080", "-c", HOOK)
    for subject in "UDP 6081", "TCP 8080":
        assert found[subject][:2] == ("ok", f"belongs to gwlbtun, which runs as process {daemon.pid} (gwlbtun)")


def test_without_rights(host):
    found = check(host, *ARGUMENTS, status=1, prefix=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    assert found["capabilities"][:2] == ("FAIL", "CAP_NET_ADMIN is missing")
    assert found["TUN"][0] == "FAIL"
    found = check(host, *ARGUMENTS, prefix=["setpriv", "--bounding-set=-net_raw", "--inh-caps=-all"])
    assert found["capabilities"][0] == "warn"


def test_without_tun(host):
    hidden = "mount -t tmpfs none /dev/net && exec \"$@\""
    found = check(host, *ARGUMENTS, status=1, prefix=["unshare", "-m", "sh", "-c", hidden, "sh"])
    assert found["TUN"][0] == "FAIL" and "there is no /dev/net/tun" in found["TUN"][1]


def test_without_options_or_route(host):
    host.ip("route del default")
    found = check(host)
    assert {found[subject][0] for subject in ("health port", "create hook", "senders", "way out")} == {"warn"}
    assert check(host, "--uplink", "eth7")["eth7"][0] == "warn"


def test_words_that_it_does_not_know(host):
    for words in ["--nonsense"], ["-c", "/no/such/hook"], ["extra"]:
        done = host.run(sys.executable, PROGRAM, "check", *words, check=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and shlex.quote(words[-1]).strip("'") in done.stderr
    assert "exit status" in host.run(sys.executable, PROGRAM, "check", "--help").stdout


def test_a_reader_that_goes_away(host):
    done = host.run("bash", "-c", f"{sys.executable} {PROGRAM} check | head -n1", check=False)
    assert done.stdout.startswith("ok") and done.stderr == ""
    done = host.run("bash", "-c", f"{sys.executable} {PROGRAM} check >/dev/full", check=False)
    assert (done.returncode, done.stderr) == (1, "gwlbtun: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("queues, xps, receivers, verdicts", [
    (4, "0", 4, {"queues": Verdict.OK, "XPS": Verdict.WARN}),
    (2, "3", 4, {"queues": Verdict.WARN}),
    (1, "0", 1, {"queues": Verdict.OK}),
])
def test_queues_of_a_card(tmp_path, queues, xps, receivers, verdicts):
    (tmp_path / "device").mkdir()
    for number in range(queues):
        (tmp_path / "queues" / f"rx-{number}").mkdir(parents=True)
        (tmp_path / "queues" / f"tx-{number}").mkdir()
        (tmp_path / "queues" / f"tx-{number}" / "xps_cpus").write_text(f"0000,0000000{xps}\n")
    found = network._queues("ens5", str(tmp_path / "queues"), receivers)
    assert {re.sub("(ens5| of ens5| )", "", finding.subject): finding.verdict for finding in found} == verdicts


def test_without_nft():
    assert [finding.verdict for finding in network._firewall(None, None)] == [Verdict.NOTE]
