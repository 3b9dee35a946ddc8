"""The description of an artifact in the Dagster UI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import dagster as dg

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.adoption import RUN
from aquarat_core.evaluation.headline import accuracy_text
from aquarat_core.tasks.origin import questions_of
from aquarat_pipeline.assets.inputs import Pinned

CONSOLE = "https://console.cloud.google.com/storage/browser/_details"
MAX_REPORT = 200_000
"""Number of characters of a report that Dagster's event stores; a longer report is linked instead of embedded."""


def artifact_metadata(artifact: Artifact, inputs: Iterable[Pinned]) -> dict[str, Any]:
    """Metadata of the materialization that produced `artifact` from `inputs`, the most important values first.

    Metrics keep their names.
    """
    manifest = artifact.manifest
    code = manifest.code
    commit = (
        f"{code.commit}{' with uncommitted changes' if code.dirty else ''}" if code.commit else "not a git checkout"
    )
    return {
        **_accuracy(manifest.metrics),
        **_questions(artifact),
        **_report(artifact),
        **{name: value for name, value in manifest.metrics.items() if value is not None},
        **_wandb(manifest.wandb),
        **_links(artifact, inputs),
        **_place(artifact.uri),
        "dagster/uri": artifact.uri,
        "manifest_sha256": artifact.sha256,
        "data_version": artifact.data_version,
        "profile": manifest.profile,
        **({"profile_sha256": manifest.profile_sha256} if manifest.profile_sha256 else {}),
        "code_commit": commit,
        "files": len(manifest.files),
        "bytes": sum(f.size for f in manifest.files),
        "contents": dg.MetadataValue.table(
            [dg.TableRecord({"path": f.path, "bytes": f.size, "sha256": f.sha256}) for f in manifest.files]
        ),
        "config": dg.MetadataValue.json(manifest.config),
    }


def _questions(artifact: Artifact) -> dict[str, Any]:
    found = questions_of(artifact)
    return {"kind_of_questions": found} if found else {}  # RL's metric `questions` is their number


def _accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    text = accuracy_text(metrics)
    return {"accuracy_with_interval": text} if text else {}


def _report(artifact: Artifact) -> dict[str, Any]:
    records = {r.path for r in artifact.manifest.records}
    found: dict[str, Any] = {}
    if "report.md" in records:
        text = artifact.record("report.md").read_text()
        if len(text) <= MAX_REPORT:
            found["report"] = dg.MetadataValue.md(text)
    if "report.html" in records:
        found["report_html"] = dg.PathMetadataValue(str(artifact.record("report.html")))
    if artifact.manifest.kind == "release" and any(f.path == "README.md" for f in artifact.manifest.files):
        # Without the front matter, which Dagster would show as text.
        found["model_card"] = dg.MetadataValue.md(artifact.path("README.md").read_text().split("---\n", 2)[-1])
    return found


def _wandb(wandb: dict[str, Any] | None) -> dict[str, Any]:
    return {
        f"wandb_{name}": dg.MetadataValue.url(value) if name == "url" else value
        for name, value in (wandb or {}).items()
        if value is not None
    }


def _links(artifact: Artifact, inputs: Iterable[Pinned]) -> dict[str, Any]:
    links: dict[str, Any] = {}
    for pinned in inputs:
        asset = pinned.parent.asset
        links[f"input/{asset}"] = dg.MetadataValue.asset(pinned.key)
        run_id = pinned.parent.run_id
        links[f"input/{asset}/run"] = run_id if run_id.startswith(RUN) else dg.MetadataValue.dagster_run(run_id)
        links[f"input/{asset}/data_version"] = pinned.parent.data_version
        uri = artifact.store.manifest_uri(pinned.parent.manifest_sha256)
        links |= {f"input/{asset}/{name}": value for name, value in _place(uri).items()}
    return links


def _place(uri: str) -> dict[str, Any]:
    """The location of an object: a URI to copy, and for one in a bucket also a page to open."""
    found: dict[str, Any] = {"uri": dg.PathMetadataValue(uri)}
    if uri.startswith("gs://"):
        found["console"] = dg.MetadataValue.url(f"{CONSOLE}/{quote(uri.removeprefix('gs://'))}")
    return found
