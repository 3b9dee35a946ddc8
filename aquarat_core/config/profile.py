"""A profile: the sections of all stages, read from YAML, merged and validated."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, Field, model_validator

from aquarat_core.config import dial, strict_yaml
from aquarat_core.config.core import EvalBundleConfig
from aquarat_core.config.data import AquaDatasetConfig, ChatDatasetsConfig, PretrainTextConfig
from aquarat_core.config.evaluation import EvalConfig, check_asked_once, check_chat_core, check_phases
from aquarat_core.config.fields import ConfigError, StrictModel, merge, with_current_names
from aquarat_core.config.locations import anchored
from aquarat_core.config.model import TokenizerConfig
from aquarat_core.config.release import ReleaseConfig
from aquarat_core.config.rl import RLConfig
from aquarat_core.config.task_code import with_code
from aquarat_core.config.task_use import TaskNames
from aquarat_core.config.tasks import AQUA, TaskConfig, TaskName, named_tasks
from aquarat_core.config.training import ChatTrainConfig, MidConfig, PretrainConfig, TrainConfig
from aquarat_core.config.validation import validate

PROFILES_DIR = Path(__file__).parents[1] / "profiles"
DEFAULT_PROFILE = "demo"
SCALED = "d12"
"""The profile whose recipe the others with a depth extend."""
MAX_PARENTS = 20
S = TypeVar("S", bound=StrictModel)


class Profile(StrictModel):
    """All stages of the chain, each under the name of its asset."""

    name: str
    description: str
    depth: Annotated[int, Field(ge=1, le=64)] | None = Field(default=None, exclude_if=lambda depth: depth is None)
    """The one dial: from the model's depth follow its width, batch, rates, weight decay, amount of text and
    micro-batches, as far as this file does not set them; `aquarat config show` names the rules. null derives
    nothing."""
    task: str = AQUA
    """The subject of the chain: the name of a built-in task or of one under `tasks`, or a task defined in place."""
    tasks: dict[TaskName, TaskConfig] = Field(default_factory=dict[str, TaskConfig])
    """Your own tasks, by name."""
    aqua_dataset: AquaDatasetConfig = AquaDatasetConfig()
    chat_datasets: ChatDatasetsConfig = ChatDatasetsConfig()
    pretrain_text: PretrainTextConfig = PretrainTextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    base_checkpoint: PretrainConfig = PretrainConfig()
    mid_checkpoint: MidConfig = MidConfig()
    sft_checkpoint: ChatTrainConfig = ChatTrainConfig()
    rl_checkpoint: RLConfig = RLConfig()
    eval_bundle: EvalBundleConfig = EvalBundleConfig()
    eval_report: EvalConfig = EvalConfig()
    model_release: ReleaseConfig = ReleaseConfig()

    def to_json(self) -> bytes:
        """The whole profile, independent of the files it was read from. JSON is YAML, so it can be loaded as a
        profile."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode()

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def names(self) -> TaskNames:
        """The profile's tasks and data sets by name. Raises `ValueError` if two have the same name."""
        rows = {split: getattr(self.aqua_dataset, f"n_{split}") for split in ("train", "validation", "test", "holdout")}
        return TaskNames(self.task, self.tasks, self.chat_datasets, rows)

    def section(self, field: str) -> BaseModel:
        """A stage's section, with the tasks that it uses filled in."""
        names = self.names
        used = {name for _, section in self if isinstance(section, StrictModel) for name in names.central(section)}
        return names.filled(getattr(self, field), used)

    @model_validator(mode="before")
    @classmethod
    def _task_in_place(cls, raw: Any) -> Any:
        return named_tasks(raw)

    @model_validator(mode="after")
    def _stages_fit_each_other(self) -> Profile:
        depth = self.base_checkpoint.model.depth
        if self.depth not in (None, depth):
            raise ValueError(
                f"base_checkpoint.model.depth {depth} would keep the rates, batch and text of depth {self.depth}: they "
                f"follow from depth: {depth} at the top of the profile, or from --depth {depth}; give that instead"
            )
        T = self.base_checkpoint.model.sequence_len
        for stage, train in self._sections(TrainConfig):
            if train.batch_tokens % T:
                raise ValueError(
                    f"{stage}.batch_tokens {train.batch_tokens} is not a whole number of rows: make it a multiple of "
                    f"base_checkpoint.model.sequence_len {T}"
                )
        self._tasks_fit()
        self._answers_fit(T)
        return self

    def _sections(self, kind: type[S]) -> Iterator[tuple[str, S]]:
        """The sections of a given type with their names, in the order of the fields."""
        for name, section in self:
            if isinstance(section, kind):
                yield name, section

    def _answers_fit(self, sequence_len: int) -> None:
        """Checks what would otherwise only fail after base, mid and SFT have been trained."""
        entries = enumerate(self.eval_report.tasks)
        for stage, budget in (
            ("rl_checkpoint", self.rl_checkpoint.max_new_tokens),
            ("eval_report", self.eval_report.max_new_tokens),
            *((f"eval_report.tasks[{i}]", e.max_new_tokens) for i, e in entries if e.max_new_tokens),
        ):
            if budget >= sequence_len:
                raise ValueError(
                    f"{stage}.max_new_tokens {budget} leaves no room for a question in base_checkpoint.model."
                    f"sequence_len {sequence_len}: lower the one or raise the other"
                )
        rl, names = self.rl_checkpoint, self.names
        kept = [names.rows[names.own(task.name)]["train"] for task in rl.tasks]
        there = [n if rl.limit is None else min(n, rl.limit) for n in kept if n is not None]
        if len(there) == len(kept) and sum(there) < rl.prompts_per_step:
            raise ValueError(
                f"rl_checkpoint.prompts_per_step {rl.prompts_per_step} exceeds the {sum(there)} training "
                "questions available (n_train of the tasks, rl_checkpoint.limit)"
            )

    def _tasks_fit(self) -> None:
        names, rl, evaluation = self.names, self.rl_checkpoint, self.eval_report
        for stage, section in self:
            if isinstance(section, StrictModel):
                names.check_filled_in(section, stage)
        names.check_decontaminated(self.pretrain_text.decontaminate, "pretrain_text")
        for stage, train in self._sections(ChatTrainConfig):
            if not train.mixture:
                raise ValueError(f"{stage}.mixture is empty: it needs a data set")
            for entry in train.mixture:
                names.check(entry.name, f"{stage}.mixture", names.rows)
                names.check_split(entry.name, "train", f"{stage}.mixture")
                names.check_learned(entry.name, train.loss_on, stage)
                if entry.permutations > 1 and not names.has_options(entry.name):
                    raise ValueError(
                        f"{stage}.mixture: permutations of {names.own(entry.name)} are not possible, only those of a "
                        "task with options"
                    )
                if entry.answer_only and names.own(entry.name) not in names.graded:
                    raise ValueError(
                        f"{stage}.mixture: {names.own(entry.name)} has no answers to show alone (answer_only): only "
                        f"tasks have, here {', '.join(sorted(names.graded))}"
                    )
                if entry.answer_only:
                    names.check_shortened(entry.name, f"{stage}.mixture")
            names.check(train.validation_task, f"{stage}.validation_task", names.graded)
            split = names.choice_split(train.validation_task, train.validation_split)
            names.check_split(train.validation_task, split, f"{stage}.validation_task")
            names.check_decontaminated(train.decontaminate, stage)
        for task in rl.tasks:
            names.check(task.name, "rl_checkpoint.tasks", names.graded)
            for split in ("train", names.choice_split(task.name, rl.validation_split)):
                names.check_split(task.name, split, "rl_checkpoint.tasks")
            if rl.distills:
                names.check_solutions(task.name, "rl_checkpoint.distillation.teacher")
        names.check_decontaminated(rl.decontaminate, "rl_checkpoint")
        if len({names.own(task.name) for task in rl.tasks}) < len(rl.tasks):
            raise ValueError("rl_checkpoint.tasks names a task twice")
        names.check(evaluation.task, "eval_report.task", names.graded)
        names.check_split(evaluation.task, evaluation.split, "eval_report.task")
        self._evaluations_fit()

    def _evaluations_fit(self) -> None:
        """What the entries of `eval_report.tasks` and `chat_core` name, and that nothing is asked twice."""
        names, evaluation = self.names, self.eval_report
        phases = [field.removesuffix("_checkpoint") for field in Profile.model_fields if field.endswith("_checkpoint")]
        for place, entry in enumerate(evaluation.tasks):
            field = f"eval_report.tasks[{place}]"
            names.check(entry.task, field, names.graded)
            names.check_split(entry.task, entry.split or evaluation.split, field)
            names.check_protocol(entry.task, entry.protocol, field)
            check_phases(entry.of, phases, field)
        section = cast("EvalConfig", self.section("eval_report"))
        if evaluation.chat_core and section.chat_core:
            check_phases(evaluation.chat_core.of, phases, "eval_report.chat_core")
            check_chat_core(evaluation.chat_core, section.chat_core)
        if evaluation.core:
            check_phases(evaluation.core.of, phases, "eval_report.core")
        if evaluation.interpret:
            check_phases(evaluation.interpret.of, phases, "eval_report.interpret")
        for phase in phases:
            check_asked_once(section, phase)


def profile_names() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(p.stem for p in PROFILES_DIR.glob("*.yaml"))


def load_profile(
    name_or_path: str | None = None, overrides: dict[str, Any] | None = None, depth: int | None = None
) -> Profile:
    """The profile with that name (or YAML path), with nested `overrides` applied.

    Without a name, uses `AQUARAT_PROFILE` from the environment, else `demo`, or with a `depth` `d12`. `depth` turns the
    profile's dial; the profile is then named after it. Raises `ConfigError`.
    """
    asked = asked_profile(name_or_path, depth)
    fields = merge(*(given for _, given in layers(asked, depth)))
    return validate(Profile, merge(fields, with_current_names(Profile, overrides or {})), f"profile {asked}")


def override(profile: Profile, changes: dict[str, Any]) -> Profile:
    """`profile` with nested `changes` applied and everything validated again. Raises `ConfigError`."""
    changes = with_current_names(Profile, changes)
    return validate(Profile, merge(profile.model_dump(), changes), f"profile {profile.name} with the run's overrides")


def layers(name_or_path: str | None = None, depth: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The fields that a profile's file gives, after those of the profiles that it extends, each with the profile's name
    or file. Later ones win. Raises `ConfigError`.

    Values derived from the depth come before the fields of the last file that sets it, each with its rule in place of a
    name: so they replace what that file inherits, and what it sets by hand replaces them.
    """
    asked = asked_profile(name_or_path, depth)
    given = _layers(asked, seen=())
    dialled = [place for place, (_, fields) in enumerate(given) if "depth" in fields]
    if not dialled:
        if depth is not None:
            raise ConfigError(
                f"profile {asked} has values of its own for its size, none that follow a depth: take one of "
                f"{', '.join(_scaled())}, or write depth: {depth} into a file that extends {asked}"
            )
        return given
    place = dialled[-1]
    if depth not in (None, given[place][1]["depth"]):
        source, fields = given[place]
        name = given[-1][1].get("name", asked)
        given[place] = (source, fields | {"depth": depth})
        named = f"d{depth}" if asked == SCALED else f"{name}-d{depth}"
        given.append((f"--depth {depth}", {"name": named, "description": f"Depth {depth} by the rules of {asked}."}))
    turned = given[place][1]["depth"]
    if not isinstance(turned, int):
        return given
    own = merge(*(fields for _, fields in given[place:]))
    trained = {
        name: kind
        for name, field in Profile.model_fields.items()
        if isinstance(kind := field.annotation, type) and issubclass(kind, TrainConfig)
    }
    found = dial.derived(turned, merge(*(fields for _, fields in given)), own, trained)
    return [*given[:place], *((f"depth {turned}: {rule}", fields) for rule, fields in found), *given[place:]]


def asked_profile(name_or_path: str | None = None, depth: int | None = None) -> str:
    """The profile's name or file: the given one, else that of `AQUARAT_PROFILE` in the environment, else `demo`.

    For a `depth`, `d12` instead of `demo`; and instead of `d12` the built-in profile of that depth, if there is one.
    """
    asked = name_or_path or os.environ.get("AQUARAT_PROFILE") or (DEFAULT_PROFILE if depth is None else SCALED)
    return f"d{depth}" if asked == SCALED and f"d{depth}" in profile_names() else asked


def _scaled() -> list[str]:
    """The built-in profiles with a depth, the smallest first."""
    depths = {name: _layers(name, seen=())[-1][1].get("depth", 0) for name in profile_names()}
    return sorted((name for name in depths if depths[name]), key=lambda name: int(depths[name]))


def _layers(name_or_path: str, seen: tuple[Path, ...], beside: Path | None = None) -> list[tuple[str, dict[str, Any]]]:
    """`layers`; a path is relative to the file `beside` it."""
    is_path = name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path
    path = (beside or Path()) / name_or_path if is_path else PROFILES_DIR / f"{name_or_path}.yaml"
    if not _is_file(path):
        known = ", ".join(profile_names())
        where = f" (looked for at {path.absolute()})" if is_path else ""
        raise ConfigError(
            f"unknown profile {name_or_path!r}{where}: choose one of {known}, or give the path of a YAML file"
        )
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"profile {path} extends itself through {' -> '.join(map(str, seen))}")
    try:
        raw = strict_yaml.load(path)
    except (OSError, strict_yaml.YamlError) as e:
        raise ConfigError(f"a profile cannot be read: {e}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in cast("dict[object, Any]", raw)):
        raise ConfigError(f"profile {path} must be a mapping of stages to fields")
    named = with_current_names(Profile, cast("dict[str, Any]", raw))
    fields = with_code(anchored(named, Profile, path.parent), path)
    parent: object = fields.pop("extends", None)
    if parent is not None and not isinstance(parent, str):
        raise ConfigError(f"profile {path}: extends must be one profile's name or file, not {parent!r}")
    if len(seen) >= MAX_PARENTS:
        raise ConfigError(f"profile {path} extends more than {MAX_PARENTS} others")
    before = _layers(parent, (*seen, path), path.parent) if parent else []
    # A user's own file does not inherit its parent's name, under which other artifacts are known.
    own = {"name": path.stem} | fields if is_path and parent else fields
    return [*before, (str(path) if is_path else name_or_path, own)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for a file
        return False
