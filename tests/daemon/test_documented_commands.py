# SPDX-License-Identifier: MIT-0
"""Every command that the documents show runs, or this file says why it cannot run here."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import gwlb
import netns
import packets
from command import PROGRAM
from documents import ROOT
from lab import CLIENT, SERVER

pytestmark = pytest.mark.one_path

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = "sudo|make|gwlbtun|curl|systemctl|ip|nft|iptables|ip6tables|tc|python3|tcpdump|ss|journalctl|aws|podman|findmnt"

# Commands that cannot run in a test, and why not.
ELSEWHERE = {
    r"(dnf|apt-get) install ": "changes the host; test_packages.py holds the lists",
    r"(aws|podman) ": "needs a cloud or a registry; DEPLOY.md says so",
    r"(systemctl|systemd-sysusers|systemd-analyze|editor|journalctl) ": "needs a systemd that runs; test_packaging.py",
    r"make (?!dist|install|uninstall|&&)": "runs for minutes; below, the Makefile knows the target",
    r"python3 bench/run.py": "takes both cores for a minute and more",
    r"(make && ./)?gwlbtun(\.py)? demo": "test_demo.py runs it",
    r"nft flush ruleset|iptables -I FORWARD .*-o|ip netns( add| exec)?$|tc qdisc add$": "part of a sentence",
    r"tc -s qdisc|ip -s link|ip vrf exec$|ip xfrm policy$|tc qdisc (add dev gwi-\.\.\.|replace$)": "part of a sentence",
    r"ip rule del iif ": "a line of the hook that test_documented_hook.py runs",
    r"gwlbtun [A-Z]\S*$": "the name of a thread",
    r"gwlbtun @FILE": "test_options_file.py reads such files",
}


def shown(document):
    """Commands in blocks, with their continuation lines, and in the text."""
    text = document.read_text()
    blocks = re.sub(r"\\\n\s+", "", text)
    for line in re.findall(rf"^    (?:\$ )?((?:{PROGRAMS}) .*)$", blocks, re.MULTILINE):
        yield re.sub(r"\s+# .*", "", line).strip()
    for inline in re.findall(rf"`((?:{PROGRAMS}) [^`]+)`", re.sub(r"\n\s*", " ", text)):
        yield inline


COMMANDS = sorted({re.sub(r"\bsudo ", "", command) for document in DOCUMENTS for command in shown(document)})


def elsewhere(command):
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def test_there_are_commands():
    assert len(COMMANDS) > 40
    assert any(command.startswith("gwlbtun show") for command in COMMANDS)
    for pattern in ELSEWHERE:
        assert any(re.match(pattern, command) for command in COMMANDS), pattern


def test_make_knows_each_target():
    targets = {target for command in COMMANDS for target in re.findall(r"(?:^|&& )make (?:-k )?([a-z][a-z0-9-]+)", command)}
    assert {"test", "bench", "lint", "install", "dist"} <= targets
    assert targets <= set(re.findall(r"^([a-z][a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project to build and install in."""
    root = tmp_path_factory.mktemp("project") / "gwlbtun"
    root.mkdir()
    for name in ("Makefile", "gwlbtun.py", "gwlbtun", "native", "example-scripts", "packaging", "tools"):
        subprocess.run(["cp", "-r", ROOT / name, root], check=True)
    return root


INSTALLS = [command for command in COMMANDS if re.search(r"\bmake (install|uninstall|dist)\b", command)]
STARTS = [command for command in COMMANDS if re.search(r"gwlbtun\.py -", command)]
CALLS = [command for command in COMMANDS if command not in INSTALLS + STARTS and not elsewhere(command)]


@pytest.mark.parametrize("command", INSTALLS)
def test_installing(project, tmp_path, command):
    words = command if "DESTDIR=" in command else command.replace("make install", f"make install DESTDIR={tmp_path}").replace(
        "make uninstall", f"make uninstall DESTDIR={tmp_path}")
    words = re.sub(r" \| aws .*", " >/dev/null", words)
    subprocess.run(["bash", "-euo", "pipefail", "-c", words], cwd=project, stdout=subprocess.DEVNULL, timeout=120, check=True)


def translated(command, gwi):
    """What a reader would fill in: X stands for an endpoint, HOST:PORT for the health port."""
    words = command.replace("gwlbtun-X", f"gwlbtun-{gwi[4:]}").replace("FILE", str(PROGRAM)).replace('"$3"', f"gwo-{gwi[4:]}")
    words = words.replace("fq_codel", "pfifo")  # which every kernel has
    words = re.sub(r"(^|&& |\| )(\./)?gwlbtun(\.py)?(?= )", rf"\1{sys.executable} {PROGRAM}", words)
    return words


def test_the_calls(lab, tmp_path):
    """On an appliance with an endpoint and flows. Commands that go on for ever are ended after they have begun."""
    hook = ROOT / "example-scripts" / "create-route.sh"
    daemon = lab.start("--control", tmp_path / "control.sock", "-c", hook, "-r", hook, hook=None)
    endpoint = lab.endpoint(0x0123456789ABCDEF0 & (1 << 64) - 1, gwlb.WellFormed())
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000, 2000))
    assert lab.wait(lambda: daemon.eni(endpoint) and daemon.eni(endpoint)["state"] == "up")
    gwi = daemon.eni(endpoint)["tunnelIn"]["devname"]
    failed = []
    for command in CALLS:
        words = translated(command, gwi)
        if " show" in words and "gwlbtun" in words:
            words += f" --socket {tmp_path / 'control.sock'}"
        process = lab.appliance.start("bash", "-euo", "pipefail", "-c", words, cwd=ROOT, stderr=subprocess.STDOUT, text=True)
        if endless(command):
            time.sleep(1)
            process.terminate()
        output, _ = process.communicate(timeout=60)
        well = (0, 1) if " check" in command else (0, -15, 143) if endless(command) else (0,)
        if process.returncode not in well or "Traceback" in output:
            failed.append((command, words, process.returncode, output[-300:]))
    assert failed == []


def endless(command):
    return "--watch" in command or "tcpdump" in command


@pytest.mark.parametrize("command", STARTS)
def test_starting(command):
    with netns.Namespace("start") as namespace:
        process = namespace.start("bash", "-c", f"{translated(command, 'gwi-')} --control '' & echo $!; wait $!", cwd=ROOT)
        pid = int(process.stdout.readline())
        end = time.monotonic() + 60
        ask = "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "localhost:8080"
        while namespace.run(*ask, check=False).stdout != "200":
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        for child in map(int, namespace.run("pgrep", "-P", str(pid)).stdout.split()):
            os.kill(child, signal.SIGTERM)
        assert process.wait(60) == 0
