# SPDX-License-Identifier: MIT-0
"""The rehearsal of a restart in place: would the program that is installed now, with its options files read again, take over?

It runs as a child that reads the outline from its standard input and prints one line of JSON. Whatever goes wrong there is the
answer "no".
"""
import json
import os
import select
import signal
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Tuple

from .. import StartError, __version__, fastpath, installation, memfile, netns, privilege, tun, web
from ..checks import Address
from ..kernel import bequest, wanted
from ..settings import Settings
from . import state

WORD = "takeover-rehearsal"  # the first argument of the child; the options follow
LIMIT_S = 10.0
LOOK_S = 0.05
COPY_FD = 3  # of the child
OUTPUT_BYTES = 65_536
TEXT_CHARACTERS = 2_000


class Verdict(NamedTuple):
    """What a rehearsal has shown."""

    reasons: List[str]  # why not; empty: the new program takes over
    remarks: List[str]  # what it has to say of its options
    version: str        # its own
    receivers: int      # how many U threads it will have
    kernel: str = ""    # the signature of its path in the kernel (kernel/bequest.py)


def _no(reason: str) -> Verdict:
    return Verdict([reason], [], "", 0)


def main(arguments: List[str]) -> int:
    """The child."""
    from .. import cli
    settings = cli.parse(arguments)
    theirs = json.loads(sys.stdin.buffer.read(state.BYTES_MOST))
    reasons = objections(settings, theirs)
    print(json.dumps({"reasons": reasons, "version": __version__, "receivers": len(settings.udp_places),
                      "kernel": bequest.signature(settings)}))
    return 0


def objections(settings: Settings, theirs: state.Json) -> List[str]:
    """Why this program cannot take over, with these settings, from one of that outline. Changes nothing."""
    reasons: List[str] = []
    try:
        shim = fastpath.Shim()
        reasons = state.objections(settings, shim, theirs)
        if not reasons:
            tun.probe(settings.offload)
        if settings.kernel_path == "require":
            reasons += filter(None, [wanted.look(settings).reason])
        if settings.netns and not theirs.get("netns"):
            netns.try_out()
        if settings.health_port and str(settings.health_port) != theirs.get("health"):
            _try_health_port(settings.health_port, str(theirs.get("health")))
    except StartError as error:
        reasons.append(str(error))
    return reasons


def _try_health_port(ours: Address, theirs: str) -> None:
    """Raises StartError. A port that they listen on themselves becomes free (Inheritance.health_listener)."""
    same = theirs.rpartition(":")[2] == str(ours.port)
    web.listen(ours._replace(port=0) if same else ours).close()


def rehearse(outline: state.Json, arguments: List[str], copy: int, interrupted: Callable[[], bool]) -> Verdict:
    """Starts the child and waits for its answer. copy: what installation.copied() gave. interrupted() is asked often."""
    try:
        given, printed, said = state.write(outline), memfile.create("gwlbtun-output"), memfile.create("gwlbtun-errors")
    except OSError as error:
        return _no(f"there is no memory file for a rehearsal ({error.strerror})")
    try:
        words, environment = installation.copied_command(-1 if copy < 0 else COPY_FD)
        descriptors = [given, printed, said] + [copy] * (copy >= 0)
        ended, status = _run([*words, WORD, *arguments], environment, descriptors, interrupted)
        output, errors = (os.pread(fd, OUTPUT_BYTES, 0).decode("utf-8", "backslashreplace") for fd in (printed, said))
    except OSError as error:
        return _no(f"it cannot be started ({error.strerror})")
    finally:
        for fd in (given, printed, said):
            os.close(fd)
    remarks = [line[len("gwlbtun: "):] if line.startswith("gwlbtun: ") else line
               for line in errors[-TEXT_CHARACTERS:].splitlines() if line.strip()]
    if not ended:
        return _no(f"it has not answered within {LIMIT_S:.0f} s")
    return _verdict(status, output, remarks)


def _verdict(status: int, output: str, remarks: List[str]) -> Verdict:
    try:
        answer = json.loads(output.strip().rpartition("\n")[2])
        verdict = Verdict([str(reason) for reason in answer["reasons"]], remarks, str(answer["version"]),
                          int(answer["receivers"]), str(answer.get("kernel", "")))
    except (ValueError, KeyError, TypeError, IndexError):
        verdict = _no("; ".join(remarks[-3:]) or f"it ended with {_describe(status)} and without an answer")
    if status and not verdict.reasons:
        return _no(f"it ended with {_describe(status)}")
    return verdict


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _run(words: List[str], more: Dict[str, str], descriptors: List[int],
         interrupted: Callable[[], bool]) -> Tuple[bool, int]:
    """Runs a program with these as its descriptors from 0 on, and more in its environment. Whether it ended by itself, and its
    exit code. Raises OSError."""
    environment = {**{name: value for name, value in os.environ.items() if name != state.VARIABLE}, **more}
    with privilege.all_rights():
        pid = os.posix_spawn(words[0], words, environment, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE,),
                             file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)])
    end = time.monotonic() + LIMIT_S
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return True, os.waitstatus_to_exitcode(status)
        if time.monotonic() > end or interrupted():
            with privilege.all_rights():
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return False, os.waitstatus_to_exitcode(status)
        select.select([], [], [], LOOK_S)

