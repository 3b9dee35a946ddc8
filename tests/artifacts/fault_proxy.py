"""A proxy that stands before the emulator and does to its answers what networks and busy servers do.

What happens to a request is decided by a `Plan`; a seeded one makes the same faults for the same sequence of requests.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import requests

from tests.serving import serving

FAULTS = ("503", "429", "reset", "reset_in_upload", "lost", "cut", "slow", "race", "flipped")
"""What can happen to a request, besides being passed on as it is ("pass"):

503 and 429 (with Retry-After) are answered at once; `reset`: the connection ends before the request is read,
`reset_in_upload`: in the middle of its body; `lost`: it is carried out and the answer never comes; `cut`: the answer
ends in the middle of its body; `slow`: it comes in drops; `race`: another writer is first; `flipped`: one bit of an
object changes on its way down.
"""

Plan = Callable[[str, str], str]
"""`plan(method, path with query)` names the fault."""


class Seeded:
    """Faults drawn from a seed; from request number `dies_at` on the server answers 503 for ever."""

    def __init__(self, seed: int, rate: float = 0.25, dies_at: int | None = None) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._dies_at = dies_at
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()

    def __call__(self, method: str, path: str) -> str:
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self._rate else "pass"
            if self._dies_at is not None and self.seen.total() >= self._dies_at:
                fault = "503"
            self.seen[fault] += 1
            return fault


class FaultProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.plan: Plan = lambda method, path: "pass"
        self.forbid: str | None = None
        """Answer every request 403 with this text."""
        self.retry_after = "0"
        """Seconds that an answer 429 asks to wait."""
        self.requests: list[tuple[str, str, int]] = []
        """Method, path with query and length of the body of each request."""
        self.upstream = requests.Session()
        self.upstream.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients that leave in the middle are part of the game."""


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    with serving(FaultProxy(target)) as server:
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.requests.append((self.command, self.path, length))
        if self.server.forbid:
            self.rfile.read(length)
            return self._answer(403, json.dumps({"error": {"message": self.server.forbid}}).encode())
        fault = self.server.plan(self.command, self.path)
        if fault == "reset":
            return self._reset()
        if fault == "reset_in_upload" and length:
            self.rfile.read(length // 2)
            return self._reset()
        body = self.rfile.read(length)
        if fault in ("503", "429"):
            return self._answer(int(fault), b"{}", {"Retry-After": self.server.retry_after} if fault == "429" else {})
        if fault == "race":
            self._be_first(body)
        answer = self._pass_on(body)
        if fault == "lost":
            return self._reset()
        content = answer.content
        is_object = "alt=media" in self.path and answer.status_code in (200, 206)
        if fault == "flipped" and is_object and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._answer(answer.status_code, content, answer.headers, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _pass_on(self, body: bytes) -> requests.Response:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding", "connection")}
        headers["Accept-Encoding"] = "identity"
        return self.server.upstream.request(
            self.command, self.server.target + self.path, data=body, headers=headers, timeout=30
        )

    def _be_first(self, body: bytes) -> None:
        """Does a conditional write before the client, as a writer of its own."""
        query = parse_qs(urlsplit(self.path).query)
        if self.command == "POST" and "ifGenerationMatch" in query and "/upload/" in self.path:
            self._pass_on(re.sub(rb'("writer": ?")[0-9a-f]{32}', rb"\g<1>" + os.urandom(16).hex().encode(), body))

    def _answer(self, status: int, body: bytes, headers: object = (), fault: str = "pass") -> None:
        self.send_response(status)
        for name, value in dict(headers).items():
            if name.lower().startswith(("x-goog", "content-type", "content-range", "retry-after", "location", "range")):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            return self._reset()
        if fault == "slow":
            step = max(1, len(body) // 5)
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                time.sleep(0.01)
            return
        self.wfile.write(body)

    def _reset(self) -> None:
        """Ends the connection so that the client sees a reset, not an orderly end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""
