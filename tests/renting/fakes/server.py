"""What all fake clouds share: strict HTTP, faults by script, rate limits, machines and their bills.

A fake knows the provider's API from its description, not from our clients. What it did not expect is answered as the
provider would, and kept in `complaints`, with which a test fails.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from tests.renting.fakes.clock import FakeClock
from tests.renting.fakes.machines import Fleet, Machine, NoFleet, Timing
from tests.renting.fakes.script import Effect, Script, Verb
from tests.serving import serving

KEY = "secret-canary-5a1d"
OTHER_KEY = "secret-of-somebody-else"
_LIBRARIES = ("python-requests", "Python-urllib", "python-httpx", "Go-http-client", "curl")


class CutOff(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    status: int
    data: Any = None
    raw: bytes | None = None
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def payload(self) -> bytes:
        return json.dumps(self.data).encode() if self.raw is None else self.raw


HTML = Answer(200, raw=b"<html><body>Just a moment...</body></html>", kind="text/html")
Act = Callable[[], Answer]


def _nobody(verb: Verb, when: Literal["before", "after"]) -> None:
    return


class FakeCloud:
    """One provider. Subclasses know its verbs (`route`), its errors (`error`), and how it bills."""

    from_running = False
    step = 60
    prefix = ""

    def __init__(
        self,
        clock: FakeClock,
        script: Script | None = None,
        timing: Timing | None = None,
        fleet: Fleet | None = None,
        every: float = 1.0,
        rent_every: float = 0.0,
    ) -> None:
        self.clock = clock
        self.script = script or Script()
        self.timing = timing or Timing()
        self.fleet = fleet or NoFleet()
        self.every, self.rent_every = every, rent_every
        self.started = clock.now()
        self.machines: list[Machine] = []
        self.complaints: list[str] = []
        self.too_fast = 0
        self.requests: list[tuple[Verb, Request]] = []
        self.looks: list[float] = []
        """When a list was answered in full."""
        self.keys_revoked_at: float | None = None
        self.interfere: Callable[[Verb, Literal["before", "after"]], None] = _nobody
        """Called before the fake acts upon a request, and before it answers. May raise `CutOff`."""
        self.address = ""
        self._last = self._last_rent = float("-inf")
        self._lock = threading.RLock()
        self._count = 0

    # what a provider adds

    def route(self, request: Request) -> tuple[Verb, Act] | None:
        """The verb of a request and what it does; None for a call that the API does not have."""
        raise NotImplementedError

    def error(self, status: int, code: str, message: str = "as scripted") -> Answer:
        raise NotImplementedError

    def fault(self, effect: Effect, verb: Verb) -> Answer:
        """An error in the provider's own form."""
        raise NotImplementedError

    def mangle(self, effect: Effect, answer: Answer) -> Answer:
        """The answer with what is strange about it."""
        raise NotImplementedError

    def authorized(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {KEY}"

    # for tests

    @contextmanager
    def serve(self) -> Iterator[FakeCloud]:
        """Serves on a port of this machine; `address` is the base of the API."""
        cloud = self

        class Handler(_Handler):
            fake = cloud

        with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
            self.address = f"http://127.0.0.1:{server.server_address[1]}{self.prefix}"
            yield self

    def alive(self) -> list[Machine]:
        """Those that are not gone and cost money, of our account."""
        return [one for one in self.machines if one.account == KEY and one.alive(self.clock.now())]

    def bill(self, account: str = KEY) -> int:
        """Micro-dollars up to now."""
        now = self.clock.now()
        return sum(one.bill(now, self.from_running, self.step) for one in self.machines if one.account == account)

    def add(self, machine: Machine) -> Machine:
        machine.address = self.fleet.boot(machine)
        self.machines.append(machine)
        return machine

    def new_id(self) -> str:
        self._count += 1
        return f"{self._count:032x}"

    def end(self, machine: Machine) -> None:
        if machine.end_asked is None:
            machine.end_asked = self.clock.now()
            self.fleet.stop(machine)

    def vanish(self, machine: Machine) -> None:
        """The host is gone without a word, as on a marketplace."""
        machine.vanished = self.clock.now()
        self.fleet.stop(machine)

    # for requests

    def complain(self, what: str) -> None:
        self.complaints.append(what)

    def answer(self, request: Request) -> Answer:
        with self._lock:
            agent = request.headers.get("user-agent", "")
            if not agent or agent.startswith(_LIBRARIES):
                return Answer(403, raw=b"error code: 1010", kind="text/plain")
            routed = self.route(request)
            if routed is None:
                self.complain(f"no such call: {request.method} {request.path}")
                return self.error(404, "not-found", "no such call")
            verb, act = routed
            self.requests.append((verb, request))
            if not self.authorized(request) or self._revoked():
                return self.fault("401", verb)
            if self._is_too_fast(verb):
                return self.error(429, "too-many-requests")
            self.interfere(verb, "before")
            effect = self.script.pick(verb, self.clock.now() - self.started)
            if effect is not None:
                return self._faulty(effect, verb, act)
            if verb == "list":
                self.looks.append(self.clock.now())
            answer = act()
            self.interfere(verb, "after")
            return answer

    def _revoked(self) -> bool:
        return self.keys_revoked_at is not None and self.clock.now() >= self.keys_revoked_at

    def _is_too_fast(self, verb: Verb) -> bool:
        now = self.clock.now()
        soon = now - self._last < self.every or (verb == "rent" and now - self._last_rent < self.rent_every)
        self.too_fast += soon
        if not soon:
            self._last = now
            self._last_rent = now if verb == "rent" else self._last_rent
        return soon

    def _faulty(self, effect: Effect, verb: Verb, act: Act) -> Answer:
        acted = act() if effect.startswith("then ") or effect not in _INSTEAD else None
        if effect == "then twice":
            act()
        match effect:
            case "then twice":
                return self.error(500, "global/internal-error")
            case "500" | "503" | "504" | "418" | "then 500" | "then 504" | "then 404":
                return self.error(int(effect[-3:]), "global/unknown")
            case "429" | "then 429":
                return self.error(429, "too-many-requests")
            case "429 with Retry-After":
                return Answer(429, self.error(429, "too-many-requests").data, headers=(("Retry-After", "7"),))
            case "401 html":
                return Answer(401, raw=HTML.raw, kind="text/html")
            case "403 html":
                return Answer(403, raw=HTML.raw, kind="text/html")
            case "403 error code 1010":
                return Answer(403, raw=b"error code: 1010", kind="text/plain")
            case "redirect" | "then redirect":
                return Answer(307, {}, headers=(("Location", f"{self.address}/elsewhere"),))
            case "cut" | "then cut":
                raise CutOff
            case "late" | "then late":
                return Answer(0)
            case "drip":
                return Answer(1)
            case "then half an answer":
                assert acted is not None
                return Answer(acted.status, raw=acted.payload[:-1], headers=(("Content-Length", "4096"),))
            case "html 200" | "then html":
                return HTML
            case "then broken json":
                return Answer(200, raw=b'{"data": ')
            case "then deep json":
                return Answer(200, raw=b"[" * 100_000 + b"]" * 100_000)
            case "then too long":
                return Answer(200, raw=b'"' + b"x" * 20_000_000 + b'"')
            case "not the provider's form":
                return Answer(400, {"detail": "a proxy's idea"})
            case (
                "401" | "no capacity" | "quota" | "inactive" | "unknown code" | "provider error" | "without effect"
                | "ghost"
            ):  # fmt: skip
                return self.fault(effect, verb)
            case _:
                assert acted is not None
                return self.mangle(effect, acted)


_INSTEAD = frozenset(
    {
        "500", "503", "504", "429", "429 with Retry-After", "418", "401", "401 html", "403 html", "403 error code 1010",
        "redirect", "cut", "late", "drip", "no capacity", "quota", "inactive", "unknown code",
        "not the provider's form", "provider error", "without effect", "ghost", "html 200",
    }
)  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    fake: FakeCloud
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        parts = urlsplit(self.path)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            self.fake.complain(f"not JSON: {raw[:80]!r}")
            body = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), body, headers)
        try:
            answer = self.fake.answer(request)
        except CutOff:
            return self._cut()
        if answer.status < 100:
            return self._delay(drip=answer.status == 1)
        self._send(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _send(self, answer: Answer) -> None:
        payload = answer.payload
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(payload)), "Connection": "close",
                   "Date": formatdate(self.fake.clock.now(), usegmt=True)}  # fmt: skip
        self.send_response_only(answer.status)
        for name, value in {**headers, **dict(answer.headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(payload)
        except OSError:
            return  # the client has left, as it should after too long an answer

    def _cut(self) -> None:
        """Ends the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def _delay(self, drip: bool) -> None:
        """Never answers in full; waits until the client has left."""
        if not drip:
            self.connection.recv(1)
            return
        self.connection.settimeout(0.05)
        try:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while True:
                self.connection.sendall(b"x")
                try:
                    if not self.connection.recv(1):
                        return
                except TimeoutError:
                    continue
        except OSError:
            return
