"""The description of an artifact in the Dagster UI, which shows metadata in this order: how good it is, from what it
was made, what it has cost, how to get it, its report; then a few numbers to plot, and the rest.

The UI makes its table as wide as the longest word in it, so values at the top that have more than about 48 characters
would be cut off on a screen of usual width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import dagster as dg

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.adoption import RUN
from aquarat_core.evaluation.headline import headline
from aquarat_core.tasks.origin import questions_of, warning_about
from aquarat_pipeline.assets.comparison import comparison
from aquarat_pipeline.assets.inputs import Pinned
from aquarat_pipeline.assets.numbers import numbers
from aquarat_pipeline.assets.preview import preview
from aquarat_pipeline.events import METRICS

CONSOLE = "https://console.cloud.google.com/storage/browser/_details"
MAX_REPORT = 150_000
"""Number of characters of a report that Dagster's event stores; a longer report is only linked."""
MAX_PICTURE = 60_000
"""Number of characters of the picture of the curves."""
_SHORT = 8
"""Digits of a hash by which commands and pages find an artifact."""
REPORTS = "/aquarat/reports/"
"""The path at which the UI's own web server serves the stored pages of reports."""


def artifact_metadata(artifact: Artifact, inputs: Iterable[Pinned], cost: str = "") -> dict[str, Any]:
    """Metadata of the materialization that produced `artifact` from `inputs`, the most important values first.

    `cost` says what making it has cost.
    """
    manifest, inputs = artifact.manifest, list(inputs)
    return {
        **_result(artifact),
        **_links(inputs),
        **({"cost": cost} if cost else {}),
        "get it": dg.PathMetadataValue(f"aquarat store pull {artifact.sha256[:_SHORT]} --to {manifest.asset}"),
        **_report(artifact),
        **_curves(artifact),
        **preview(artifact),
        **numbers(manifest.metrics),
        METRICS: dg.MetadataValue.json({name: value for name, value in manifest.metrics.items() if value is not None}),
        **_wandb(manifest.wandb),
        **_place(artifact.uri),
        "dagster/uri": artifact.uri,
        "manifest_sha256": artifact.sha256,
        "data_version": artifact.data_version,
        **_origin(artifact),
        **_input_details(artifact, inputs),
    }


def _result(artifact: Artifact) -> dict[str, Any]:
    metrics = artifact.manifest.metrics
    questions = questions_of(artifact)
    scored = artifact.manifest.kind in ("checkpoint", "report")
    warning = (warning_about(questions) if scored else None) or ""
    found = {
        "result": headline(metrics),
        "compared with": comparison(metrics),
        "kind_of_questions": questions,
        # Its last sentence says what follows for a score.
        "warning": warning.rstrip(".").rpartition(". ")[2],
    }
    return {name: text for name, text in found.items() if text}


def _report(artifact: Artifact) -> dict[str, Any]:
    records = {r.path for r in artifact.manifest.records}
    found: dict[str, Any] = {}
    if "report.html" in records:
        # Without a host name: the browser asks the server from which it got the UI, whatever that is called there.
        found["report page"] = dg.MetadataValue.url(f"{REPORTS}{artifact.sha256[:_SHORT]}")
    if "report.md" in records:
        text = artifact.record("report.md").read_text()
        if len(text) <= MAX_REPORT:
            found["report"] = dg.MetadataValue.md(text)
    if artifact.manifest.kind == "release" and any(f.path == "README.md" for f in artifact.manifest.files):
        # Without the front matter, which Dagster would show as text.
        found["model_card"] = dg.MetadataValue.md(artifact.path("README.md").read_text().split("---\n", 2)[-1])
    return found


def _curves(artifact: Artifact) -> dict[str, Any]:
    """The training curves by step as a picture in Markdown, the only form in which Dagster shows one."""
    if artifact.manifest.kind != "checkpoint":
        return {}
    try:
        from aquarat_core.evaluation import plots

        panels = plots.curve_panels(plots.checkpoint_metrics(artifact))
        if not panels:
            return {}
        picture = plots.to_png_data_uri(plots.draw_curves(panels, columns=2))
    except Exception:  # a picture must not lose a stage that took hours
        return {}
    return {"curves by step": dg.MetadataValue.md(f"![Curves]({picture})")} if len(picture) <= MAX_PICTURE else {}


def _wandb(wandb: dict[str, Any] | None) -> dict[str, Any]:
    return {
        f"wandb_{name}": dg.MetadataValue.url(value) if name == "url" else value
        for name, value in (wandb or {}).items()
        if value is not None
    }


def _origin(artifact: Artifact) -> dict[str, Any]:
    """The code and configuration that made the artifact, and its files."""
    manifest = artifact.manifest
    code = manifest.code
    commit = (
        f"{code.commit}{' with uncommitted changes' if code.dirty else ''}" if code.commit else "not a git checkout"
    )
    files = [dg.TableRecord({"path": f.path, "bytes": f.size, "sha256": f.sha256}) for f in manifest.files]
    return {
        "profile": manifest.profile,
        **({"profile_sha256": manifest.profile_sha256} if manifest.profile_sha256 else {}),
        "code_commit": commit,
        "contents": dg.MetadataValue.table(files),
        "config": dg.MetadataValue.json(manifest.config),
    }


def _links(inputs: Iterable[Pinned]) -> dict[str, Any]:
    """Links to the inputs' assets and to the runs that made them."""
    links: dict[str, Any] = {}
    for pinned in inputs:
        asset, run_id = pinned.parent.asset, pinned.parent.run_id
        links[f"input/{asset}"] = dg.MetadataValue.asset(pinned.key)
        links[f"input/{asset}/run"] = run_id if run_id.startswith(RUN) else dg.MetadataValue.dagster_run(run_id)
    return links


def _input_details(artifact: Artifact, inputs: Iterable[Pinned]) -> dict[str, Any]:
    """The exact versions of the inputs, as a table that the UI opens on a click."""
    rows = [
        {
            "input": pinned.parent.asset,
            "data version": pinned.parent.data_version,
            "manifest": artifact.store.manifest_uri(pinned.parent.manifest_sha256),
            "run": pinned.parent.run_id,
        }
        for pinned in inputs
    ]
    return {"inputs": dg.MetadataValue.table([dg.TableRecord(row) for row in rows])} if rows else {}


def _place(uri: str) -> dict[str, Any]:
    """The location of an object: a URI to copy, and for one in a bucket also a page to open."""
    found: dict[str, Any] = {"uri": dg.PathMetadataValue(uri)}
    if uri.startswith("gs://"):
        found["console"] = dg.MetadataValue.url(f"{CONSOLE}/{quote(uri.removeprefix('gs://'))}")
    return found
