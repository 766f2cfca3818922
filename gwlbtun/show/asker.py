# SPDX-License-Identifier: MIT-0
"""The other end of the control socket: finds a daemon, asks it, and reads its answer.

What a daemon says is taken within bounds, as anybody may have made the socket that we were given.
"""
import contextlib
import grp
import json
import os
import socket
import struct
import tempfile
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional

from .. import __version__
from ..rendezvous import DEFAULT_PATH, PROTOCOL, peer, siblings

TIMEOUT_S = 10.0
LINE_BYTES = 8 << 20
BLOCK_BYTES = 1 << 20
LINES_MOST = 1 << 20
MEMORY_BYTES = 64 << 20  # what comes beyond that waits in a temporary file

Message = Dict[str, Any]


class AskError(Exception):
    """There is no answer. Its text says why, and what to do."""


class Answer:
    """An answer, all of it: its lines, and the bytes that came with them."""

    def __init__(self, about: Message, lines: List[Message], octets: IO[bytes]):
        self.about = about  # who answers
        self.lines = lines
        self.octets = octets

    def first(self, key: str) -> Optional[Message]:
        """The first line with that key."""
        return next((line for line in self.lines if key in line), None)

    @property
    def rows(self) -> List[Message]:
        return [line["row"] for line in self.lines if isinstance(line.get("row"), dict)]


def ask(request: Message, path: Optional[str] = None, pid: Optional[int] = None) -> Answer:
    """Asks the daemon at that path, the one with that process ID, or the only one. Raises AskError.

    Reads the answer as fast as it comes and keeps it, so that the daemon is done with us, however slowly it is shown.
    """
    with contextlib.closing(_connect(path, pid)) as asking:
        asking.settimeout(TIMEOUT_S)
        with contextlib.suppress(BrokenPipeError):  # it has refused us already, and says why
            asking.sendall(json.dumps({"control": PROTOCOL, **request}).encode() + b"\n")
        with asking.makefile("rb") as stream:
            try:
                return _read(stream)
            except socket.timeout:
                raise AskError(f"gwlbtun has not answered for {TIMEOUT_S:.0f} s: is it stopped, or the host overloaded?"
                               ) from None
            except ConnectionError:
                raise AskError("gwlbtun hung up in the middle of its answer: it has ended, or too many ask at once. Try again"
                               ) from None
            except OSError as error:
                raise AskError(f"cannot keep the answer in a temporary file: {error.strerror}") from None


def _read(stream: IO[bytes]) -> Answer:
    about = _line(stream)
    if about.get("control") != PROTOCOL or "gwlbtun" not in about:
        raise AskError(f"the daemon is gwlbtun {str(about.get('gwlbtun'))[:20]}, which this `show`, of {__version__}, does not "
                       "understand: use the `show` of that version, or restart the daemon")
    lines: List[Message] = []
    octets = tempfile.SpooledTemporaryFile(MEMORY_BYTES)
    while True:
        line = _line(stream)
        if "error" in line:
            raise AskError(str(line["error"]))
        if line.get("done"):
            octets.seek(0)
            return Answer(about, lines, octets)
        if "bytes" in line:
            octets.write(_block(stream, line["bytes"]))
        elif len(lines) < LINES_MOST:
            lines.append(line)
        else:
            raise AskError(f"the answer is longer than {LINES_MOST} lines")


def _line(stream: IO[bytes]) -> Message:
    text = stream.readline(LINE_BYTES)
    if not text.endswith(b"\n"):
        raise ConnectionError if len(text) < LINE_BYTES else AskError("what answers at the socket is no gwlbtun")
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise AskError("what answers at the socket is no gwlbtun")
    return line


def _block(stream: IO[bytes], size: Any) -> bytes:
    if not isinstance(size, int) or not 0 <= size <= BLOCK_BYTES:
        raise AskError("what answers at the socket is no gwlbtun")
    block = stream.read(size)
    if len(block) < size:
        raise ConnectionError
    return block


# ---- Finding it ------------------------------------------------------------------------------------------------------


def _connect(path: Optional[str], pid: Optional[int]) -> socket.socket:
    if path:
        found = _try(path)
        if not found:
            raise AskError(f"no gwlbtun answers at {path}: is it running, and with --control {path}?")
        return found
    living = list(_living())
    chosen = [each for each in living if pid in (None, each.pid)]
    for each in living:
        if chosen != [each]:
            each.socket.close()
    if not living:
        raise AskError(f"no gwlbtun runs here: none answers at {DEFAULT_PATH}. Start it, or give --socket with the path of its "
                       "--control")
    if not chosen:
        raise AskError(f"no gwlbtun with process ID {pid} answers: there is {_list(living)}")
    if len(chosen) > 1:
        raise AskError(f"{len(chosen)} gwlbtun run here: choose one with --pid or --socket. There is {_list(living)}")
    return chosen[0].socket


class _Living(NamedTuple):
    """A daemon that answers. pid: 0 if it is in another PID namespace."""

    path: str
    pid: int
    socket: socket.socket


def _living() -> Iterator[_Living]:
    try:
        paths = siblings(DEFAULT_PATH)
    except FileNotFoundError:
        return
    except PermissionError:
        raise AskError(_forbidden(os.path.dirname(DEFAULT_PATH))) from None
    for path in paths:
        found = _try(path)
        if found:
            pid, *_ = peer(found)
            yield _Living(path, pid, found)


def _try(path: str) -> Optional[socket.socket]:
    """A connection to whoever answers at the path, if anybody does."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Python's own time limit would make the kernel refuse, rather than wait, while others wait to be accepted.
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(TIMEOUT_S), 0))
    try:
        asking.connect(path)
        return asking
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        asking.close()
        return None
    except PermissionError:
        asking.close()
        raise AskError(_forbidden(path)) from None
    except BlockingIOError:
        asking.close()
        raise AskError(f"the gwlbtun at {path} has too many clients: try again") from None
    except OSError as error:
        asking.close()
        raise AskError(f"cannot ask at {path}: {error.strerror or error}") from None


def _forbidden(path: str) -> str:
    """Who may ask, and what the user can do about it."""
    while True:
        try:
            group = os.stat(path).st_gid
            break
        except PermissionError:
            path = os.path.dirname(path)
        except OSError:
            group = 0
            break
    if not group:
        return f"only root may ask at {path}: run this with sudo"
    try:
        name = grp.getgrgid(group).gr_name
    except KeyError:
        name = str(group)
    return f"only root and the group {name} may ask at {path}: run this with sudo, or join that group and log in again"


def _list(living: List[_Living]) -> str:
    return ", ".join(f"process {each.pid or 'of another container'} at {each.path}" for each in living)
