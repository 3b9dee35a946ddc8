"""The stored pages of reports, served so that they can run nothing, and a page that lists them.

Needs no torch: Dagster's web server can serve the same routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.errors import DataError
from aquarat_core.evaluation.document import linked
from aquarat_core.evaluation.looks import is_eval_report
from aquarat_core.serving.catalog import PAGE, Catalog
from aquarat_core.serving.pages import (
    HEADERS,
    LINKS,
    NotFound,
    endpoint,
    in_thread,
    message,
    page,
    refreshed,
)

MAX_BYTES = 64 << 20
LISTED = 500
SANDBOX = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The page of a report comes from the store: it gets no script, no origin and no network, only its own styles."""


def routes(catalog: Catalog, links: Sequence[str] = tuple(LINKS)) -> list[BaseRoute]:
    """`/reports` and `/reports/ARTIFACT`, where ARTIFACT is an asset, `EXPERIMENT/ASSET` or a manifest hash.

    `links` are the pages of `pages.LINKS` that the same server has. With the explorer among them, the questions in a
    report link to it.
    """
    there = _Endpoints(catalog, links)
    return [
        Route("/reports", there.page),
        Route("/reports/data", endpoint(there.listing)),
        Route("/reports/{what:path}", there.report),
    ]


class _Endpoints:
    def __init__(self, catalog: Catalog, links: Sequence[str]) -> None:
        self._catalog = catalog
        self._links = links

    async def page(self, request: Request) -> Response:
        return page("reports").response(request, self._links)

    async def listing(self, request: Request) -> Response:
        return refreshed(request, {**await in_thread(self._listed), "explorer": "explore" in self._links})

    async def report(self, request: Request) -> Response:
        what = str(request.path_params["what"])
        root = str(request.scope.get("root_path", "")).rstrip("/")
        try:
            found = await in_thread(self._catalog.find, what)
            if what != found.sha256:
                return RedirectResponse(f"{root}/reports/{found.sha256}", 307, HEADERS)
            html = await in_thread(page_of, found)
        except NotFound as e:
            return message(request, 404, "There is no such report", str(e), self._links)
        except (ArtifactError, DataError) as e:
            return message(request, 502, "The report cannot be read", str(e), self._links)
        if "explore" in self._links:
            html = linked(html, f"{root}/explore?report={found.sha256}")
        headers = {**HEADERS, "Content-Security-Policy": SANDBOX}
        return Response(html, media_type="text/html; charset=utf-8", headers=headers)

    def _listed(self) -> dict[str, Any]:
        pages = [a for a in self._catalog.artifacts() if any(entry.path == PAGE for entry in a.manifest.records)]
        return {
            "store": self._catalog.store.uri,
            "reports": [{**self._catalog.described(a), "questions_kept": is_eval_report(a)} for a in pages[:LISTED]],
            "left_out": max(0, len(pages) - LISTED),
        }


def page_of(report: Artifact) -> str:
    """The stored page of a report. Raises `NotFound` if it has none, `DataError` for one that is too large."""
    entry = next((entry for entry in report.manifest.records if entry.path == PAGE), None)
    if entry is None:
        raise NotFound(f"{report.asset} is a {report.manifest.kind} and has no page: choose a report from the list")
    if entry.size > MAX_BYTES:
        raise DataError(f"the page of {report.asset} has {entry.size:,} bytes, over {MAX_BYTES:,}")
    return report.record(PAGE).read_text(encoding="utf-8", errors="replace")
