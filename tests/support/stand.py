# SPDX-License-Identifier: MIT-0
"""The page at /status with a report that a test has made up, in place of a daemon's."""
import contextlib
import http.server
import json
import socket
import threading
from typing import Any, List, Tuple

from gwlbtun.page import Page
from netns import Namespace

PORT = 8081

DROP_TEXTS = {"drop_no_flow": "what Linux sent belongs to no flow", "drop_send": "the packet could not be sent"}


def thread(number: int, **more) -> dict:
    return {"healthy": True, "threadNumber": number, "threadId": 4000 + number, "pktsIn": 0, "bytesIn": 0, **more}


def endpoint(number: int, packets: int = 0, **more) -> dict:
    def tunnel(kind: str) -> dict:
        sent = {"pktsSent": packets * (kind == "gwo"), "bytesSent": 100 * packets}
        return {"devname": f"{kind}-{number:x}", **sent, "threads": [thread(0, **sent, pktsOut=packets * (kind == "gwi"))]}
    caches = {f"v{family}FlowCache{kind}": {"size": size}
              for family in (4, 6) for kind, size in (("", 1202), ("Tcp", 1200), ("Udp", 2), ("Other", 0))}
    return {"eniStr": f"{number:017x}", "gwlbEndpointId": f"vpce-{number:017x}", "healthy": True, "state": "up", "failure": "",
            "pktsOut": packets, "bytesOut": 100 * packets, "pktsDropped": 6, "secsSinceLastPacket": 0.1,
            "tunnelIn": tunnel("gwi"), "tunnelOut": tunnel("gwo"), **caches, **more}


def report(*enis: dict, **more) -> dict:
    totals = dict.fromkeys(["pktsFromGwlb", "bytesFromGwlb", "pktsToLinux", "bytesToLinux", "pktsFromLinux", "bytesFromLinux",
                            "pktsToGwlb", "bytesToGwlb"], 0)
    return {"healthy": True, "reasons": [], "notes": [], "version": "1", "uptimeSecs": 10.0, "enis": list(enis),
            "totals": totals,
            "udp": {"UDPPacketReceiver": {"portNumber": 6081, "receiveBufferBytes": 1, "socketDrops": 0,
                                          "threads": [thread(0, secsSinceLastPacket=0.1)]}},
            "ebpf": {"state": "active"}, "drops": {"no_flow": 0, "send": 0}, "flows": {"size": 7, "bound": 100},
            "endpoints": {"size": len(enis), "bound": 1024}, "hooksFailed": 1,
            "hooks": {"create": {"ok": 2, "failed": 1}, "destroy": {"ok": 1, "failed": 0}}, **more}


class Server(http.server.ThreadingHTTPServer):
    """A browser keeps connections in store. At close() they end, lest the next test's first request goes to this server."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._connections: List[socket.socket] = []

    def get_request(self) -> Tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        super().server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Stand:
    """Serves the page and the JSON of its report, which a test may change."""

    def __init__(self, namespace: Namespace):
        self.report = report()
        self.asked: List[str] = []
        form = Page(DROP_TEXTS).form

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                self.asked.append(handler.path)
                page = handler.path.startswith("/status")
                reasons = self.report["reasons"]
                body = form.head(reasons) + "".join(form.tail(self.report)) if page else json.dumps(self.report)
                handler.send_response(503 if reasons else 200)
                handler.send_header("Content-Type", form.content_type if page else "application/json")
                handler.end_headers()
                handler.wfile.write(body.encode())

            def log_message(handler, *arguments):
                pass

        with namespace.entered():
            self._server = Server(("127.0.0.1", PORT), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://localhost:{PORT}/status"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
