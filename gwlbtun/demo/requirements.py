# SPDX-License-Identifier: MIT-0
"""What the demo needs of the host, and what to do where that is missing."""
import os
import shutil
from typing import Dict, Iterator, NamedTuple, Sequence

from .. import StartError
from ..shim import Shim

TUN = "/dev/net/tun"


class Packages(NamedTuple):
    """Where a program comes from."""

    debian: str
    amazon: str


# The programs that the demo and its hook call, without those that every system has.
PROGRAMS: Dict[str, Packages] = {
    "ip": Packages("iproute2", "iproute"),
    "nft": Packages("nftables", "nftables"),
    "flock": Packages("util-linux", "util-linux"),
    "mount": Packages("mount", "util-linux"),
    "awk": Packages("mawk", "gawk"),
}


def check() -> None:
    """Raises StartError."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # for su, without login
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise StartError(f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing: {_installation(missing)}")
    if os.geteuid():
        raise StartError("the demo makes network namespaces, so it must run as root: use sudo")
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise StartError(f"{TUN} cannot be opened ({error.strerror}): run `modprobe tun`, or give the container that "
                         "device (docker run --device /dev/net/tun)") from None
    Shim()


def _installation(missing: Sequence[str]) -> str:
    packages = [PROGRAMS[name] for name in missing]
    return (f"sudo apt-get install -y {_list(package.debian for package in packages)} on Debian, "
            f"sudo dnf install -y {_list(package.amazon for package in packages)} on Amazon Linux")


def _list(names: Iterator[str]) -> str:
    return " ".join(dict.fromkeys(names))
