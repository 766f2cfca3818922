# SPDX-License-Identifier: MIT-0
"""One HTTP request and its answer, in memory. http.server parses it, but has no socket."""
import http.server
import io
import re
from typing import List, NamedTuple, Optional, Tuple

from .logs import HEALTHCHECK, Log

REQUEST_HEADERS = 100
PATIENCE_S = 0.06      # of a request whose answer is being made; then the one before it will do
PATIENCE_MOST_S = 5.0  # of a request for which none before it will do

_END_OF_HEADERS = re.compile(rb"\n\r?\n")


class Answer(NamedTuple):
    """An answer. Its body is in pieces, which many answers may share."""

    status: int
    content_type: str = ""
    body: Tuple[bytes, ...] = ()


def whole_request(received: bytearray) -> Optional[bytes]:
    """The request up to the end of its headers. None: more has to come. HTTP/0.9 sends a line alone; so does garbage.

    Empty lines before a request are none (RFC 9112, section 2.2).
    """
    begun = bytes(received).lstrip(b"\r\n")
    line, newline, _ = begun.partition(b"\n")
    if newline and len(line.split()) < 3:
        return line
    end = _END_OF_HEADERS.search(begun, len(line))
    return begun[:end.end()] if end else None


class Request(http.server.BaseHTTPRequestHandler):
    """One request, read from memory and answered into memory."""

    protocol_version = "HTTP/1.1"
    wfile: io.BytesIO

    def __init__(self, data: bytes, client: str, log: Log):  # in place of the base's, which reads a socket at once
        self.client = client
        self._log = log
        self._line, _, self._headers = data.partition(b"\n")
        if len(self._line.split()) != 2:  # or else the base would refuse it without a status, as HTTP/0.9 has none
            self.default_request_version = "HTTP/1.0"
        self.raw_requestline = self._line + b"\n"
        self.requestline = self.request_version = self.command = self.path = ""
        self.wfile = io.BytesIO()

    def read(self, too_large: bool) -> bool:
        """False: output() holds the answer already, an error."""
        if too_large and not self._headers:
            self.send_error(414)
        elif too_large or self._headers.count(b"\n") > REQUEST_HEADERS + 1:  # the last is an empty line
            self.send_error(431)
        else:
            # The parser of headers is slow, so it gets only the ones that affect the answer.
            lines = [line for line in self._headers.split(b"\n") if line[:7].lower() == b"accept:"]
            self.rfile = io.BytesIO(b"\n".join([*lines, b"\n"]))
            if self.parse_request():
                if self.command in ("GET", "HEAD"):
                    return True
                self.send_error(501, f"Unsupported method ({self.command!r})")
        return False

    @property
    def accept(self) -> str:
        return ",".join(self.headers.get_all("Accept", ()))

    def output(self, answer: Optional[Answer] = None) -> List[bytes]:
        if answer is None:
            return [self.wfile.getvalue()]
        self.send_response(answer.status)
        self.send_header("Cache-Control", "max-age=0, no-cache")
        self.send_header("Connection", "close")
        if answer.body:
            self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(sum(map(len, answer.body))))
        self.end_headers()
        return [self.wfile.getvalue(), *(answer.body if self.command == "GET" else ())]

    def version_string(self) -> str:
        return "gwlbtun"

    def log_message(self, format: str, *arguments: object) -> None:
        self._log.debug(HEALTHCHECK, f"{self.client} {format % arguments}")
