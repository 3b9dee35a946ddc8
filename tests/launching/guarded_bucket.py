"""A bucket that asks who is there: the exchange of tokens as Google's does it, and then only what a token allows.

It stands before the emulator, which knows no permissions. The control host's own token opens everything; one that was
exchanged for it opens what the rules of its exchange say, for `lives` seconds: which objects, by the beginnings of
their names, and what may be done with them.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google.auth.transport.requests
import requests

from tests.serving import serving

EXCHANGE = "https://sts.googleapis.com/v1/token"
PROMISED_SECONDS = 1200
_NAMED = re.compile(r"resource\.name\.startsWith\('projects/_/buckets/[^/]+/objects/([^']+)'\)")
_LISTED = re.compile(r"objectListPrefix', ''\)\.startsWith\('([^']+)'\)")
RIGHTS = {
    "inRole:roles/storage.objectUser": {"get", "list", "create", "change"},
    "inRole:roles/storage.objectViewer": {"get", "list"},
    "inRole:roles/storage.objectCreator": {"create"},
}


class GuardedBucket(ThreadingHTTPServer):
    """`narrow` is what every exchanged token begins with; `used` and `refused` are the tokens that came."""

    daemon_threads = True

    def __init__(self, emulator: str, own: str, narrow: str, lives: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.emulator = emulator
        self.own, self.narrow, self.lives = own, narrow, lives
        self.minted: dict[str, tuple[dict[str, set[str]], float]] = {}
        """Rights by the beginnings of names, and the end (monotonic), of every token."""
        self.used: set[str] = set()
        self.refused: list[str] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def mint(self, fields: dict[str, str]) -> str | None:
        """A new token for an exchange as RFC 8693 has it; None for one that Google would refuse."""
        if fields.get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange":
            return None
        if fields.get("subject_token") != self.own:
            return None
        rights: dict[str, set[str]] = {}
        for rule in json.loads(unquote(fields["options"]))["accessBoundary"]["accessBoundaryRules"]:
            expression = rule["availabilityCondition"]["expression"]
            granted = set().union(*(RIGHTS[permission] for permission in rule["availablePermissions"]))
            for start in _NAMED.findall(expression):
                rights.setdefault(start, set()).update(granted - {"list"})
            for start in _LISTED.findall(expression):
                rights.setdefault(start, set()).update(granted & {"list"})
        with self._lock:
            token = f"{self.narrow}-{len(self.minted)}"
            self.minted[token] = (rights, time.monotonic() + self.lives)
        return token

    def status_for(self, method: str, token: str, path: str, body: bytes) -> int:
        """200, 401 for a token that is none or none any more, 403 for what it does not open."""
        if token == self.own:
            return 200
        rights, end = self.minted.get(token, ({}, 0.0))
        if time.monotonic() > end:
            self.refused.append(f"{token} {path}")
            return 401
        self.used.add(token)
        name, wanted = _named(path, body), self._wanted(method, path)
        if any(wanted in granted and name.startswith(start) for start, granted in rights.items()):
            return 200
        self.refused.append(f"{token} {path}")
        return 403

    def _wanted(self, method: str, path: str) -> str:
        """What the request does. An upload that must find nothing there creates; one that may replace, changes."""
        query = parse_qs(urlsplit(path).query)
        if method == "GET":
            return "get" if re.search(r"/o/[^/?]+", path) else "list"
        if "/upload/" in path:
            return "create" if method == "PUT" or query.get("ifGenerationMatch") == ["0"] else "change"
        return "change"

    def request(self, url: str, method: str = "GET", **given: Any) -> Any:
        """As google-auth asks the world; only the exchange may be asked for."""
        assert (url, method) == (EXCHANGE, "POST")
        return google.auth.transport.requests.Request()(f"{self.url}/exchange", method=method, **given)


class _Handler(BaseHTTPRequestHandler):
    server: GuardedBucket
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/exchange":
            token = self.server.mint({name: values[0] for name, values in parse_qs(body.decode()).items()})
            granted = {"access_token": token, "expires_in": PROMISED_SECONDS, "token_type": "Bearer"}
            return self._answer(200 if token else 400, json.dumps(granted).encode())
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status = self.server.status_for(self.command, token, self.path, body)
        if status != 200:
            return self._answer(status, json.dumps({"error": {"message": "refused", "code": status}}).encode())
        kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "range")}
        answer = requests.request(
            self.command, self.server.emulator + self.path, data=body, timeout=30,
            headers={**kept, "Accept-Encoding": "identity"},
        )  # fmt: skip
        self._answer(answer.status_code, answer.content, dict(answer.headers))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower().startswith(("x-goog", "content-type", "content-range", "location", "range")):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""


def _named(path: str, body: bytes) -> str:
    """The object that a request is about, or the prefix that it lists; empty for the bucket itself."""
    parts = urlsplit(path)
    query = parse_qs(parts.query)
    if found := re.search(r"/b/[^/]+/o/([^/?]+)", parts.path):
        return unquote(found[1])
    if query.get("uploadType") == ["multipart"] and (found := re.search(rb'"name": ?"([^"]+)"', body)):
        return found[1].decode()
    return (query.get("name") or query.get("prefix") or [""])[0]


@contextmanager
def guarded(emulator: str, **terms: Any) -> Iterator[GuardedBucket]:
    with serving(GuardedBucket(emulator, **terms)) as server:
        yield server
