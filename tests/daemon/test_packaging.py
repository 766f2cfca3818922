# SPDX-License-Identifier: MIT-0
"""What is installed beside the command: systemd's own tools accept it, and gwlbtun runs with the rights that it leaves."""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gwlb
import packets
from documents import ROOT
from lab import CLIENT, HEALTH_PORT, SERVER
from manager import manager

pytestmark = pytest.mark.one_path

PACKAGING = ROOT / "packaging"
UNIT = (PACKAGING / "gwlbtun.service").read_text()
PASSTHROUGH = ROOT / "example-scripts" / "create-passthrough.sh"
EXPOSURE = 29  # tenths, as docs/OPERATIONS.md says


def run(*arguments):
    return subprocess.run(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                          check=False)


def setting(name):
    """All values of a setting of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


# ---- systemd's tools


@pytest.fixture
def installed(tmp_path):
    """Writes the unit, changed, where the command that it runs is."""
    def install(old="", new=""):
        path = tmp_path / "gwlbtun.service"
        assert old in UNIT
        path.write_text(UNIT.replace("/usr/local/bin/gwlbtun", sys.executable).replace(old, new))
        return path
    return install


def verify(path):
    done = run("systemd-analyze", "verify", "--man=no", path)
    return done.returncode, [line for line in done.stdout.splitlines() if "gwlbtun.service" in line]


def test_the_unit_is_verified(installed):
    assert verify(installed()) == (0, [])
    assert verify(installed("WatchdogSec=", "WatchdogTime="))[1]  # which would be ignored in silence


def test_the_unit_leaves_as_little_exposed_as_the_documents_say(installed):
    def security(path):
        return run("systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", path)
    done = security(installed())
    assert done.returncode == 0, done.stdout
    said = re.search(r"[Ee]xposure[^.]* (\d\.\d)", (ROOT / "docs" / "OPERATIONS.md").read_text())[1]
    assert said == f"{EXPOSURE / 10}"
    assert security(installed("ProtectSystem=strict\n")).returncode != 0


def test_the_users_are_made(tmp_path):
    (tmp_path / "usr/lib/sysusers.d").mkdir(parents=True)
    (tmp_path / "usr/lib/sysusers.d/gwlbtun.conf").write_text((PACKAGING / "sysusers.conf").read_text())
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^gwlbtun:x:\d+:\d+:Gateway Load Balancer", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert re.search(r"^gwlbtun:x:\d+:$", (tmp_path / "etc/group").read_text(), re.MULTILINE)


def test_the_sysctls_are_some_that_linux_has():
    lines = (PACKAGING / "sysctl.conf").read_text().splitlines()
    pairs = [re.fullmatch(r"#?([a-z0-9_.]+) = (\d+)", line) for line in lines if "=" in line]
    assert len(pairs) >= 7 and all(pairs)
    for pair in pairs:
        assert Path("/proc/sys", *pair[1].split(".")).exists(), pair[1]


def test_what_hooks_find_missing_can_be_set_beforehand():
    """Each NAME=VALUE that HOOKS.md has operators of containers set is there, turned on or to be turned on."""
    text = (PACKAGING / "sysctl.conf").read_text()
    named = re.findall(r"`(net\.[\w.]+)=(\d)`", (ROOT / "docs" / "HOOKS.md").read_text())
    assert len(named) >= 6
    for name, value in named:
        assert re.search(rf"^#?{re.escape(name)} = {value}$", text, re.MULTILINE), name


# ---- The command line


def variables(text):
    """What systemd makes of a file of variables."""
    return dict(re.findall(r'^(\w+)="?(.*?)"?$', text, re.MULTILINE))


def start_command(environment):
    """The arguments that systemd makes of the unit's ExecStart."""
    command, = setting("ExecStart")
    defaults = dict(word.split("=", 1) for line in setting("Environment") for word in line.split())
    values = {**defaults, **environment}
    arguments = []
    for word in command.split()[1:]:
        if word.startswith("${"):
            arguments.append(values[word[2:-1]])
        else:
            arguments += shlex.split(values[word[1:]]) if word.startswith("$") else [word]
    return arguments


@pytest.mark.parametrize("environment, healthy_at", [
    ({}, None),
    (variables((PACKAGING / "gwlbtun.conf").read_text()), HEALTH_PORT),
    ({"HOOK": str(PASSTHROUGH), "HEALTH_CHECK_PORT": "", "OPTIONS": f"-p {HEALTH_PORT} -j"}, HEALTH_PORT),
])
def test_empty_variables_work(lab, tmp_path, environment, healthy_at):
    with manager(tmp_path) as told:
        command = [*told.command(), sys.executable, ROOT / "gwlbtun.py", *start_command(environment)]
        with open(tmp_path / "log", "wb") as output:
            process = lab.appliance.start(*command, stdout=output, stderr=output)
        try:
            assert told.wait_for("READY")
            assert lab.appliance.run("ss", "-ltnH").stdout.count(f":{HEALTH_PORT} ") == bool(healthy_at)
        finally:
            process.terminate()
            assert process.wait(60) == 0
    assert ("there is no health port" in (tmp_path / "log").read_text()) == (not healthy_at)


# ---- Rights


SCRIPT = ROOT / "example-scripts" / "create-route.sh"

# As on a host of systemd's, where a hook has a file to write.
SYSTEMD_HOST = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$@\""


def capabilities():
    words, = setting("CapabilityBoundingSet")
    return ",".join(f"+{word[len('CAP_'):].lower()}" for word in words.split())


def forwards(lab, daemon):
    """The daemon's hook has set up the appliance to route, and packets come back."""
    endpoint = lab.endpoint(expectation=gwlb.Forwarded())
    for number in range(100):
        endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000 + number, 2000, b"x"))
    assert lab.wait(lambda: len(endpoint.received) == 100), daemon.log()
    assert daemon.health()["healthy"] and daemon.health()["hooksFailed"] == 0, daemon.log()
    assert daemon.stop() == 0
    assert "hook of gwi" not in daemon.log() and "gwi-" not in lab.appliance.ip("rule")


def test_root_needs_no_more_capabilities_than_the_unit_leaves(lab, started_by):
    started_by("unshare", "--mount", "sh", "-c", SYSTEMD_HOST, "sh",
               "setpriv", f"--bounding-set=-all,{capabilities()}", "--inh-caps=-all", "--no-new-privs")
    forwards(lab, lab.start("-c", SCRIPT, "-r", SCRIPT, hook=None))


def test_a_user_of_its_own_needs_no_more_than_the_unit_names(lab, started_by):
    named, = re.findall(r"AmbientCapabilities=(.*)", UNIT)
    assert [named] == setting("CapabilityBoundingSet")
    # To read the project, which may be where only root may look.
    rights = f"-all,{capabilities()},+dac_read_search"
    started_by("unshare", "--mount", "sh", "-c", SYSTEMD_HOST, "sh",
               "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--bounding-set={rights}",
               f"--inh-caps={rights}", f"--ambient-caps={rights}", "--no-new-privs")
    daemon = lab.start("-c", SCRIPT, "-r", SCRIPT, "--rcvbuf", 16, "--control", "", hook=None)
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{daemon.pid}/status").read_text()
    assert lab.wait(lambda: "receive buffer of 16 MB" in daemon.log())  # more than rmem_max, by CAP_NET_ADMIN
    forwards(lab, daemon)
