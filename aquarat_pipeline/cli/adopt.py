"""`aquarat adopt`: makes any checkpoint the latest artifact of a training stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_artifacts
from aquarat_core.cli.name import check_no_stage
from aquarat_core.cli.output import answer, log
from aquarat_core.cli.profile_option import add_profile
from aquarat_core.errors import UsageError
from aquarat_core.settings import store_uri
from aquarat_pipeline.cli.runs import use_profile
from aquarat_pipeline.instance import open_instance

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact, ArtifactStore


def add_commands(commands: Commands) -> None:
    """Adds `adopt`."""
    command = commands.add_parser(
        "adopt",
        description="Continues the chain from any checkpoint: one of another experiment or another store, or another "
        "program's. Publishes its files as an artifact of a training stage, as if it had made them; what is in this "
        "store is not copied. `aquarat materialize` and the demo keep it until they are called with --again.",
    )
    complete_artifacts(
        command.add_argument(
            "artifact",
            metavar="WHAT",
            help="an asset's name (EXPERIMENT/ASSET in a named experiment), a name, (the beginning of) a manifest's "
            "hash, a manifest's URI in any store, or what `aquarat import` reads: a folder, or hf://OWNER/NAME[@REVISION]",
        )
    )
    command.add_argument(
        "--as", dest="asset", required=True, metavar="ASSET",
        help="the stage's asset, such as sft_checkpoint; EXPERIMENT/ASSET in a named experiment",
    )  # fmt: skip
    command.add_argument("--name", metavar="NAME", help="also give it a name, as `aquarat name` does")
    command.add_argument("--move", action="store_true", help="take the name from the artifact that has it")
    add_profile(command)
    add_json(command)
    command.set_defaults(run=_adopt)


def _adopt(arguments: argparse.Namespace) -> str:
    if arguments.move and arguments.name is None:
        raise UsageError("--move is for --name: which name should be moved?")
    arguments.assets = [arguments.asset]
    use_profile(arguments)
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.artifacts.names import check, give, shown
    from aquarat_core.artifacts.store import asset_of
    from aquarat_core.config.validation import did_you_mean
    from aquarat_core.stages.registry import CHECKPOINTS, STAGES
    from aquarat_pipeline import experiments
    from aquarat_pipeline.assets.adoption import AdoptionError, adopt_as

    name = asset_of(arguments.asset)
    if name not in STAGES or arguments.asset.startswith("/"):
        raise AdoptionError(
            f"there is no asset {arguments.asset!r}; {did_you_mean(name, CHECKPOINTS)}a checkpoint is adopted as "
            f"{', '.join(CHECKPOINTS)}"
        )
    experiment = experiments.of_run([experiments.experiment_of(arguments.asset)])
    store = ArtifactStore.open(store_uri())
    if arguments.name is not None:
        # Before anything is published: a name that cannot be given leaves everything as it is.
        check_no_stage(arguments.name)
        check(store, arguments.name, move=arguments.move)
    artifact = _found(arguments.artifact, store)
    with open_instance() as instance:
        made = adopt_as(instance, store, experiment, STAGES[name], artifact)
    ref = experiment.ref(name)
    if arguments.name is not None:
        give(made, arguments.name, move=arguments.move)
    named = "" if arguments.name is None else f", named {arguments.name}"
    machine = {
        "asset": ref, "manifest_sha256": made.sha256, "uri": made.uri, "adopted_from": artifact.sha256,
        "name": arguments.name,
    }  # fmt: skip
    return answer(
        arguments,
        machine,
        f"{ref} is now {shown(artifact)}, as {made.uri}{named}\n"
        f"Later stages continue from it. To make {ref} by its own stage again: aquarat materialize {ref} --again",
    )


def _found(what: str, store: ArtifactStore) -> Artifact:
    """The artifact in this store: found there, copied from another store, or imported from a folder or the Hub."""
    from aquarat_core.artifacts.finding import find_artifact
    from aquarat_core.maintenance.copying import push, with_ancestors

    if what.startswith("hf://") or ("://" not in what and Path(what).is_dir() and store.find(what) is None):
        from aquarat_core.exchange.importing import import_checkpoint

        artifact, _ = import_checkpoint(store, what, None, log)
        log(f"imported as {artifact.asset} {artifact.sha256[:12]}")
        return artifact
    artifact = find_artifact(what, store.uri)
    if artifact.store.uri == store.uri:
        return artifact
    copied = with_ancestors(artifact)
    log(f"copying {len(copied)} artifacts from {artifact.store.uri}")
    for one in copied:
        push(one, store, latest=False)
    return store.get(artifact.sha256)
