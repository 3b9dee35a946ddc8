"""`aquarat experiments`: lists chains side by side with their results, and adds or removes one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_with
from aquarat_core.cli.output import CheckFailed, answer
from aquarat_core.cli.profile_option import add_profile
from aquarat_core.cli.table import table
from aquarat_core.errors import UsageError

if TYPE_CHECKING:
    from aquarat_core.artifacts import Artifact, ArtifactStore
    from aquarat_pipeline.experiments import Experiment


def add_commands(commands: Commands) -> None:
    """Adds `experiments`, by itself and with `add` and `remove`."""
    command = commands.add_parser(
        "experiments", description="Lists the experiments of this DAGSTER_HOME side by side; adds or removes one."
    )
    add_store(command)
    add_json(command)
    command.set_defaults(run=_list)
    group = command.add_subparsers(metavar="COMMAND")
    added = group.add_parser("add", help="add a chain of assets, NAME/rl_checkpoint and so on, with its own profile")
    added.add_argument("name", metavar="NAME")
    add_profile(added, "a profile's name or file")
    add_json(added)
    added.set_defaults(run=_add)
    removed = group.add_parser("remove", help="remove a named experiment; its artifacts stay")
    complete_with(removed.add_argument("name", metavar="NAME"), _known)
    add_json(removed)
    removed.set_defaults(run=_remove)


def _known() -> Iterable[str]:
    from aquarat_pipeline import experiments

    return experiments.registered()


def _list(arguments: argparse.Namespace) -> str | CheckFailed:
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.config import load_profile
    from aquarat_core.errors import UserError
    from aquarat_core.stages.registry import CHAIN
    from aquarat_pipeline import experiments

    store = ArtifactStore.open(arguments.store)
    there = set(store.assets())
    facts: list[dict[str, Any]] = []
    problems = dict(experiments.damaged())
    for name, profile in {"": None, **experiments.registered()}.items():
        try:
            loaded = load_profile(profile)
        except UserError as e:
            problems[name] = str(e)
        else:
            fact, wrong = _facts(store, experiments.Experiment(loaded, name), there)
            facts.append(fact)
            problems |= wrong
    broken = [f"{name or 'the main experiment'}: {problem}" for name, problem in sorted(problems.items())]
    rows = [("experiment", "profile", "made", *CHAIN), *(_row(fact, CHAIN) for fact in facts)]
    text = "\n".join([table(rows), *broken, f"The experiment - is the main one, of AQUARAT_PROFILE.{_asked(facts)}"])
    found = answer(arguments, {"experiments": facts, "problems": problems}, text)
    return CheckFailed(found) if problems else found


def _facts(store: ArtifactStore, experiment: Experiment, there: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Facts about an experiment and those of its assets that are `there`, and the assets that cannot be read."""
    from aquarat_core.artifacts import ArtifactError, adoption

    made: dict[str, Artifact] = {}
    problems: dict[str, str] = {}
    for asset in experiment.stages:
        if (name := experiment.ref(asset)) in there:
            try:
                latest = store.latest(name)
            except ArtifactError as e:
                problems[name] = str(e)
                continue
            if latest is not None:
                made[asset] = latest
    names = ("accuracy", "accuracy_lo", "accuracy_hi", "n")
    return {
        "experiment": experiment.name,
        "profile": experiment.profile.name,
        "profile_sha256": experiment.profile.sha256,
        "stages": len(experiment.stages),
        "made": {asset: artifact.sha256 for asset, artifact in made.items()},
        "other_profiles": sorted(
            {a.manifest.profile for a in made.values()} - {experiment.profile.name, adoption.PROFILE}
        ),
        "reports": {
            asset.removesuffix("_eval_report"): {name: artifact.manifest.metrics.get(name) for name in names}
            for asset, artifact in made.items()
            if asset.endswith("_eval_report")
        },
    }, problems


def _row(fact: dict[str, Any], phases: Sequence[str]) -> tuple[str, ...]:
    others = f", and made under {', '.join(fact['other_profiles'])}" if fact["other_profiles"] else ""
    profile = f"{fact['profile']} ({fact['profile_sha256'][:6]}){others}"
    scores = [_score(fact["reports"].get(name)) for name in phases]
    return fact["experiment"] or "-", profile, f"{len(fact['made'])} of {fact['stages']}", *scores


def _score(report: dict[str, Any] | None) -> str:
    if report is None or report["accuracy"] is None:
        return "-"
    return f"{report['accuracy']:.1%}"


def _asked(facts: list[dict[str, Any]]) -> str:
    """How many questions the accuracies are of, as a sentence."""
    asked = sorted({r["n"] for fact in facts for r in fact["reports"].values() if r["accuracy"] is not None})
    if not asked:
        return ""
    return f" Accuracies are of {asked[0]:,}{f' to {asked[-1]:,}' if len(asked) > 1 else ''} questions."


def _add(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline import experiments
    from aquarat_pipeline.runs import profiles

    followed: str | None = arguments.profile
    if arguments.depth is not None:
        followed = str(profiles.at_depth(followed, arguments.depth))
    if followed is None:
        raise UsageError("an experiment needs a profile of its own: give --profile or --depth")
    made = experiments.add(arguments.name, followed)
    facts = {"experiment": made.name, "profile": made.profile.name, "profile_sha256": made.profile.sha256}
    return answer(
        arguments,
        facts,
        f"{made.name} follows profile {made.profile.name} ({made.profile.sha256[:12]}). To run its chain:\n"
        f"  aquarat materialize --with-parents {made.ref('rl_checkpoint')}\n"
        f"  aquarat launch --with-parents {made.ref('rl_checkpoint')}\n"
        "In a UI that is already running: Deployment, Reload definitions.",
    )


def _remove(arguments: argparse.Namespace) -> str:
    from aquarat_pipeline import experiments

    experiments.remove(arguments.name)
    return answer(
        arguments,
        {"removed": arguments.name},
        f"{arguments.name} is removed; its artifacts stay in the store, where its refs keep them from garbage "
        f"collection. With the same name and profile, `aquarat experiments add` brings it back",
    )
