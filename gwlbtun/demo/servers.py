# SPDX-License-Identifier: MIT-0
"""What the server of the demo serves: web pages, and a sink for bulk data."""
import contextlib
import http.server
import socket
import threading
from typing import Any

from .netns import Namespace

SINK_BUFFER = 1 << 20


class Page:
    """One page, at an address and port of a namespace."""

    def __init__(self, namespace: Namespace, address: str, port: int, text: str):
        content = text.encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((address, port), Handler, bind_and_activate=False)
        self._server.daemon_threads = True  # a client that goes on asking does not hold up the end
        with namespace.entered():
            listener = socket.create_server((address, port))
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=f"page {port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Sink:
    """Takes whatever comes, one connection at a time, and counts it."""

    def __init__(self, namespace: Namespace, address: str, port: int):
        self.received = 0       # bytes of the newest connection
        self.ended = threading.Event()  # the newest connection has ended
        with namespace.entered():
            self._listener = socket.create_server((address, port))
        self._thread = threading.Thread(target=self._serve, name="sink", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        buffer = bytearray(SINK_BUFFER)
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.received = 0
            self.ended.clear()
            with connection, contextlib.suppress(OSError):
                while True:
                    size = connection.recv_into(buffer)
                    if not size:
                        break
                    self.received += size
            self.ended.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # accept() comes back
        self._listener.close()
