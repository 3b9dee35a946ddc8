"""Dagster's web server behind a guard: `python -m aquarat_pipeline.web OPTIONS`, or `... dev OPTIONS` with its daemon.

The server executes any GraphQL that it receives, even by GET, and checks neither the sender nor the host name of the
request. Any web page open in the same browser could launch runs with the address of an image, and with its own name
that resolves to 127.0.0.1 also read the responses. The guard accepts requests of the UI itself, and of programs that
are not browsers, such as curl on this machine.

Under `/aquarat` it also serves the stored pages of reports and the live page of running stages, so that the links on an
asset's page work in every browser that shows the UI.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from urllib.parse import parse_qs

from aquarat_core.serving import guard
from aquarat_core.serving.guard import App, Message, Receive, Scope, Send

HOSTS = "AQUARAT_UI_HOSTS"
"""Further names under which the UI may be reached, for example behind a proxy, separated by commas."""
PAGES = "/aquarat"
"""The path of our own pages."""
_READING = ("GET", "HEAD", "OPTIONS")
_LINKED = ("runs", "reports")


class Guard(guard.Guard):
    """ASGI middleware that answers 403 to requests from other web pages and to unknown names of this server."""

    how_to_add = f"add it to {HOSTS}"

    def refusal(self, scope: Scope, headers: Mapping[str, list[str]]) -> str | None:
        """Why the request is refused; None if it is accepted."""
        if why := super().refusal(scope, headers):
            return why
        reading = scope["type"] == "http" and scope.get("method", "GET") in _READING
        if reading and scope["path"].rstrip("/").endswith("/graphql"):
            asked = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
            if "query" in asked or "mutation" in asked:
                return "GraphQL is only accepted by POST: opening a link must not change anything"
        return None

    def _with_headers(self, send: Send) -> Send:
        """Dagster's pages have a policy of their own, which says nothing about frames: browsers apply both."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *guard.UNFRAMED]
            await send(message)

        return with_headers


class Pages:
    """ASGI middleware that answers requests under `PAGES` itself; the store is opened with the first of them."""

    def __init__(self, app: App, store_uri: str) -> None:
        self._app, self._store_uri = app, store_uri
        self._pages: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PAGES}/"):
            self._pages = self._pages or _pages(self._store_uri)
            await self._pages(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _pages(store_uri: str) -> App:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from aquarat_core.serving import reports
    from aquarat_core.serving.catalog import Catalog
    from aquarat_core.serving.pages import error_handlers
    from aquarat_core.serving.runs import routes as runs

    catalog = Catalog(store_uri)
    routes = [*reports.routes(catalog, _LINKED), *runs.routes(catalog, _LINKED)]
    return Starlette(routes=[Mount(PAGES, routes=routes)], exception_handlers=error_handlers(_LINKED))


def main(arguments: list[str]) -> None:
    """Runs the guarded server; with `dev`, also starts the daemon and the code server, like `dagster dev`."""
    from aquarat_pipeline import _compat

    if arguments[:1] == ["dev"]:
        # On SIGTERM, Dagster does the same as on SIGINT, which background processes of a script ignore, so they would
        # never end.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _compat.dev(arguments[1:], web_server=__spec__.name if __spec__ else "aquarat_pipeline.web")
    else:
        from aquarat_core.settings import store_uri

        hosts = os.environ.get(HOSTS, "").split(",")
        _compat.web_server(arguments, lambda app: Guard(Pages(app, store_uri()), hosts))


if __name__ == "__main__":
    main(sys.argv[1:])
