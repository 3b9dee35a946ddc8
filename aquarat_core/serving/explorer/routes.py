"""The explorer's page and the endpoints that its script asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aquarat_core.errors import UserError
from aquarat_core.serving.explorer.models import Models
from aquarat_core.serving.explorer.views import MAX_PAGES, Explorer
from aquarat_core.serving.pages import LINKS, data, endpoint, in_thread, number, page, refreshed, text_of
from aquarat_core.serving.site import Site

MAX_SAMPLE = 10_000
MAX_PLACE = 1_000_000
REMEMBERED = 64
"""Results of looking into a checkpoint that are kept."""
VIEWS = ("tokens", "lens", "attention")


def routes(site: Site, explorer: Explorer, links: Sequence[str] = tuple(LINKS)) -> list[BaseRoute]:
    """The routes of the explorer; `explorer` reads the site's store."""
    there = _Endpoints(site, explorer, links)
    return [
        Route("/explore", there.page),
        Route("/explore/reports", endpoint(there.reports)),
        Route("/explore/questions", endpoint(there.questions)),
        Route("/explore/question", endpoint(there.question)),
        Route("/explore/history", endpoint(there.history)),
        Route("/explore/inside", endpoint(there.inside)),
    ]


class _Endpoints:
    def __init__(self, site: Site, explorer: Explorer, links: Sequence[str]) -> None:
        self._explorer = explorer
        self._models = Models(site)
        self._links = links
        self._remembered: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    async def page(self, request: Request) -> Response:
        return page("explore", ("explore_question", "explore_inside")).response(request, self._links)

    async def reports(self, request: Request) -> Response:
        return refreshed(request, await in_thread(self._explorer.reports))

    async def questions(self, request: Request) -> Response:
        chosen = [text_of(request, name) for name in ("report", "other", "evaluation", "filter", "text", "around")]
        at = number(request, "page", 0, MAX_PAGES)
        return refreshed(request, await in_thread(self._explorer.questions, *chosen, at))

    async def question(self, request: Request) -> Response:
        chosen = [text_of(request, name) for name in ("report", "other", "evaluation", "question")]
        return refreshed(request, await in_thread(self._explorer.question, *chosen))

    async def history(self, request: Request) -> Response:
        chosen = [text_of(request, name) for name in ("report", "evaluation", "question")]
        return refreshed(request, await in_thread(self._explorer.history, *chosen))

    async def inside(self, request: Request) -> Response:
        """One of `VIEWS` of an answer, computed by the checkpoint that gave it."""
        report, evaluation, question = (text_of(request, name) for name in ("report", "evaluation", "question"))
        view = text_of(request, "view")
        if view not in VIEWS:
            raise UserError(f"view must be one of {', '.join(VIEWS)}")
        sample = number(request, "sample", 0, MAX_SAMPLE)
        places = [number(request, name, 0, MAX_PLACE) for name in ("token", "layer", "head")]
        answers, name, row = await in_thread(self._explorer.row, report, evaluation, question, sample)
        key = (answers.report.sha256, name, question, sample, view, *places)
        if key not in self._remembered:
            checkpoint = await in_thread(self._explorer.checkpoint_of, answers.report)
            self._remembered[key] = await self._computed(checkpoint, answers, name, row, view, *places)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return data(self._remembered[key])

    async def _computed(
        self, checkpoint: Any, answers: Any, name: str, row: int, view: str, token: int, layer: int, head: int
    ) -> dict[str, Any]:
        # Imports torch, which takes seconds.
        from aquarat_core.serving.explorer.inside import attention_view, encoded, lens_view, token_view

        prompt, completion = answers.text("question", row), answers.written(name, row)
        ended, letters = answers.answers[row].stop_reason == "stop", answers.letters(name)

        def work(model: Any) -> dict[str, Any]:
            asked = encoded(model.tokenizer, prompt, completion, ended, model.config.sequence_len)
            if view == "tokens":
                return token_view(model, asked)
            if view == "lens":
                return lens_view(model, asked, letters, token)
            return attention_view(model, asked, layer, head)

        return await self._models.run(checkpoint, work)
