"""`aquarat name`: gives artifacts names that people remember, lists them, and takes them away."""

from __future__ import annotations

import argparse
from typing import Any

from aquarat_core.artifacts import ArtifactError, ArtifactStore
from aquarat_core.artifacts.finding import find_artifact
from aquarat_core.artifacts.names import asset_has_it, give, names, take_away
from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_artifacts
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError
from aquarat_core.stages.registry import STAGES


def add_commands(commands: Commands) -> None:
    """Adds `name`."""
    command = commands.add_parser(
        "name",
        description="Gives an artifact a name of small letters, digits, - and ., which every command accepts in place "
        "of its hash, and shows beside it. The name stays with this artifact until it is moved. Without arguments, "
        "lists the names.",
    )
    artifact = command.add_argument(
        "artifact", nargs="?", metavar="ARTIFACT",
        help="an asset's name for its latest artifact, another name, (the beginning of) a manifest's hash, or its URI",
    )  # fmt: skip
    complete_artifacts(artifact)
    command.add_argument("name", nargs="?", metavar="NAME", help="the name, such as rl-with-hints")
    command.add_argument("--move", action="store_true", help="also if the name is that of another artifact")
    command.add_argument("--remove", metavar="NAME", help="take a name away; its artifact stays")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_name)


def _name(arguments: argparse.Namespace) -> str | CheckFailed:
    if arguments.remove is not None:
        if arguments.artifact is not None or arguments.move:
            raise UsageError("--remove takes a name and nothing else")
        take_away(ArtifactStore.open(arguments.store), arguments.remove)
        return answer(arguments, {"removed": arguments.remove}, f"{arguments.remove} no longer names anything")
    if arguments.artifact is None:
        return _list(arguments)
    if arguments.name is None:
        raise UsageError(f"which name should {arguments.artifact} have? aquarat name {arguments.artifact} NAME")
    check_no_stage(arguments.name)
    artifact = find_artifact(arguments.artifact, arguments.store)
    before = give(artifact, arguments.name, move=arguments.move)
    facts = {"name": arguments.name, "asset": artifact.asset, "manifest_sha256": artifact.sha256, "before": before}
    moved = f", and no longer {before[:12]}" if before else ""
    return answer(arguments, facts, f"{arguments.name} is {artifact.asset} {artifact.sha256[:12]}{moved}")


def check_no_stage(name: str) -> None:
    """Raises `GivenNameError` for the name of a stage, which is an asset's even if the store has none of it yet."""
    if name in STAGES:
        raise asset_has_it(name)


def _list(arguments: argparse.Namespace) -> str | CheckFailed:
    store = ArtifactStore.open(arguments.store)
    found = names(store)
    problems = [str(e) for e in found.values() if isinstance(e, ArtifactError)]
    refs = {name: ref for name, ref in found.items() if not isinstance(ref, ArtifactError)}
    facts: list[dict[str, Any]] = [
        {"name": name, "asset": ref.asset, "manifest_sha256": ref.manifest_sha256} for name, ref in refs.items()
    ]
    rows = [("name", "asset", "manifest"), *((f["name"], f["asset"], f["manifest_sha256"][:12]) for f in facts)]
    text = table(rows) if facts else f"{store.uri} has no names: `aquarat name ARTIFACT NAME` gives one"
    said = answer(arguments, {"names": facts, "problems": problems}, "\n".join([text, *problems]))
    return CheckFailed(said) if problems else said
