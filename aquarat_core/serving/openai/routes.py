"""`/v1/models`, `/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from aquarat_core.serving.openai import chat, completions
from aquarat_core.serving.openai.answering import Part
from aquarat_core.serving.openai.bodies import ChatBody, TextBody, parse
from aquarat_core.serving.openai.envelope import first_of
from aquarat_core.serving.openai.errors import ApiError
from aquarat_core.serving.responses import EventStream, read_body, while_connected
from aquarat_core.serving.site import Served, Site


def routes(site: Site) -> list[BaseRoute]:
    """The routes of the API."""

    def served(name: str) -> Served:
        found = site.models.get(name)
        if found is None:
            known = ", ".join(site.models)
            raise ApiError(404, f"there is no model {name!r} here: this server has {known}", "model_not_found", "model")
        return found

    async def answer(
        request: Request, asked: chat.Chat | completions.Text, parts: AsyncGenerator[Part], stream: bool
    ) -> JSONResponse | EventStream:
        if not stream:
            return JSONResponse(await while_connected(request, asked.whole(parts)))
        first = await while_connected(request, first_of(parts))
        return EventStream(asked.events(first, parts), parts, site.send_seconds)

    async def models(_request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(one) for one in site.models.values()]})

    async def model(request: Request) -> JSONResponse:
        return JSONResponse(_model(served(request.path_params["name"])))

    async def chat_completions(request: Request) -> JSONResponse | EventStream:
        body = parse(ChatBody, await read_body(request))
        body.check()
        one = chat.Chat.prepare(served(body.model), body)
        return await answer(request, one, one.parts(site.seconds), bool(body.stream))

    async def text_completions(request: Request) -> JSONResponse | EventStream:
        body = parse(TextBody, await read_body(request))
        body.check()
        one = completions.Text.prepare(served(body.model), body)
        return await answer(request, one, one.parts(site.seconds), bool(body.stream))

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", text_completions, methods=["POST"]),
    ]


def _model(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "aquarat",
        "max_model_len": served.model.config.sequence_len,
    }
