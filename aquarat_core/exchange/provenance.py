"""What a release is made from: the checkpoint's ancestors, their data sets, and the root of its family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.lineage import Node, lineage
from aquarat_core.config.data import LICENSES
from aquarat_core.exchange.facts import Publication, ReleaseFacts
from aquarat_core.tasks.registry import OTHER_DATASET, SOURCES_FILE


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where some of the training data come from."""

    asset: str
    name: str
    """A repository on the Hub, or a description."""
    revision: str
    """The commit on the Hub; empty for data from elsewhere."""
    data_version: str

    @property
    def license(self) -> str:
        """The data set's license, if it is known."""
        return LICENSES.get(self.name, "-" if self.revision else "not published")


def ancestors(checkpoint: Artifact) -> list[Artifact]:
    """The checkpoint and everything that it was made from, each once, parents before children. Artifacts that are no
    longer in the store are left out."""
    found: dict[str, Artifact] = {}

    def visit(node: Node) -> None:
        if node.manifest_sha256 in found:
            return
        for parent in node.parents:
            visit(parent)
        if node.artifact is not None:
            found[node.manifest_sha256] = node.artifact

    visit(lineage(checkpoint.store, checkpoint.sha256))
    return list(found.values())


def root_of(chain: Iterable[Artifact]) -> Artifact:
    """The first checkpoint of an ancestry (as `ancestors` orders it): where the family of models begins."""
    return next(artifact for artifact in chain if artifact.manifest.kind == "checkpoint")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an imported checkpoint came from."""

    source: str
    """Name of a folder, or an address."""
    form: str
    """The program that wrote it."""
    digests: Mapping[str, str]
    """SHA-256 of its files by name."""
    release: ReleaseFacts | None
    """If it is a release of ours: what that was made from."""


def origin_of_root(chain: Iterable[Artifact]) -> Origin | None:
    """Where the first checkpoint of an ancestry was imported from; None if it was trained from nothing."""
    found = root_of(chain).manifest.config.get("origin")
    if not isinstance(found, dict):
        return None
    facts = cast("dict[str, Any]", found)
    held = facts.get("release")
    weights = facts.get("weights")
    return Origin(
        str(facts.get("source")),
        str(facts.get("form")),
        cast("dict[str, str]", weights) if isinstance(weights, dict) else {},
        ReleaseFacts.model_validate(held) if isinstance(held, dict) else None,
    )


def family_of(chain: Sequence[Artifact]) -> Publication:
    """The checkpoint with which a family of models begins; of an imported release, that release's own."""
    origin = origin_of_root(chain)
    return origin.release.root if origin and origin.release else publication(root_of(chain))


def publication(artifact: Artifact) -> Publication:
    """An artifact as `release.json` names it."""
    return Publication(**artifact.as_parent().model_dump())


def data_sources(chain: Iterable[Artifact]) -> list[DataSource]:
    """The sources of all data sets in an ancestry."""
    return [source for artifact in chain if artifact.manifest.kind == "dataset" for source in _sources(artifact)]


def _sources(artifact: Artifact) -> list[DataSource]:
    """The sources of one data set. Data sets that are made from others, such as token shards, have none."""
    manifest = artifact.manifest
    if artifact.asset == OTHER_DATASET and any(entry.path == SOURCES_FILE for entry in manifest.files):
        described: dict[str, Any] = json.loads(artifact.path(SOURCES_FILE).read_text(encoding="utf-8"))
        return [_chat_source(artifact, name, facts) for name, facts in described.items()]
    source = manifest.config.get("source")
    if source is None:
        return []
    if source == "hub":
        found = (str(value) for name, value in manifest.metrics.items() if name.endswith("revision"))
        revision = next(found, "not recorded")
        return [DataSource(artifact.asset, str(manifest.config.get("repo")), revision, artifact.data_version)]
    return [DataSource(artifact.asset, _described(str(source)), "", artifact.data_version)]


def _chat_source(artifact: Artifact, name: str, facts: Any) -> DataSource:
    described = cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}
    if isinstance(published := described.get("train"), dict) and "hub" in published:
        # A publisher's own source, whose rows are on the Hub.
        rows = cast("dict[str, Any]", published)
        return DataSource(f"{artifact.asset}: {name}", str(rows["hub"]), str(rows["revision"]), artifact.data_version)
    if isinstance(repo := described.get("repo"), str):
        revision = str(artifact.manifest.metrics.get(f"{name}_revision", "not recorded"))
        return DataSource(f"{artifact.asset}: {name}", repo, revision, artifact.data_version)
    kind = "files" if f"{name}_train_sha256" in artifact.manifest.metrics else "synthetic"
    return DataSource(f"{artifact.asset}: {name}", _described(kind), "", artifact.data_version)


def _described(source: str) -> str:
    names = {"files": "the publisher's own files", "synthetic": "generated by aquarat, not real data"}
    return names.get(source, source)
