# SPDX-License-Identifier: MIT-0
"""Programs that the bench runs to their end, or starts and stops."""
import ctypes
import os
import pathlib
import signal
import subprocess
from typing import List

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
NICE = -20  # so that other programs on the machine take as little as possible from what is measured
PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """What the user should read instead of a stack trace."""


def run(*command: str) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def start(namespace: str, core: int, command: List[str], **pipes: object) -> subprocess.Popen:
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {core})
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        # With CONFIG_SCHED_AUTOGROUP niceness counts only within a session, and each session has its own.
        os.setsid()
        if os.path.exists("/proc/self/autogroup"):
            with open("/proc/self/autogroup", "w", encoding="ascii") as group:
                group.write(str(NICE))

    # "ip netns exec" becomes the command itself, so the process ID is that of the command.
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], preexec_fn=prepare, **pipes)  # type: ignore


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
