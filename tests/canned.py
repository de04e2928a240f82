"""A local HTTP server with canned answers, for what the loopback provider does not speak."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Canned(NamedTuple):
    """One answer."""

    content_type: str
    body: bytes
    status: int = 200


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that left is what some tests are about."""


@contextmanager
def serving(answers: Mapping[tuple[str, str], Canned]) -> Iterator[str]:
    """Serve the answers by method and path (without query), 404 for the rest; the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            canned = answers.get((self.command, path), Canned("application/json", b"{}", 404))
            self.send_response(canned.status)
            self.send_header("content-type", canned.content_type)
            self.send_header("content-length", str(len(canned.body)))
            self.end_headers()
            self.wfile.write(canned.body)

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()
