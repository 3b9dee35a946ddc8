"""A webhook on this machine, for the tests of who is told of what."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "T0P/s3cret-path"


class Hook(ThreadingHTTPServer):
    """A webhook that does as it is told, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.does: int | str = 200
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        hook = self.server
        hook.paths.append(self.path)
        hook.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if hook.does == "hang":
            hook.ended.wait(30)
        elif hook.does == "drip":
            self._drip()
        elif isinstance(hook.does, int):
            self.send_response(hook.does)
            if 300 <= hook.does < 400:
                self.send_header("location", f"http://127.0.0.1:{hook.server_port}/elsewhere")
            self.end_headers()

    def _drip(self) -> None:
        """A header that never ends, a byte at a time."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
            while not self.server.ended.wait(0.05):
                self.wfile.write(b"a")
        except OSError:
            pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)

    def log_message(self, format: str, *args: object) -> None: ...
