"""Makes any checkpoint the latest materialization of a training stage, so that later stages continue from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.artifacts.adoption import adopt
from aquarat_core.artifacts.manifest import ADOPTED_FROM
from aquarat_core.config import ChatTrainConfig, Profile
from aquarat_core.errors import UsageError
from aquarat_core.stages.code_version import code_version
from aquarat_core.stages.registry import CHECKPOINTS, STAGES
from aquarat_core.stages.stage import Stage
from aquarat_pipeline._compat import CODE_VERSION_TAG
from aquarat_pipeline.assets.metadata import artifact_metadata
from aquarat_pipeline.assets.needed import tags_of_present
from aquarat_pipeline.assets.publishing import sole_publisher
from aquarat_pipeline.assets.recording import record_without_run
from aquarat_pipeline.checks.again import check_again
from aquarat_pipeline.experiments import Experiment


class AdoptionError(UsageError):
    """A checkpoint that cannot be adopted as that asset; the message says what does not fit."""


def adopt_as(
    instance: dg.DagsterInstance, store: ArtifactStore, experiment: Experiment, stage: Stage, artifact: Artifact
) -> Artifact:
    """Publishes the checkpoint as an artifact of the stage's asset, and makes it the latest for the store and Dagster.

    Raises `AdoptionError` for an artifact that is no checkpoint, does not fit the stages that follow, or is the asset's
    latest already.
    """
    check_fits(experiment.profile, stage, artifact)
    name = experiment.ref(stage.name)
    # The same lock as that of a stage's result, so that the store and Dagster agree on the latest.
    with sole_publisher(Path(instance.root_directory), experiment.step(stage.name)):
        latest = store.latest(name)
        if latest and artifact.sha256 in (latest.sha256, _source(latest)):
            raise AdoptionError(f"{artifact.asset} {artifact.sha256[:12]} is the latest {name} already")
        made = adopt(artifact, stage.name)
        record_without_run(
            instance, store, experiment, stage, made,
            description=f"Adopted from {artifact.asset} {artifact.sha256[:12]}.",
            metadata=_metadata(made, artifact),
            tags=_tags(instance, experiment, stage),
        )  # fmt: skip
    check_again(instance, store, experiment, stage)
    return made


def check_fits(profile: Profile, stage: Stage, artifact: Artifact) -> None:
    """Raises `AdoptionError` unless the artifact is a checkpoint with which the stages after `stage` can work."""
    what = f"{artifact.asset} {artifact.sha256[:12]}"
    if artifact.manifest.kind != "checkpoint":
        raise AdoptionError(f"{what} is a {artifact.manifest.kind}: only checkpoints can be adopted")
    if stage.name not in CHECKPOINTS:
        raise AdoptionError(f"{stage.name} is no checkpoint of training: adopt as {', '.join(CHECKPOINTS)}")
    room = _context_of(artifact, what)
    evaluation, rl = profile.eval_report.max_new_tokens, profile.rl_checkpoint.max_new_tokens
    later = CHECKPOINTS[CHECKPOINTS.index(stage.name) + 1 :]
    budgets = {"eval_report": evaluation} | ({"rl_checkpoint": rl} if "rl_checkpoint" in later else {})
    for section, budget in budgets.items():
        if budget >= room:
            raise AdoptionError(
                f"{what} does not fit profile {profile.name}: its context is {room} tokens long, and "
                f"{section}.max_new_tokens {budget} leaves no room for a question. Lower that in a profile"
            )
    for name in later:
        train = STAGES[name].config(profile)
        if isinstance(train, ChatTrainConfig) and train.batch_tokens % room:
            raise AdoptionError(
                f"{what} does not fit profile {profile.name}: {name}.batch_tokens {train.batch_tokens} is not a "
                f"multiple of its context of {room} tokens. Change that in a profile"
            )


def _context_of(artifact: Artifact, what: str) -> int:
    """Length of the checkpoint's context in tokens. Raises `AdoptionError` if stages cannot use its files."""
    # Dagster's definitions do without these modules.
    from aquarat_core.model.checkpoint import CONFIG, read_description
    from aquarat_core.text.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, Tokenizer

    held = {f.path for f in artifact.manifest.files}
    if lacking := [name for name in (CONFIG, TOKENIZER_FILE) if name not in held]:
        raise AdoptionError(f"{what} has no {' and no '.join(lacking)}: import it again with `aquarat import`")
    config, vocab_size = read_description(artifact.path(CONFIG))
    tokenizer = Tokenizer.load(artifact.path(TOKENIZER_FILE))
    if missing := [name for name in SPECIAL_TOKENS if name not in tokenizer.special_ids]:
        raise AdoptionError(
            f"{what} cannot be trained on conversations: its tokenizer has no {', '.join(missing[:3])}. Import it with "
            "a tokenizer that has the chat tokens"
        )
    if tokenizer.vocab_size != vocab_size:
        raise AdoptionError(f"the model of {what} has {vocab_size:,} ids, but its tokenizer {tokenizer.vocab_size:,}")
    return config.sequence_len


def _source(artifact: Artifact) -> str | None:
    source = artifact.manifest.adopted_from
    return source.manifest_sha256 if source else None


def _metadata(made: Artifact, source: Artifact) -> dict[str, Any]:
    """That of a stage's result, and where it comes from."""
    return {
        **artifact_metadata(made, ()),
        ADOPTED_FROM: source.sha256,
        f"{ADOPTED_FROM}/asset": source.asset,
        f"{ADOPTED_FROM}/uri": dg.PathMetadataValue(source.uri),
    }


def _tags(instance: dg.DagsterInstance, experiment: Experiment, stage: Stage) -> dict[str, str]:
    """The code version and inputs of this moment: Dagster calls the asset stale once making it anew would give another
    result than today, as for any other asset. It was not made from these inputs; `lineage_agrees` knows."""
    present = tags_of_present(instance, map(experiment.key, experiment.inputs(stage.name)))
    return {CODE_VERSION_TAG: code_version(stage, stage.config(experiment.profile)), **present}
