"""The login page of a server that is bound to more than this machine: it puts the token into a cookie."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from aquarat_core.serving.guard import Receive, Scope, Send, Token
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.responses import read_body

PATH = "/login"
POLICY = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>aquarat: log in</title>
<h1>aquarat</h1>
<p>{said}</p>
<form method="post" action="/login"><label>Token <input type="password" name="token" autocomplete="current-password"
required autofocus></label> <button>Log in</button></form>
</html>
"""
ASK = "This server needs the token that it was started with."


def routes(token: str) -> list[BaseRoute]:
    """The login page."""
    checked = Token(_unused, token, _unused)

    async def show(_request: Request) -> Response:
        return _page(ASK, 200)

    async def log_in(request: Request) -> Response:
        given = parse_qs((await read_body(request)).decode(errors="replace")).get("token", [""])[0]
        if not checked.is_token(given.strip()):
            return _page("That is not the token.", 401)
        response = RedirectResponse("/", 303)
        # Not "strict": a link from a report, which has no origin, to the explorer would lead to the login page again.
        response.set_cookie(Token.COOKIE, token, httponly=True, samesite="lax", secure=request.url.scheme == "https")
        return response

    return [Route(PATH, show), Route(PATH, log_in, methods=["POST"])]


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    """What a request without the token gets: browsers the login page, programs an error."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    accepts = b"".join(value for name, value in scope["headers"] if name == b"accept")
    if b"text/html" in accepts and scope["method"] == "GET":
        response: Response = RedirectResponse(PATH, 303)
    else:
        error = ApiError(401, "this server needs its token: send it as Authorization: Bearer", "invalid_api_key")
        response = JSONResponse(error.body, 401, {"www-authenticate": "Bearer"})
    await response(scope, receive, send)


def _page(said: str, status: int) -> Response:
    # With no referrer at all, a browser sends the form with the origin "null", which the guard refuses.
    headers = {"content-security-policy": POLICY, "referrer-policy": "same-origin"}
    return HTMLResponse(PAGE.format(said=said), status, headers)


async def _unused(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("only the token is checked")
