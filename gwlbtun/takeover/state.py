# SPDX-License-Identifier: MIT-0
"""What one program leaves to the next: JSON in a memory file.

The outline is the part by which the next program says, in the rehearsal, whether it could take over. VERSION counts what the
whole of it means: a program takes over from one that has the same number.
"""
import errno
import json
import os
from typing import Any, Dict, List, Tuple

from .. import __version__, capacity, fastpath, memfile
from ..settings import FLOWS_LEAST, Settings

VERSION = 1
VARIABLE = "GWLBTUN_TAKEOVER"  # in the environment of the next program: the descriptor of the memory file
BYTES_MOST = 256 << 20

Json = Dict[str, Any]


def slots(settings: Settings) -> int:
    """Of the fast path: for endpoints that stay, and some that go."""
    return min(settings.max_endpoints + capacity.SPARE, fastpath.SLOTS_MAX)


def flows_most(settings: Settings) -> int:
    return max(settings.max_flows, FLOWS_LEAST)


def outline(settings: Settings, shim: fastpath.Shim, endpoints: int) -> Json:
    """What a program that runs by these settings says of itself."""
    return {"takeover": VERSION, "gwlbtun": __version__, "layout": shim.flow_layout(), "flows": flows_most(settings),
            "slots": slots(settings), "netns": settings.netns, "endpoints": endpoints,
            "health": str(settings.health_port or "")}


def objections(settings: Settings, shim: fastpath.Shim, theirs: Json) -> List[str]:
    """Why a program with these settings cannot take over from the one of that outline."""
    ours = outline(settings, shim, 0)
    if theirs.get("takeover") != VERSION:
        return [f"gwlbtun {theirs.get('gwlbtun')} leaves its state in form {theirs.get('takeover')}, and gwlbtun {__version__} "
                f"reads form {VERSION}"]
    found = []
    if theirs.get("layout") != ours["layout"]:
        found.append(f"the flow table of gwlbtun {theirs.get('gwlbtun')} has another layout in memory than that of "
                     f"gwlbtun {__version__}")
    if theirs.get("flows") != ours["flows"]:
        found.append(f"the flow table is made for {theirs.get('flows')} flows and does not grow: --max-flows (or --reserve, or "
                     f"--no-return) now asks for {ours['flows']}")
    if theirs.get("slots") != ours["slots"]:
        found.append("the flow table is made for as many endpoints as --max-endpoints said at the start")
    if theirs.get("netns") != ours["netns"] and theirs.get("endpoints"):
        found.append("--netns has changed, and endpoints keep their interfaces")
    return found


def write(value: Json) -> int:
    """Returns a memory file with it, at its beginning. Raises OSError, also when it is more than read() reads."""
    text = json.dumps(value).encode()
    if len(text) > BYTES_MOST:
        raise OSError(errno.EFBIG, f"the state is larger than {BYTES_MOST >> 20} MiB")
    fd = memfile.create("gwlbtun-state")
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(text)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Json:
    """What write() has written; closes the file. Raises OSError or ValueError."""
    with open(fd, "rb") as file:
        value = json.loads(file.read(BYTES_MOST))
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def received() -> Tuple[Json, str]:
    """What the program before has left to this one, if there was one; and why that is nothing, if it should be something."""
    text = os.environ.pop(VARIABLE, "")  # hooks must not see it
    if not text:
        return {}, ""
    try:
        if not os.get_inheritable(int(text)):
            raise ValueError("this program has opened that itself")
        value = read(int(text))
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        return {}, f"{VARIABLE}={text!r} does not lead to the state of the gwlbtun that ran before ({error})"
    if value.get("takeover") != VERSION:
        return {}, f"the gwlbtun that ran before has left its state in form {value.get('takeover')}, not {VERSION}"
    return value, ""
