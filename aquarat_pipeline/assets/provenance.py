"""Checks which profile a stage's inputs were made under: inputs from another one are refused unless requested."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, Manifest, Parent
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.artifacts.survey import ancestry
from aquarat_core.config import Profile, with_current_names
from aquarat_core.maintenance.diff import flat
from aquarat_core.stages.registry import STAGES
from aquarat_pipeline.assets.inputs import InputError, latest_input
from aquarat_pipeline.assets.needed import needed_inputs
from aquarat_pipeline.assets.plan import Plan
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.tags import ANY_INPUTS_TAG

ANY_INPUTS = "AQUARAT_ANY_INPUTS"
"""Environment variable equivalent to `ANY_INPUTS_TAG`, for commands that cannot give a run tags."""
_SHOWN = 3


def check_given(instance: dg.DagsterInstance, plan: Plan, job: dg.JobDefinition, say: Callable[[str], None]) -> None:
    """Before the first stage, checks that the run's inputs from other runs exist and were made under its profile.

    `job` knows the inputs of each stage.

    Raises `InputError`. Each stage checks again when it starts, because its inputs may have been remade meanwhile.
    """
    made = {plan.experiment.key(stage.name) for stage in plan.stages}
    store = ArtifactStore.open(plan.store)
    for stage in plan.stages:
        parents = job.asset_layer.asset_graph.get(plan.experiment.key(stage.name)).parent_keys
        section, remade = plan.sections[stage.name], {other.name for other in plan.stages}
        needed = needed_inputs(instance, plan.experiment, stage, section, remade)
        given = [name for name in needed if plan.experiment.key(name) in parents - made]
        pinned = [latest_input(instance, stage, name, plan.experiment).parent for name in given]
        check_inputs(store, plan.experiment, stage.name, pinned, takes_any(plan.tags), say)


def check_inputs(
    store: ArtifactStore,
    experiment: Experiment,
    asset: str,
    inputs: Iterable[Parent],
    any_inputs: bool,
    say: Callable[[str], None],
) -> None:
    """Compares the run's profile with the settings of inputs that other runs made, and of their ancestors.

    Passes to `say` any differences under the same profile name, such as an override or a later change of the file.
    Raises `InputError` for an input from another profile, unless the run accepts `any_inputs`.
    """
    profile = experiment.profile
    for parent in inputs:
        # Adopting a checkpoint means to accept it, whatever its own ancestors were made under.
        read = ancestry(store, [parent.manifest_sha256], lambda a: a.manifest.adopted_from is None).values()
        made = [a for a in read if isinstance(a, Artifact)]
        if lost := [str(a) for a in read if not isinstance(a, Artifact)]:
            say(
                f"not all ancestors of {parent.asset} can be read, so their profiles are not checked: "
                f"{'; '.join(lost[:_SHOWN])}"
            )
        found = [(a.manifest, list(_differing(a.manifest, profile))) for a in made]
        if not any(differing for _, differing in found):
            continue
        others = [(m, differing) for m, differing in found if differing and m.profile != profile.name]
        said = _said(others or [(m, differing) for m, differing in found if differing])
        if others and not any_inputs:
            raise InputError(
                f"{experiment.ref(asset)} of profile {profile.name} would be made from {experiment.ref(parent.asset)} "
                f"of another profile: {said}. {_ways_out(experiment, asset)}"
            )
        say(
            f"{asset} is made from {parent.asset} (manifest {parent.manifest_sha256[:12]}), which differs from profile "
            f"{profile.name}: {said}"
        )


def say_what_is_replaced(
    context: dg.AssetExecutionContext, store: ArtifactStore, experiment: Experiment, asset: str
) -> None:
    """Warns in the run's log if the asset's latest artifact was made under another profile, or an older version of this
    one: the artifact stays in the store but will no longer be the latest."""
    name = experiment.ref(asset)
    try:
        latest = store.latest(name)
    except ArtifactError:
        return  # a damaged ref is reported to commands that read it; this run makes a new artifact
    profile = experiment.profile
    if latest is None:
        return
    before = latest.manifest
    if before.profile == profile.name and before.profile_sha256 in (None, profile.sha256):
        return
    source = before.adopted_from
    made = (
        f"was adopted from {source.asset} {source.manifest_sha256[:12]}"
        if source
        else f"was made under profile {format_profile(before.profile, before.profile_sha256)}"
    )
    context.log.warning(
        f"this run's {name} replaces the one that {made}, manifest {latest.sha256[:12]}. That one stays in the store "
        f"until garbage collection; `aquarat store pin {latest.sha256[:12]}` keeps it. To have both side "
        f"by side: aquarat experiments add NAME --profile {profile.name}"
    )


def _differing(manifest: Manifest, profile: Profile) -> Iterator[str]:
    """Settings in which an artifact differs from the profile, such as `sft_checkpoint.steps 20 (profile: 60)`.

    Where a stage runs (`launch`) does not affect its result; settings that only one of the two can have are ignored.
    """
    stage = STAGES.get(manifest.asset)
    section = stage.config(profile) if stage else None
    if section is None:
        return
    made_with = with_current_names(type(section), manifest.config, warn=False)
    ours, theirs = flat(section.model_dump(mode="json")), flat(made_with)
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name] and not name.startswith("launch."):
            yield f"{manifest.asset}.{name} {theirs[name]} (profile: {ours[name]})"


def _said(found: list[tuple[Manifest, list[str]]]) -> str:
    profiles = dict.fromkeys(format_profile(m.profile, m.profile_sha256) for m, _ in found)
    settings = [text for _, differing in found for text in differing]
    more = f" and {len(settings) - _SHOWN} more" if len(settings) > _SHOWN else ""
    return f"made under profile {', '.join(profiles)} with {', '.join(settings[:_SHOWN])}{more}"


def _ways_out(experiment: Experiment, asset: str) -> str:
    return (
        f"Make its own inputs first: --select '*{experiment.ref(asset)}'. To keep both chains: aquarat experiments add "
        f"NAME --profile {experiment.profile.name}. To accept the input as it is: {ANY_INPUTS}=1, `aquarat launch "
        f"--any-inputs`, or the run's tag {ANY_INPUTS_TAG} true"
    )


def takes_any(tags: Mapping[str, str]) -> bool:
    """Whether the run with those tags, or this process, accepts inputs from any profile."""
    return tags.get(ANY_INPUTS_TAG) == "true" or os.environ.get(ANY_INPUTS) == "1"
