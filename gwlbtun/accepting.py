# SPDX-License-Identifier: MIT-0
"""Connections that wait to be accepted, for servers of one thread that serve a bounded number of clients."""
import errno
import socket
import time
from typing import Any, Callable, Iterator, Tuple

RETRY_S = 0.01


def waiting(listener: socket.socket, most: int, make_room: Callable[[], None]) -> Iterator[Tuple[socket.socket, Any]]:
    """Accepts up to `most` connections and yields each, non-blocking, with its address.

    make_room() is called when no descriptor is left: it has to close a connection.
    """
    for _ in range(most):
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                make_room()
                time.sleep(RETRY_S)
            return
        accepted.setblocking(False)
        yield accepted, address
