"""Where an artifact comes from: its ancestry down to the data sets, and how that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aquarat_core.artifacts.errors import ArtifactError
from aquarat_core.artifacts.manifest import MAX_GENERATIONS, CodeVersion
from aquarat_core.artifacts.names import beside
from aquarat_core.artifacts.store import Artifact, ArtifactStore


def too_deep(store: ArtifactStore, manifest_sha256: str) -> str:
    """The message about an ancestry with more than `MAX_GENERATIONS` generations."""
    return (
        f"manifest {manifest_sha256} in {store.uri} is {MAX_GENERATIONS} generations away: the ancestry is not "
        "followed any further. Look at that manifest to see how it continues"
    )


@dataclass(frozen=True, slots=True)
class Node:
    """One artifact in an ancestry; `artifact` is None if its manifest is no longer in the store."""

    asset: str
    manifest_sha256: str
    artifact: Artifact | None
    parents: tuple[Node, ...]


def lineage(store: ArtifactStore, manifest_sha256: str) -> Node:
    """The ancestry of an artifact. An ancestor that is reached along several paths is the same `Node` each time.

    Raises `ArtifactError` if the store lacks this manifest, or if there are more generations than `MAX_GENERATIONS`.
    """
    artifact = store.get(manifest_sha256)
    return _node(store, artifact.asset, manifest_sha256, {}, MAX_GENERATIONS)


def _node(store: ArtifactStore, asset: str, sha256: str, known: dict[str, Node], generations: int) -> Node:
    if not generations:
        raise ArtifactError(too_deep(store, sha256))
    if sha256 not in known:
        artifact = store.get(sha256) if store.has(sha256) else None
        parents = artifact.manifest.parents if artifact else ()
        nodes = tuple(_node(store, p.asset, p.manifest_sha256, known, generations - 1) for p in parents)
        known[sha256] = Node(asset, sha256, artifact, nodes)
    return known[sha256]


def format_lineage(tree: Node, known: Mapping[str, Iterable[str]] | None = None) -> str:
    """The ancestry as an indented tree: asset, data version, manifest, run, time and code of each artifact.

    `known` are the names of artifacts by hash. An ancestor that several artifacts share is expanded once and marked
    "(above)" after that.
    """
    rows = branches(tree)
    width = max(len(label) for label, _, _ in rows)
    return "\n".join(
        f"{label:<{width}}  {_facts(node, known or {})}{'  (above)' if seen else ''}" for label, node, seen in rows
    )


def branches(tree: Node) -> list[tuple[str, Node, bool]]:
    """The rows of the indented tree: the branch with the asset's name, the artifact, and whether its own ancestors were
    listed above."""
    rows: list[tuple[str, Node, bool]] = []
    _rows(tree, "", "", rows, set())
    return rows


def dot(tree: Node) -> str:
    """The ancestry as a Graphviz graph, with an edge from each artifact to those made from it."""
    nodes: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.manifest_sha256 not in nodes:
            nodes[node.manifest_sha256] = node
            for parent in node.parents:
                visit(parent)

    visit(tree)
    lines = [f'  "{sha[:12]}" [label="{node.asset}\\n{_label(node)}"];' for sha, node in nodes.items()]
    lines += [f'  "{p.manifest_sha256[:12]}" -> "{sha[:12]}";' for sha, node in nodes.items() for p in node.parents]
    return "\n".join(["digraph lineage {", "  rankdir=LR;", "  node [shape=box];", *lines, "}"])


def _label(node: Node) -> str:
    if node.artifact is None:
        return f"manifest {node.manifest_sha256[:12]}\\nmissing"
    return f"data {node.artifact.data_version[:12]}\\nrun {node.artifact.manifest.run_id[:8]}"


def _rows(node: Node, head: str, indent: str, rows: list[tuple[str, Node, bool]], shown: set[str]) -> None:
    seen = node.manifest_sha256 in shown and bool(node.parents)
    rows.append((head + node.asset, node, seen))
    shown.add(node.manifest_sha256)
    for i, parent in enumerate(() if seen else node.parents):
        last = i == len(node.parents) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        _rows(parent, indent + branch, indent + below, rows, shown)


def _facts(node: Node, known: Mapping[str, Iterable[str]]) -> str:
    if node.artifact is None:
        return f"manifest {beside(node.manifest_sha256, known)}  missing from the store"
    m = node.artifact.manifest
    return (
        f"data {node.artifact.data_version[:12]}  manifest {beside(node.manifest_sha256, known)}  run {m.run_id}  "
        f"{m.created[:19]}Z  code {format_code(m.code)}"
    )


def format_code(code: CodeVersion) -> str:
    """The commit, with "(dirty)" if it had changes; without a checkout, the hash of the stage's sources."""
    if code.commit is None:
        return f"{code.version[:12]} (no commit)"
    return code.commit[:12] + (" (dirty)" if code.dirty else "")


def format_profile(name: str, sha256: str | None) -> str:
    """A profile's name, and the beginning of its hash if that was recorded."""
    return f"{name} ({sha256[:12]})" if sha256 else name
