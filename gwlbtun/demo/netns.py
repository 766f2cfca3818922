# SPDX-License-Identifier: MIT-0
"""Network namespaces that take everything in them away when they go."""
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from typing import Any, Iterator

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: object, check: bool = True, timeout: float = 60, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end; its output is text. A failure raises with what the command said."""
    done = subprocess.run([str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=timeout, check=False, start_new_session=True,
                          **options)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def ip(*argv: object) -> str:
    """Runs iproute2's ip with the words of all arguments."""
    return run("ip", *" ".join(map(str, argv)).split()).stdout


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """A network namespace with loopback up, gone with its processes at close()."""

    def __init__(self, name: str):
        self.name = name
        ip("netns add", name)
        try:
            self.ip("link set lo up")
            if os.path.exists("/proc/sys/net/ipv6"):
                for scope in "all", "default":
                    self.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
                    self.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
                    self.sysctl(f"net.ipv6.conf.{scope}.addr_gen_mode", 1)  # no link-local address, nor what it sends
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        remove(self.name)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; sockets and TUN devices that it opens stay there, threads it starts too."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def ip(self, *argv: object) -> str:
        return ip("-n", self.name, *argv)

    def sysctl(self, name: str, value: object) -> None:
        with self.entered(), open("/proc/sys/" + name.replace(".", "/"), "w") as file:
            file.write(str(value))

    def run(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        return run("ip", "netns", "exec", self.name, *argv, **options)

    def start(self, *argv: object, **options: Any) -> "subprocess.Popen[bytes]":
        """Starts a command; the process is the command itself, and is ended with the namespace at the latest."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(["ip", "netns", "exec", self.name, *map(str, argv)], **options)


def remove(name: str) -> None:
    """Ends the processes of a namespace and deletes it. One that is gone already is no error."""
    for _ in range(100):
        pids = [int(pid) for pid in run("ip", "netns", "pids", name, check=False).stdout.split()]
        pids = [pid for pid in pids if pid != os.getpid() and not _is_zombie(pid)]
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    run("ip", "netns", "del", name, check=False)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def link(left: Namespace, left_name: str, right: Namespace, right_name: str, mtu: int = 9001) -> None:
    """A veth pair between two namespaces, both ends up."""
    ip("link add", left_name, "mtu", mtu, "netns", left.name,
       "type veth peer name", right_name, "mtu", mtu, "netns", right.name)
    left.ip("link set", left_name, "up")
    right.ip("link set", right_name, "up")
