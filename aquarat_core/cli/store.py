"""`aquarat store`: list, fetch, copy, check and clean up a store."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, StoreError
from aquarat_core.artifacts.manifest import canonical
from aquarat_core.artifacts.names import beside, by_hash, shown
from aquarat_core.artifacts.survey import all_artifacts, pins, read_artifacts, refs
from aquarat_core.cli import entry_points
from aquarat_core.cli.artifacts import add_artifact, add_json, add_lineage, add_show, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.progress import transfer_bar
from aquarat_core.cli.table import short_size, table
from aquarat_core.durations import age
from aquarat_core.evaluation.headline import headline
from aquarat_core.maintenance.collect import clock, find_garbage, remove
from aquarat_core.maintenance.copying import pull, push, size_of, with_ancestors
from aquarat_core.maintenance.diff import differences
from aquarat_core.maintenance.verify import verify
from aquarat_core.stages.registry import STAGES


def add_commands(commands: Commands) -> None:
    parser = commands.add_parser("store")
    group = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(group, "ls", _ls, "list the assets' latest artifacts")
    command.add_argument("--all", action="store_true", help="every artifact, the newest first")
    command.add_argument("--long", action="store_true", help="print data versions, runs, times and bytes too")
    add_show(group)
    add_lineage(group)
    command = _command(group, "diff", _diff, "show the differences between two artifacts")
    add_artifact(command, "left")
    add_artifact(command, "right")

    command = _command(group, "pull", _pull, "fetch and verify an artifact's files into a folder")
    add_artifact(command)
    command.add_argument("--to", type=Path, default=Path("."), metavar="FOLDER", help="default: the current one")
    command.add_argument("--with-parents", action="store_true", help="include all ancestors")
    command = _command(group, "push", _push, "copy an artifact into another store and make it the latest there")
    add_artifact(command)
    command.add_argument("--to", required=True, metavar="STORE", help="URI of the other store")
    command.add_argument("--with-parents", action="store_true", help="include all ancestors")

    command = _command(group, "verify", _verify, "check everything in the store, or an artifact and its ancestors")
    command.add_argument(
        "artifact", nargs="*", metavar="ASSET_OR_MANIFEST", help="assets, names or hashes (default: the whole store)"
    )
    command.add_argument("--quick", action="store_true", help="compare sizes and checksums without reading files")
    command = _command(group, "gc", _gc, "list what nothing needs anymore; remove it with --delete")
    command.add_argument("--delete", action="store_true", help="remove it instead of listing it")
    command.add_argument("--retention", type=int, default=90, metavar="DAYS",
                         help="days to keep what Dagster materialized (default: %(default)s)")  # fmt: skip
    command.add_argument("--without-dagster", action="store_true", help="no Dagster run uses this store")
    for name, run, what in (("pin", _pin, "keep an artifact and its ancestors permanently"),
                            ("unpin", _unpin, "remove a pin")):  # fmt: skip
        add_artifact(_command(group, name, run, what))


def _command(
    group: Commands, name: str, run: Callable[[argparse.Namespace], str | CheckFailed], what: str
) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=what)
    command.set_defaults(run=run)
    add_store(command)
    add_json(command)
    return command


def _open(arguments: argparse.Namespace) -> ArtifactStore:
    """The store to work on. Raises `StoreError` for a folder that does not exist, for example because of a typo."""
    store = ArtifactStore.open(arguments.store)
    if store.uri.startswith("file://") and not Path(store.uri.removeprefix("file://")).is_dir():
        raise StoreError(f"{store.uri}: there is no such folder. Check the path, or materialize an asset to create it")
    return store


# --- looking --------------------------------------------------------------------------------------------------------


def _ls(arguments: argparse.Namespace) -> str:
    store = _open(arguments)
    named, pinned, given = refs(store), pins(store), by_hash(store)
    latest = {name: ref.manifest_sha256 for name, ref in named.items() if not isinstance(ref, ArtifactError)}
    found = all_artifacts(store) if arguments.all else read_artifacts(store, [*latest.values(), *given])
    names: dict[str, list[str]] = {}
    for name, sha256 in latest.items():
        names.setdefault(sha256, []).append(name)
    artifacts = sorted(
        (a for a in found.values() if isinstance(a, Artifact)),
        key=lambda a: a.manifest.created if arguments.all else _place(min(names.get(a.sha256, [a.asset]))),
        reverse=arguments.all,
    )
    damaged = [str(e) for e in (*named.values(), *pinned.values(), *found.values()) if isinstance(e, ArtifactError)]
    facts = [_fact(a, names.get(a.sha256, []), a.sha256 in pinned, given.get(a.sha256, [])) for a in artifacts]
    found_here = {"artifacts": facts, "problems": damaged}
    if not facts and not damaged:
        return answer(arguments, found_here, f"{store.uri} is empty: materialize an asset first")
    if arguments.long:
        heads = ("asset", "created (UTC)", "files", "bytes", "data", "manifest", "run", "")
        text = table([heads, *map(_long_row, facts)], right=(2, 3))
    else:
        text = table([("asset", "age", "size", "manifest", "result"), *map(_row, facts)], right=(1, 2))
    return answer(arguments, found_here, "\n".join([text, *damaged]))


def _place(name: str) -> tuple[str, int, str]:
    """Sorts assets by experiment, and then in the order of the chain."""
    experiment, _, asset = name.rpartition("/")
    return experiment, list(STAGES).index(asset) if asset in STAGES else len(STAGES), asset


def _fact(artifact: Artifact, names: list[str], pinned: bool, given: list[str]) -> dict[str, Any]:
    """`names` are those for which it is the latest artifact, `given` those that people have given it."""
    m = artifact.manifest
    return {
        "asset": m.asset,
        "names": sorted(names),
        "given_names": given,
        "profile": m.profile,
        "kind": m.kind,
        "created": m.created,
        "files": len(m.files) + len(m.records),
        "bytes": size_of([artifact]),
        "data_version": artifact.data_version,
        "manifest_sha256": artifact.sha256,
        "run_id": m.run_id,
        "latest": bool(names),
        "pinned": pinned,
        "headline": headline(m.metrics),
    }


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    marks = " ".join(mark for mark in ("pinned",) if fact[mark])
    name = ", ".join(fact["names"]) or fact["asset"]
    result = f"{marks}{'  ' if marks and fact['headline'] else ''}{fact['headline']}"
    return name, age(fact["created"]), short_size(fact["bytes"]), _which(fact, 8), result


def _long_row(fact: dict[str, Any]) -> tuple[str, ...]:
    marks = " ".join(mark for mark in ("latest", "pinned") if fact[mark])
    numbers = str(fact["files"]), f"{fact['bytes']:,}"
    hashes = fact["data_version"][:12], _which(fact, 12)
    name = ", ".join(fact["names"]) or fact["asset"]
    return name, fact["created"][:19].replace("T", " "), *numbers, *hashes, fact["run_id"], marks


def _which(fact: dict[str, Any], digits: int) -> str:
    return beside(fact["manifest_sha256"], {fact["manifest_sha256"]: fact["given_names"]}, digits)


def _diff(arguments: argparse.Namespace) -> str:
    store = _open(arguments)
    left, right = (store.resolve(name) for name in (arguments.left, arguments.right))
    found = differences(left.manifest, right.manifest)
    known = by_hash(store)
    names = (shown(left, known), shown(right, known))
    rows = [("", "", *names), *((d.section, d.name, _text(d.left), _text(d.right)) for d in found)]
    human = table(rows) if found else f"{names[0]} and {names[1]} differ only in their runs and times"
    return answer(arguments, [dataclasses.asdict(d) for d in found], human)


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


# --- moving ---------------------------------------------------------------------------------------------------------


def _chosen(arguments: argparse.Namespace) -> list[Artifact]:
    artifact = _open(arguments).resolve(arguments.artifact)
    return with_ancestors(artifact) if arguments.with_parents else [artifact]


def _pull(arguments: argparse.Namespace) -> str:
    artifacts = _chosen(arguments)
    target = arguments.to.absolute()
    with transfer_bar("pull", size_of(artifacts)) as advance:
        folders = [pull(artifact, target, advance) for artifact in artifacts]
    facts = [{"asset": a.asset, "folder": str(f)} for a, f in zip(artifacts, folders, strict=True)]
    return answer(arguments, facts, "\n".join(map(str, folders)))


def _push(arguments: argparse.Namespace) -> str:
    artifacts = _chosen(arguments)
    target = ArtifactStore.open(arguments.to)
    with transfer_bar("push", size_of(artifacts)) as advance:
        made = [push(artifact, target, advance) for artifact in artifacts]
    return answer(arguments, [{"asset": a.asset, "uri": a.uri} for a in made], "\n".join(a.uri for a in made))


# --- keeping --------------------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> str | CheckFailed:
    store = _open(arguments)
    hashes = [store.resolve(name).sha256 for name in arguments.artifact] or None
    total = sum(s.size for s in store.backend.stats("blobs/")) if hashes is None else size_of(map(store.get, hashes))
    with transfer_bar("verify", total) as advance:
        found = verify(store, hashes, read=not arguments.quick, advance=advance)
    what = f"{found.artifacts:,} artifacts, {found.files:,} files, {found.bytes:,} bytes"
    how = "sizes and checksums compared" if arguments.quick else "every byte read"
    if found.problems:
        report = f"{store.uri}: {len(found.problems)} problems in {what} ({how})"
        return CheckFailed(answer(arguments, dataclasses.asdict(found), "\n".join([report, *found.problems])))
    return answer(arguments, dataclasses.asdict(found), f"{store.uri} is sound: {what} ({how})")


def _gc(arguments: argparse.Namespace) -> str:
    store = _open(arguments)
    keep = () if arguments.without_dagster else _needed_by_dagster(arguments.retention)
    garbage = find_garbage(store, keep, now=clock(store) if arguments.delete else None)
    gone = remove(store, garbage) if arguments.delete else garbage.objects
    facts = {
        "deleted": arguments.delete,
        "objects": [s.key for s in gone],
        "bytes": sum(s.size for s in gone),
        "kept_manifests": garbage.kept,
        "problems": list(garbage.problems),
    }
    rows = [(f"{kind}/", f"{n:,} objects", f"{size:,} bytes") for kind, (n, size) in garbage.by_kind().items()]
    did = "removed" if arguments.delete else "could be removed (nothing was: this is what --delete would do)"
    last = f"{len(gone):,} objects, {facts['bytes']:,} bytes {did}; {garbage.kept:,} artifacts are kept"
    kept = [f"everything that this may refer to is kept: {problem}" for problem in garbage.problems]
    return answer(arguments, facts, "\n".join([*([table(rows)] if rows else []), *kept, last]))


def _needed_by_dagster(days: int) -> Iterable[str]:
    problems: list[str] = []
    roots = list(entry_points.load(entry_points.GARBAGE_ROOTS, problems.append))
    if problems or not roots:
        raise StoreError(
            "gc must know which artifacts Dagster's runs need: run it on the control host, inside `./run shell`, "
            f"or add --without-dagster{''.join(f' ({problem})' for problem in problems)}"
        )
    return {manifest for needed in roots for manifest in needed(days)}


def _pin(arguments: argparse.Namespace) -> str:
    artifact = _open(arguments).resolve(arguments.artifact)
    pin = canonical({"manifest_sha256": artifact.sha256, "asset": artifact.asset})
    artifact.store.backend.create(f"pins/{artifact.sha256}.json", pin)
    return answer(arguments, {"pinned": artifact.sha256}, f"{artifact.uri} is kept permanently, with its ancestors")


def _unpin(arguments: argparse.Namespace) -> str:
    artifact = _open(arguments).resolve(arguments.artifact)
    if not artifact.store.backend.delete(f"pins/{artifact.sha256}.json"):
        raise ArtifactError(f"{artifact.asset} ({artifact.uri}) is not pinned; `aquarat store ls --all` shows what is")
    return answer(arguments, {"unpinned": artifact.sha256}, f"{artifact.uri} is no longer pinned")
