# SPDX-License-Identifier: MIT-0
"""A service manager as far as a daemon sees of it: the socket that it is told by, and its watchdog's variables."""
import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List

# The command becomes process $$, as WATCHDOG_PID says.
SHELL = "export WATCHDOG_PID=$$; exec \"$@\""


class Manager:
    """Hears what the daemon tells. At most one daemon at a time."""

    def __init__(self, directory: Path, name: str = ""):
        """name: where the socket is, if not a path in the directory; an @ before it makes it abstract."""
        self.name = name or str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else self.name)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self.heard: List[Dict[str, str]] = []

    def listen(self) -> None:
        """Reads from now on."""
        self._listener.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)
        if self._listener.ident:
            self._listener.join()
        self.socket.close()

    def _listen(self) -> None:
        while True:
            message = self.socket.recv(65536).decode()
            if not message:
                return
            self.heard.append(dict(line.split("=", 1) for line in message.split("\n")))

    def command(self, watchdog_s: float = 0) -> List[str]:
        """What a daemon has to be started by."""
        watchdog = [f"WATCHDOG_USEC={int(watchdog_s * 1e6)}", "sh", "-c", SHELL, "sh"] if watchdog_s else []
        return ["env", f"NOTIFY_SOCKET={self.name}", *watchdog]

    def messages(self, name: str) -> List[str]:
        """The values of one variable, in order."""
        return [message[name] for message in list(self.heard) if name in message]

    def wait(self, condition: Callable[[], object], timeout: float = 60) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def wait_for(self, name: str, value: str = "1", timeout: float = 60) -> bool:
        return self.wait(lambda: value in self.messages(name), timeout)


@contextlib.contextmanager
def manager(directory: Path, name: str = "") -> Iterator[Manager]:
    with contextlib.closing(Manager(directory, name)) as made:
        made.listen()
        yield made
