# SPDX-License-Identifier: MIT-0
"""The container's way to run: another user than root, with capabilities that a copy of setpriv hands on."""
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

import gwlb
import packets
from command import PROGRAM
from lab import CLIENT, SERVER

pytestmark = pytest.mark.one_path

CONTAINERFILE = (PROGRAM.parent / "packaging" / "container" / "Containerfile").read_text()
USER = re.search(r"^USER ([0-9]+):[0-9]+$", CONTAINERFILE, re.MULTILINE)[1]
CAPABILITIES = {"cap_net_admin": 12, "cap_net_raw": 13}  # <linux/capability.h>


def with_capabilities(directory: Path) -> Path:
    """What the Containerfile makes: setpriv with file capabilities."""
    copy = Path(shutil.copy(shutil.which("setpriv"), directory / "with-capabilities"))
    copy.chmod(0o755)
    names = re.search(r"setcap (\S+)\+ep /usr/local/bin/with-capabilities", CONTAINERFILE)[1].split(",")
    permitted = sum(1 << CAPABILITIES[name] for name in names)
    # struct vfs_ns_cap_data, revision 2, effective: <linux/capability.h>
    os.setxattr(copy, "security.capability", struct.pack("<5I", 0x02000001, permitted, 0, 0, 0))
    return copy


@pytest.fixture
def image():
    """The program where any user can read it, as in a container."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for part in "gwlbtun.py", "gwlbtun", "native", "example-scripts":
            subprocess.run(["cp", "-r", PROGRAM.parent / part, root], check=True)
        subprocess.run(["chmod", "-R", "a+rX", root], check=True)
        yield root


@pytest.mark.unsanitized(reason="the image's Python has no sanitizer's library")
def test_gwlbtun_and_its_hooks_run_without_root(lab, image):
    entry = re.search(r'^ENTRYPOINT \["with-capabilities", (.*), "gwlbtun"\]$', CONTAINERFILE, re.MULTILINE)[1]
    words = [word.strip('"') for word in entry.split(", ")]
    hook = image / "example-scripts" / "create-passthrough.sh"
    container = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all",
                 "--bounding-set=-all,+net_admin,+net_raw"]
    command = [*container, with_capabilities(image), *words, "/usr/bin/python3", image / "gwlbtun.py"]
    daemon = lab.start("-c", hook, "-r", hook, "--control", "", hook=None, command=command)
    endpoint = lab.endpoint(0x6081, gwlb.Identical())
    endpoint.send(packets.udp(CLIENT[0], SERVER[0], 1000, 2000, b"to a container"))
    assert lab.wait(lambda: lab.balancer.counters.returned == 1)
    health = daemon.health()
    assert health["healthy"] and health["hooksFailed"] == 0
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert re.search(r"^Uid:\s+(\S+)", status, re.MULTILINE)[1] == USER
    assert int(re.search(r"^CapPrm:\s+(\S+)", status, re.MULTILINE)[1], 16) == 1 << 12 | 1 << 13
