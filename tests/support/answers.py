"""A host that gives the same answer to whatever it is asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class Answering:
    """Where it listens, and what it was asked."""

    port: int
    asked: list[str] = field(default_factory=list)

    def connection(self) -> HTTPConnection:
        """A connection to it, without TLS."""
        return HTTPConnection("127.0.0.1", self.port, timeout=5)


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[Answering]:
    """It closes the connection after each answer."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        do_GET = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 -- http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield Answering(server.server_port, asked)
        finally:
            server.shutdown()
