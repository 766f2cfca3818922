# SPDX-License-Identifier: MIT-0
"""The health server: HTTP over IPv6 and IPv4, for the load balancer's target check, cron and curl.

Whoever reaches the port may send anything, or nothing. A connection carries one request and ends after some seconds of
silence; of more connections than CONNECTIONS the oldest is closed, so nobody can keep a health check out.
"""
import errno
import http.server
import socket
import socketserver
import threading
import time
from typing import Callable, Dict, Tuple

from . import StartError, fastpath
from .logs import HEALTHCHECK, Log

CONNECTIONS = 64
SILENCE_S = 5.0
RETRY_S = 0.1

Answer = Tuple[int, str, bytes]  # status, content type, body


class _Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S

    def version_string(self) -> str:
        return "gwlbtun"

    def do_GET(self) -> None:
        status, content_type, body = self.server.answer()
        self.send_response(status)
        self.send_header("Cache-Control", "max-age=0, no-cache")
        self.send_header("Connection", "close")
        if body:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments) -> None:
        self.server.log.debug(HEALTHCHECK, f"{self.client_address[0]} {format % arguments}")


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers every GET and HEAD with what answer() gives."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[], Answer], log: Log):
        """Raises StartError when the port cannot be had."""
        self.answer = answer
        self.log = log
        self._connections: Dict[socket.socket, None] = {}  # oldest first
        self._connections_lock = threading.Lock()
        self._stopping = False
        super().__init__(("", port), _Request, bind_and_activate=False)
        self.socket.close()
        try:
            self.socket = _listening_socket()
            self.server_bind()
            self.server_activate()
        except OSError as error:
            self.server_close()
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"TCP port {port} for health checks is taken: choose another with -p, or stop the "
                                 f"program that uses it (`ss -ltnp sport = :{port}` names it)") from None
            raise StartError(f"cannot answer health checks on TCP port {port}: {error.strerror}") from None

    def start(self) -> None:
        threading.Thread(target=self._serve, name="gwlbtun Health", daemon=True).start()

    def stop(self) -> None:
        self._stopping = True
        _hang_up(self.socket)  # wakes accept()
        self.server_close()

    def _serve(self) -> None:
        """Takes serve_forever's place, which polls."""
        fastpath.set_thread_name(threading.current_thread().name)
        while not self._stopping:
            try:
                request, client_address = self.get_request()
            except OSError:  # stopped, or a client that went at once, or no descriptor left: then others must end first
                time.sleep(0 if self._stopping else RETRY_S)
                continue
            self.process_request(request, client_address)

    def process_request(self, request: socket.socket, client_address) -> None:
        with self._connections_lock:
            self._connections[request] = None
            if len(self._connections) > CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                _hang_up(oldest)  # its thread finds it ended, and closes it
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # no room for another thread
            self.log.debug(HEALTHCHECK, str(error))
            self.shutdown_request(request)

    def shutdown_request(self, request: socket.socket) -> None:
        with self._connections_lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address) -> None:
        self.log.debug(HEALTHCHECK, f"{client_address[0]} went away, or sent what is no HTTP.")


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _listening_socket() -> socket.socket:
    try:
        both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:  # a kernel without IPv6
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return both
