"""Web pages made of parts in `static/`: each is one file with its own style and script, and loads nothing else.

Its Content-Security-Policy names the SHA-256 hashes of these two blocks, so the browser runs nothing that a stored text
smuggled in. The scripts put text on the page as text, never as HTML.
"""

from __future__ import annotations

import functools
import hashlib
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from aquarat_core.errors import UserError

STATIC = Path(__file__).parent / "static"
LINKS: Mapping[str, tuple[str, str]] = {
    "chat": ("", "Chat"),
    "explore": ("explore", "Explorer"),
    "runs": ("runs", "Runs"),
    "reports": ("reports", "Reports"),
}
"""The pages by name: the path under the root of the site, and the text of the link."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """A page without the links of its header, which depend on the site."""

    template: Template
    csp: str

    def response(self, request: Request, links: Sequence[str], status: int = 200) -> Response:
        """The page with links to those pages of `LINKS`."""
        root = str(request.scope.get("root_path", "")).rstrip("/")
        here = request.url.path.removeprefix(root).strip("/")
        anchors = (
            f'<a href="{escape(f"{root}/{path}")}"{_current(here == path)}>{text}</a>'
            for path, text in (LINKS[name] for name in links)
        )
        html = self.template.substitute(root=escape(root), nav="\n".join(anchors))
        return HTMLResponse(html, status, {**HEADERS, "Content-Security-Policy": self.csp})


@functools.cache
def page(name: str, scripts: tuple[str, ...] = (), title: str | None = None) -> Page:
    """The page `static/<name>.html` with the shared style and script, its own, and further `scripts`.

    `title` is that of the browser's tab.
    """
    style = "".join(_part(f"{part}.css") for part in ("shared", name))
    script = "".join(_part(f"{part}.js") for part in ("shared", *scripts, name))
    return _assembled(_part(f"{name}.html"), style, script, title or LINKS[name][1])


def message(request: Request, status: int, title: str, text: str, links: Sequence[str]) -> Response:
    """A page that only says something, such as that there is no such page."""
    body = f"<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>"
    return _assembled(body, _part("shared.css"), "", title).response(request, links, status)


def data(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON for a page's script."""
    return JSONResponse(value, status, {**HEADERS, **(headers or {})})


def refreshed(request: Request, value: Any) -> Response:
    """The same with an ETag: an empty 304 if the browser already has these bytes."""
    found = data(value)
    tag = f'"{hashlib.sha256(bytes(found.body)).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**HEADERS, "ETag": tag})
    found.headers["ETag"] = tag
    return found


def failed(status: int, text: str) -> Response:
    """An error in the form of the API's own."""
    return data({"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}, status)


def endpoint(
    function: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint with a `UserError` answered by its message: 404 for what is not in the store, 400 otherwise."""

    @functools.wraps(function)
    async def answered(request: Request) -> Response:
        try:
            return await function(request)
        except UserError as e:
            return failed(404 if isinstance(e, NotFound) else 400, str(e))

    return answered


class NotFound(UserError):
    """A page, report or question that does not exist."""


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Runs a function that reads a store in a thread."""
    return await run_in_threadpool(function, *arguments)


def number(request: Request, name: str, default: int, most: int) -> int:
    """A whole number from 0 to `most` in the query. Raises `UserError` for anything else."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise UserError(f"{name} must be a whole number from 0 to {most:,}")
    return int(text)


def text_of(request: Request, name: str, most: int = 500) -> str:
    """A text in the query; empty without one. Raises `UserError` for a longer one than `most` characters."""
    text = request.query_params.get(name, "")
    if len(text) > most:
        raise UserError(f"{name} has more than {most} characters")
    return text


def error_handlers(links: Sequence[str]) -> dict[Any, Any]:
    """Starlette's `exception_handlers`: pages for people, JSON for programs."""

    async def http_error(request: Request, error: HTTPException) -> Response:
        if not _for_people(request):
            return failed(error.status_code, str(error.detail))
        if error.status_code == 404:
            return message(
                request, 404, "There is no such page", f"Nothing is served at {request.url.path[:200]}.", links
            )
        return message(request, error.status_code, "This did not work", str(error.detail), links)

    async def fault(request: Request, error: Exception) -> Response:
        del error  # the server's log has it
        text = "The server made a mistake. Its log, in the terminal where it was started, says which."
        if not _for_people(request):
            return failed(500, text)
        return message(request, 500, "Something went wrong", text, links)

    return {HTTPException: http_error, Exception: fault}


def _for_people(request: Request) -> bool:
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")


def _current(here: bool) -> str:
    return ' aria-current="page"' if here else ""


def _part(name: str) -> str:
    path = STATIC / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _assembled(body: str, style: str, script: str, title: str) -> Page:
    html = Template(_part("page.html")).safe_substitute(
        title=escape(title),
        # A `$` in these parts is meant; only the page's own places are filled in later.
        style=style.replace("$", "$$"),
        script=script.replace("$", "$$"),
        body=body.replace("$", "$$"),
    )
    sources = [f"script-src '{_hash(script)}'"] if script else []
    csp = "; ".join(
        [
            "default-src 'none'",
            *sources,
            f"style-src '{_hash(style)}'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Page(Template(html), csp)


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
