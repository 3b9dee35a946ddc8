"""The web application: routes of all rooms behind the guards."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aquarat_core.serving.guard import App, Guard
from aquarat_core.serving.site import Site

CLOSED = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Headers of all responses that have no others of these names: a browser runs, loads and keeps nothing."""


def application(site: Site) -> App:
    """All of the server, as an ASGI application."""

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": list(site.models)})

    app = Starlette(routes=[Route("/health", health)])
    return Guard(app, headers=CLOSED)
