"""`aquarat adopt`: makes any checkpoint the latest artifact of a training stage."""

from __future__ import annotations

import argparse

from aquarat_core.cli.artifacts import add_artifact, add_json
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.cli.profile_option import add_profile
from aquarat_core.settings import store_uri
from aquarat_pipeline.cli.runs import open_instance, use_profile


def add_commands(commands: Commands) -> None:
    """Adds `adopt`."""
    command = commands.add_parser(
        "adopt",
        description="Continues the chain from any checkpoint: an imported one, or one of another experiment. "
        "Publishes its files as an artifact of a training stage, as if it had made them. "
        "Nothing is copied. `aquarat materialize` and the demo keep it until they are called with --again.",
    )
    add_artifact(command)
    command.add_argument(
        "--as", dest="asset", required=True, metavar="ASSET",
        help="the stage's asset, such as sft_checkpoint; EXPERIMENT/ASSET in a named experiment",
    )  # fmt: skip
    add_profile(command)
    add_json(command)
    command.set_defaults(run=_adopt)


def _adopt(arguments: argparse.Namespace) -> str:
    arguments.assets = [arguments.asset]
    use_profile(arguments)
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.artifacts.finding import find_artifact
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
    artifact = find_artifact(arguments.artifact, store.uri)
    if artifact.store.uri != store.uri:
        raise AdoptionError(
            f"{artifact.asset} {artifact.sha256[:12]} is in another store than {store.uri}. Copy it first: aquarat "
            f"store push {artifact.sha256[:12]} --store {artifact.store.uri} --to {store.uri}"
        )
    with open_instance() as instance:
        made = adopt_as(instance, store, experiment, STAGES[name], artifact)
    ref = experiment.ref(name)
    machine = {"asset": ref, "manifest_sha256": made.sha256, "uri": made.uri, "adopted_from": artifact.sha256}
    return answer(
        arguments,
        machine,
        f"{ref} is now {artifact.asset} {artifact.sha256[:12]}, as {made.uri}\n"
        f"Later stages continue from it. To make {ref} by its own stage again: aquarat materialize {ref} --again",
    )
