"""ASGI middleware that refuses requests which a browser sends on behalf of another web page.

A server on 127.0.0.1 is reachable by every page that is open in the same browser: by its address, and by a name of the
page's own that resolves to 127.0.0.1 (DNS rebinding). So the Host header must be a name of this server, and requests
that a browser marks as coming from elsewhere are refused. Programs that are not browsers, such as curl, pass.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

LOCAL = ("127.0.0.1", "localhost", "[::1]")
UNFRAMED: Headers = ((b"x-frame-options", b"DENY"), (b"content-security-policy", b"frame-ancestors 'none'"))


class Guard:
    """Answers 403 to requests from other web pages and to unknown names of this server.

    `hosts` are further names that it may be reached by. Responses get `headers` unless they have their own of the same
    name.
    """

    def __init__(
        self, app: App, hosts: Iterable[str] = (), headers: Headers = UNFRAMED, any_address: bool = False
    ) -> None:
        """With `any_address`, any IP address is a name of this server: no DNS name can be made to look like one."""
        self._app, self._headers, self._any_address = app, headers, any_address
        self._hosts = {*LOCAL, *(host.strip().lower() for host in hosts if host.strip())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        why = self.refusal(scope, _headers(scope))
        if why is None:
            await self._app(scope, receive, self._with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
        else:
            body = f"{why}\n".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": [*headers, *self._headers]})
            await send({"type": "http.response.body", "body": body})

    def refusal(self, scope: Scope, headers: Mapping[str, list[str]]) -> str | None:
        """Why the request is refused; None if it is accepted."""
        host = headers.get("host", [])
        if len(host) != 1 or not self._is_known(_name(host[0])):
            return f"the host name in the request is unknown to this server: if it is yours, {self.how_to_add}"
        # A link on another page may lead here, but requests that a page makes by itself may not.
        followed = headers.get("sec-fetch-mode") == ["navigate"] and headers.get("sec-fetch-dest") == ["document"]
        site = headers.get("sec-fetch-site", ["none"])
        if site not in (["same-origin"], ["none"]) and not (followed and scope.get("method", "GET") == "GET"):
            return "requests from other web pages are refused"
        if any(_place(origin) != host[0].lower() for origin in headers.get("origin", [])):
            return "requests from other web pages are refused"
        return None

    how_to_add = "name it with --allow-host"
    """How the user adds a host name, as the end of a sentence."""

    def _is_known(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            return self._any_address and bool(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            return False

    def _with_headers(self, send: Send) -> Send:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", []))
                names = {name.lower() for name, _ in own}
                message["headers"] = [*own, *(one for one in self._headers if one[0] not in names)]
            await send(message)

        return with_headers


class Token:
    """ASGI middleware that demands a token, as a bearer token or in the cookie that the login page sets.

    Paths in `open_paths` need none.
    """

    COOKIE = "aquarat_token"

    def __init__(self, app: App, token: str, refused: App, open_paths: Iterable[str] = ()) -> None:
        """`refused` answers requests without the token."""
        self._app, self._token, self._refused, self._open = app, token.encode(), refused, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = scope["type"] == "lifespan" or scope.get("path") in self._open or self._has_token(_headers(scope))
        await (self._app if allowed else self._refused)(scope, receive, send)

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)

    def _has_token(self, headers: Mapping[str, list[str]]) -> bool:
        for value in headers.get("authorization", []):
            scheme, _, given = value.partition(" ")
            if scheme.lower() == "bearer" and self.is_token(given.strip()):
                return True
        # Cookies of servers at other ports of this machine come along: one in a strange form must not hide ours, and
        # one with our name may be theirs.
        for one in (part for value in headers.get("cookie", []) for part in value.split(";")):
            try:
                cookie = SimpleCookie(one).get(self.COOKIE)
            except CookieError:
                continue
            if cookie and self.is_token(cookie.value):
                return True
        return False


def _headers(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    host = host.lower()
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _place(origin: str) -> str | None:
    """Name and port in an Origin header; None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
