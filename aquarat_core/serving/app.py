"""The web application: the routes of all rooms, behind the guards."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aquarat_core.serving import chat, login, reports
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.explorer import routes as explorer
from aquarat_core.serving.explorer.views import Explorer
from aquarat_core.serving.guard import App, Guard, Token
from aquarat_core.serving.metrics import TYPE, Metrics
from aquarat_core.serving.openai import routes as openai
from aquarat_core.serving.openai.errors import ApiError, answer_error
from aquarat_core.serving.pages import LINKS, error_handlers
from aquarat_core.serving.runs import routes as runs
from aquarat_core.serving.site import Site

CLOSED = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Headers of all responses that have no others of these names: a browser runs, loads and keeps nothing."""
OPEN = ("/health", login.PATH)
"""Paths that need no token."""


def application(site: Site, hosts: Iterable[str] = (), token: str | None = None) -> App:
    """All of the server, as an ASGI application.

    With a `token`, every request needs it, and the server may be reached by any IP address of its machine.
    """
    metrics = Metrics(site.worker)
    catalog = Catalog(site.store_uri)
    answers = Explorer(catalog)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": list(site.models)})

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type=TYPE)

    @asynccontextmanager
    async def working(_app: Starlette) -> AsyncGenerator[None]:
        site.worker.start()
        try:
            yield
        finally:
            site.worker.close()

    routes = [
        Route("/health", health),
        Route("/metrics", show_metrics),
        *openai.routes(site),
        *chat.routes(site, answers),
        *explorer.routes(site, answers),
        *runs.routes(catalog),
        *reports.routes(catalog),
    ]
    if token is not None:
        routes += login.routes(token)
    handlers = {**error_handlers(tuple(LINKS)), ApiError: answer_error, ClientDisconnect: _nobody}
    app: App = metrics.wrapped(Starlette(routes=routes, lifespan=working, exception_handlers=handlers))
    if token is not None:
        app = Token(app, token, login.refused, OPEN)
    return Guard(app, hosts, CLOSED, any_address=token is not None)


async def _nobody(_request: Request, _error: Exception) -> Response:
    """For a client that has gone: it gets nothing, and the log gets no trace."""
    return Response(status_code=499)
