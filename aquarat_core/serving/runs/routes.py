"""The live page and its endpoints. Needs no torch: Dagster's web server can serve the same routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aquarat_core.artifacts import Artifact
from aquarat_core.serving.catalog import Catalog
from aquarat_core.serving.pages import (
    LINKS,
    NotFound,
    data,
    endpoint,
    in_thread,
    number,
    page,
    refreshed,
    text_of,
)
from aquarat_core.serving.runs.curves import METRICS, SHOWN, Curves, of_artifact
from aquarat_core.serving.runs.folders import Jobs

MAX_CHUNK = 999_999_999
CHECKPOINTS = 100
"""Stored checkpoints that are offered."""
ACTIVE = ("running", "stopping")


def routes(catalog: Catalog, links: Sequence[str] = tuple(LINKS)) -> list[BaseRoute]:
    """`/runs`, with the pages of `pages.LINKS` that the same server has as links."""
    there = _Endpoints(catalog, links)
    return [
        Route("/runs", there.page),
        Route("/runs/data", endpoint(there.data)),
        Route("/runs/curves", endpoint(there.curves)),
    ]


class _Endpoints:
    def __init__(self, catalog: Catalog, links: Sequence[str]) -> None:
        self._jobs = Jobs(catalog.store)
        self._curves = Curves(self._jobs)
        self._catalog = catalog
        self._links = links

    async def page(self, request: Request) -> Response:
        return page("runs", ("chart",)).response(request, self._links)

    async def data(self, request: Request) -> Response:
        """All that the page lists; it is asked every few seconds, and mostly answered by 304."""
        return refreshed(request, await in_thread(self._listed))

    async def curves(self, request: Request) -> Response:
        """The rows of `job` after a chunk's number, or those of the stored `artifact`."""
        job, artifact = text_of(request, "job"), text_of(request, "artifact")
        after = number(request, "after", 0, MAX_CHUNK)
        if artifact:
            return data(await in_thread(lambda: of_artifact(self._catalog.find(artifact))))
        return data(await in_thread(self._of_job, job, after))

    def _of_job(self, job: str, after: int) -> dict[str, Any]:
        folder = self._jobs.find(job)
        if folder is None:
            raise NotFound(f"there is no job {job[:100]!r} among the latest: choose one from the list")
        return self._curves.of_job(folder, after)

    def _listed(self) -> dict[str, Any]:
        found, left_out = self._jobs.latest()
        states = self._jobs.states()
        for folder, state in zip(found, states, strict=False):
            if state["state"] in ACTIVE:
                state["progress"] = self._curves.progress(folder)
        kept = [a for a in self._catalog.artifacts() if any(entry.path == METRICS for entry in a.manifest.records)]
        return {
            "store": self._jobs.store.uri,
            "jobs": states,
            "left_out": left_out,
            "checkpoints": [{**_checkpoint(a), "names": self._catalog.names_of(a.sha256)} for a in kept[:CHECKPOINTS]],
            "charts": [{"title": title, "unit": unit, "metrics": names} for title, unit, names in SHOWN],
        }


def _checkpoint(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {"id": artifact.sha256, "asset": artifact.asset, "profile": manifest.profile, "created": manifest.created}
