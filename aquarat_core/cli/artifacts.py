"""`aquarat lineage` and `aquarat show`: an artifact's ancestry and its description."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore, FileEntry, Node
from aquarat_core.artifacts.lineage import branches, dot, format_code, format_lineage, format_profile, lineage
from aquarat_core.artifacts.names import beside, by_hash
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_artifacts
from aquarat_core.cli.output import answer
from aquarat_core.cli.table import table
from aquarat_core.durations import age
from aquarat_core.evaluation.headline import headline
from aquarat_core.maintenance.diff import flat
from aquarat_core.settings import store_uri
from aquarat_core.tasks.origin import questions_of


def add_commands(commands: Commands) -> None:
    add_lineage(commands)
    add_show(commands)


def add_lineage(commands: Commands) -> None:
    """The command `lineage`, also available as `aquarat store lineage`."""
    command = commands.add_parser("lineage", help="print the ancestry of an artifact, down to the data sets")
    add_artifact(command)
    add_store(command)
    add_json(command)
    command.add_argument("--long", action="store_true", help="print data versions, runs, times and code too")
    command.add_argument("--dot", action="store_true", help="print a graph for Graphviz")
    command.set_defaults(run=_lineage)


def add_show(commands: Commands) -> None:
    """The command `show`, also available as `aquarat store show`."""
    command = commands.add_parser("show", help="print everything that is known about an artifact")
    add_artifact(command)
    add_store(command)
    add_json(command, "print the manifest itself")
    command.set_defaults(run=_show)


def add_artifact(command: argparse.ArgumentParser, name: str = "artifact") -> None:
    """Adds an argument that names an artifact."""
    complete_artifacts(
        command.add_argument(
            name,
            metavar="ASSET_OR_MANIFEST",
            help="an asset (EXPERIMENT/ASSET in a named experiment) for its latest artifact, a name that `aquarat "
            "name` gave, or (the beginning of) a manifest's hash",
        )
    )


def add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("--store", default=store_uri(), help="URI of the artifact store (default: %(default)s)")


def add_json(command: argparse.ArgumentParser, what: str = "print one line of JSON") -> None:
    command.add_argument("--json", action="store_true", help=what)


def _lineage(arguments: argparse.Namespace) -> str:
    store = ArtifactStore.open(arguments.store)
    tree = lineage(store, store.resolve(arguments.artifact).sha256)
    if arguments.dot:
        return answer(arguments, _nodes(tree), dot(tree))
    known = by_hash(store)
    return answer(arguments, _nodes(tree), format_lineage(tree, known) if arguments.long else _short(tree, known))


def _short(tree: Node, known: Mapping[str, Iterable[str]]) -> str:
    """The ancestry as an indented tree that fits 80 columns: manifest, age and result of each artifact."""
    return table([("asset", "manifest", "age", "result"), *(_branch(*row, known) for row in branches(tree))])


def _branch(label: str, node: Node, seen: bool, known: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    which = beside(node.manifest_sha256, known, 8)
    if node.artifact is None:
        return label, which, "", "missing from the store"
    manifest = node.artifact.manifest
    return label, which, age(manifest.created), "(above)" if seen else headline(manifest.metrics)


def _nodes(tree: Node) -> dict[str, Any]:
    facts = {"asset": tree.asset, "manifest_sha256": tree.manifest_sha256, "parents": [_nodes(p) for p in tree.parents]}
    if tree.artifact is not None:
        facts |= {"data_version": tree.artifact.data_version, "run_id": tree.artifact.manifest.run_id}
    return facts


def _show(arguments: argparse.Namespace) -> str:
    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    return artifact.manifest.to_bytes().decode() if arguments.json else _describe(artifact)


def _describe(artifact: Artifact) -> str:
    m, known = artifact.manifest, by_hash(artifact.store)
    facts = [
        ("asset", f"{m.asset} ({m.kind})"),
        *(("name", name) for name in known.get(artifact.sha256, ())),
        ("uri", artifact.uri),
        ("data version", artifact.data_version),
        *(("questions", found) for found in [questions_of(artifact)] if found),
        ("created", m.created),
        ("run", m.run_id),
        ("profile", format_profile(m.profile, m.profile_sha256)),
        ("code", f"{format_code(m.code)}, version {m.code.version[:12]}"),
        *(("parent", f"{p.asset}  manifest {beside(p.manifest_sha256, known)}  run {p.run_id}") for p in m.parents),
        *(("file", _file(e)) for e in m.files),
        *(("record", _file(e)) for e in m.records),
        *(("metric", f"{name} = {value}") for name, value in sorted(m.metrics.items())),
        *(("seed", f"{name} = {value}") for name, value in sorted(m.seeds.items())),
        *(("config", f"{name} = {value}") for name, value in flat(m.config).items()),
        *(("hardware", f"{name} = {value}") for name, value in sorted(m.hardware.items())),
        ("libraries", ", ".join(f"{name} {version}" for name, version in sorted(m.libraries.items()))),
        *(("wandb", f"{name} = {value}") for name, value in sorted((m.wandb or {}).items())),
    ]
    repeated = [False, *(a[0] == b[0] for a, b in itertools.pairwise(facts))]
    return table([("" if again else label, text) for again, (label, text) in zip(repeated, facts, strict=True)])


def _file(entry: FileEntry) -> str:
    return f"{entry.path}  {entry.size:,} bytes  sha256 {entry.sha256[:12]}"
