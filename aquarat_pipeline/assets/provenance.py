"""Made under which profile? An input of another one is refused, or taken knowingly and said."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import dagster as dg

from aquarat_core.artifacts import Artifact, ArtifactError, ArtifactStore, Manifest, Parent
from aquarat_core.artifacts.lineage import format_profile
from aquarat_core.config import Profile
from aquarat_core.stages.registry import STAGES
from aquarat_core.upkeep.diff import flat
from aquarat_core.upkeep.survey import ancestry
from aquarat_pipeline.assets.inputs import InputError
from aquarat_pipeline.experiments import Experiment
from aquarat_pipeline.launching.tags import ANY_INPUTS_TAG

ANY_INPUTS = "AQUARAT_ANY_INPUTS"
"""Variable with the request of `ANY_INPUTS_TAG` for commands that give a run no tags."""
_SHOWN = 3


def check_inputs(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    experiment: Experiment,
    asset: str,
    inputs: Iterable[Parent],
) -> None:
    """Compares inputs that other runs made, and their ancestors, with what the run's profile says of their stages.

    What differs under the same profile's name (an override, or a file that was changed since) is said in the run's
    log. Raises `InputError` for what another profile made, unless the run asks for any inputs.
    """
    profile = experiment.profile
    for parent in inputs:
        made = [a for a in ancestry(store, [parent.manifest_sha256]).values() if isinstance(a, Artifact)]
        found = [(a.manifest, list(_differing(a.manifest, profile))) for a in made]
        if not any(differing for _, differing in found):
            continue
        others = [(m, differing) for m, differing in found if differing and m.profile != profile.name]
        said = _said(others or [(m, differing) for m, differing in found if differing])
        if others and not _takes_any(context):
            raise InputError(
                f"{experiment.ref(asset)} of profile {profile.name} would be made from {experiment.ref(parent.asset)} "
                f"of another: {said}. {_ways_out(experiment, asset)}"
            )
        context.log.warning(
            f"{asset} is made from {parent.asset} (manifest {parent.manifest_sha256[:12]}), which is not what profile "
            f"{profile.name} says: {said}"
        )


def say_what_is_replaced(
    context: dg.AssetExecutionContext, store: ArtifactStore, experiment: Experiment, asset: str
) -> None:
    """Says in the run's log when the asset's latest artifact is another profile's: it stays, but commands leave it."""
    name = experiment.ref(asset)
    try:
        latest = store.latest(name)
    except ArtifactError:
        return  # whoever asks for it is told; the run makes a new one
    if latest is None or latest.manifest.profile == experiment.profile.name:
        return
    before = latest.manifest
    context.log.warning(
        f"this run's {name} takes the place of the one that profile {before.profile} made, manifest "
        f"{latest.sha256[:12]}. That one stays in the store until garbage collection; `aquarat store pin "
        f"{latest.sha256[:12]}` keeps it. To have both side by side: aquarat experiments add NAME --profile "
        f"{experiment.profile.name}"
    )


def _differing(manifest: Manifest, profile: Profile) -> Iterator[str]:
    """Settings of an artifact that the profile has otherwise, as `sft_checkpoint.steps 20 (profile: 60)`.

    Where a stage runs (`launch`) is no difference in what it makes; nor is a setting that one of the two cannot have.
    """
    stage = STAGES.get(manifest.asset)
    section = stage.config(profile) if stage else None
    if section is None:
        return
    ours, theirs = flat(section.model_dump(mode="json")), flat(manifest.config)
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
        f"NAME --profile {experiment.profile.name}. To take the input as it is: {ANY_INPUTS}=1, `aquarat launch "
        f"--any-inputs`, or the run's tag {ANY_INPUTS_TAG} true"
    )


def _takes_any(context: dg.AssetExecutionContext) -> bool:
    return context.run.tags.get(ANY_INPUTS_TAG) == "true" or os.environ.get(ANY_INPUTS) == "1"
