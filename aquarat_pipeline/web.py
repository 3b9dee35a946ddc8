"""Dagster's web server behind a guard: `python -m aquarat_pipeline.web OPTIONS`, or `... dev OPTIONS` with its daemon.

The server executes any GraphQL that it receives, even by GET, and checks neither the sender nor the host name of the
request. Any web page open in the same browser could launch runs with the address of an image, and with its own name
that
resolves to 127.0.0.1 also read the responses. The guard accepts requests of the UI itself, and of programs that are not
browsers, such as curl on this machine.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOSTS = "AQUARAT_UI_HOSTS"
"""Further names under which the UI may be reached, for example behind a proxy, separated by commas."""
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_READING = ("GET", "HEAD", "OPTIONS")
_FRAMING = [(b"x-frame-options", b"DENY"), (b"content-security-policy", b"frame-ancestors 'none'")]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware that answers 403 to requests from other web pages and to unknown names of this server."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = {*_LOCAL, *(host.strip().lower() for host in hosts if host.strip())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        why = self._refusal(scope)
        if why is None:
            await self._app(scope, receive, _unframed(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
        else:
            body = f"{why}\n".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers + _FRAMING})
            await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> str | None:
        """Why the request is refused; None if it is accepted."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        host = headers.get("host", [])
        if len(host) != 1 or _name(host[0]) not in self._hosts:
            return f"the host name in the request is unknown to this server: if it is yours, add it to {HOSTS}"
        method = scope.get("method", "GET")
        # A link on another page may lead here, but requests that a page makes by itself may not.
        followed = headers.get("sec-fetch-mode") == ["navigate"] and headers.get("sec-fetch-dest") == ["document"]
        site = headers.get("sec-fetch-site", ["none"])
        if site not in (["same-origin"], ["none"]) and not (followed and method == "GET"):
            return "requests from other web pages are refused"
        for origin in headers.get("origin", []):
            if _place(origin) != host[0].lower():
                return "requests from other web pages are refused"
        if scope["type"] == "http" and method in _READING and scope["path"].rstrip("/").endswith("/graphql"):
            asked = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
            if "query" in asked or "mutation" in asked:
                return "GraphQL is only accepted by POST: opening a link must not change anything"
        return None


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


def _unframed(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_FRAMING]
        await send(message)

    return with_headers


def main(arguments: list[str]) -> None:
    """Runs the guarded server; with `dev`, also starts the daemon and the code server, like `dagster dev`."""
    from aquarat_pipeline import _compat

    if arguments[:1] == ["dev"]:
        # On SIGTERM, Dagster does the same as on SIGINT, which background processes of a script ignore, so they would
        # never
        # end.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _compat.dev(arguments[1:], web_server=__spec__.name if __spec__ else "aquarat_pipeline.web")
    else:
        hosts = os.environ.get(HOSTS, "").split(",")
        _compat.web_server(arguments, lambda app: Guard(app, hosts))


if __name__ == "__main__":
    main(sys.argv[1:])
