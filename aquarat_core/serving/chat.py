"""The chat page. Answers come from the API; what is here tells the page about the models, and reads their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, cast

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.survey import ancestry
from aquarat_core.errors import UserError
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.explorer.views import Explorer
from aquarat_core.serving.openai.bodies import parse
from aquarat_core.serving.pages import LINKS, NotFound, data, endpoint, in_thread, page, refreshed, text_of
from aquarat_core.serving.responses import read_body
from aquarat_core.serving.site import Served, Site
from aquarat_core.tasks.choice import MARKER, parse_letter
from aquarat_core.tasks.origin import questions_of, warning_about
from aquarat_core.tasks.registry import DATASETS, TASKS, load_task


def routes(site: Site, explorer: Explorer, links: Sequence[str] = tuple(LINKS)) -> list[BaseRoute]:
    """The chat page at `/`, and its endpoints."""
    there = _Endpoints(site, explorer, links)
    return [
        Route("/", there.page),
        Route("/chat/models", endpoint(there.models)),
        Route("/chat/example", endpoint(there.example)),
        Route("/chat/answer", endpoint(there.answer), methods=["POST"]),
    ]


class _Endpoints:
    def __init__(self, site: Site, explorer: Explorer, links: Sequence[str]) -> None:
        self._site = site
        self._links = links
        self._explorer = explorer
        self._known: dict[str, dict[str, Any]] = {}
        self._catalogs = {explorer.catalog.store.uri: explorer.catalog}

    async def page(self, request: Request) -> Response:
        return page("chat").response(request, self._links)

    async def models(self, request: Request) -> Response:
        """The models that are served, the first one first."""
        found = [await self._described(name) | await self._names(name) for name in self._site.models]
        return refreshed(request, {"models": found})

    async def example(self, request: Request) -> Response:
        """A question that an evaluation has asked the model."""
        served = self._served(text_of(request, "model"))
        if served.artifact is None:
            raise NotFound(f"{served.name} is from a folder: no report has asked it anything")
        return data({"text": await in_thread(self._explorer.example, served.artifact)})

    async def answer(self, request: Request) -> Response:
        """The letter that an answer of `model` gives, as evaluations read it; null for none."""
        said = parse(Said, await read_body(request))
        letters: str = (await self._described(self._served(said.model).name))["letters"]
        return data({"letter": parse_letter(said.text, letters) if letters else None})

    def _served(self, name: str) -> Served:
        if name not in self._site.models:
            raise NotFound(f"there is no model {name[:100]!r} here: this server has {', '.join(self._site.models)}")
        return self._site.models[name]

    async def _described(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            self._known[name] = await in_thread(described, self._site.models[name])
        return self._known[name]

    async def _names(self, name: str) -> dict[str, list[str]]:
        """The names of a model's artifact; they can change while it is served, unlike what is described."""
        if (artifact := self._site.models[name].artifact) is None:
            return {"names": []}
        uri = artifact.store.uri
        if uri not in self._catalogs:
            self._catalogs[uri] = Catalog(uri)
        return {"names": await in_thread(self._catalogs[uri].names_of, artifact.sha256)}


class Said(BaseModel):
    """An answer of a model."""

    model_config = ConfigDict(strict=True)

    model: str
    text: str


def described(served: Served) -> dict[str, Any]:
    """The facts that the page shows about a model: its context, the letters of its answers, and a warning if there is
    one."""
    artifact = served.artifact
    found: dict[str, Any] = {
        "id": served.name,
        "context": served.model.config.sequence_len,
        "manifest": artifact.sha256 if artifact else None,
        "asset": artifact.asset if artifact else None,
        "letters": "",
        "form": None,
        "warning": None,
    }
    if artifact is not None:
        try:
            letters = letters_of(artifact)
            found |= {
                "letters": letters,
                "form": f"{MARKER}X" if letters else None,
                "warning": _warning(questions_of(artifact)),
            }
        except (ArtifactError, UserError):
            pass  # an ancestor that is damaged or gone: the model can be asked all the same
    return found


def letters_of(artifact: Artifact) -> str:
    """The letters with which a checkpoint was taught to answer; empty if its tasks have none, or are not known."""
    related = ancestry(artifact.store, [artifact.sha256], lambda a: a.manifest.kind in ("checkpoint", "release"))
    names: set[str] = set()
    for found in related.values():
        if isinstance(found, Artifact):
            names |= {DATASETS[found.asset]} if found.asset in DATASETS else _tasks(found.manifest.config)
    categories = {letter for name in names & TASKS.keys() for letter in load_task(name).categories}
    return "".join(sorted(categories)) if categories and categories <= set(ascii_uppercase) else ""


def _tasks(config: Mapping[str, Any]) -> set[str]:
    """The tasks that the config of an RL stage names."""
    tasks = config.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(one, dict) for one in cast("list[object]", tasks)):
        return set()
    return {str(one.get("name")) for one in cast("list[Mapping[str, object]]", tasks)}


def _warning(questions: str | None) -> str | None:
    """The warning about answers of a model that was trained on such questions."""
    if warning_about(questions) is None:
        return None
    return (
        f"This model was trained on {questions}. It answers such questions, in the form that it was trained on, and "
        "hardly anything else; how well it does says nothing about real ones."
    )
