"""RL: trains the SFT policy on verified answers to the training questions of one or several tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from aquarat_core.config import RLConfig
from aquarat_core.errors import StageError
from aquarat_core.evaluation.protocols import fitting
from aquarat_core.model.checkpoint import load_checkpoint, save_checkpoint
from aquarat_core.rl.demonstration import taught
from aquarat_core.rl.preflight import check_reward
from aquarat_core.rl.rollouts import room_for_cue
from aquarat_core.rl.task_mixture import TaskMixture, shares
from aquarat_core.rl.trainer import Trainer
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.decontamination import protected_questions, record_left_out
from aquarat_core.stages.task_inputs import TaskInput, task_input
from aquarat_core.tasks.decontamination import Contaminated, contamination, searched
from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.task import Example, Task
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer
from aquarat_core.training.session import training_session

REWARD_CHECKED_ON = 1000
"""Training questions per task on which the reward is tested before the first step."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one task that leave room for an answer, and the number of those that do not."""

    task: Task[Any]
    train: list[Example[Any]]
    held_out: list[Example[Any]]
    """As shown to the policy."""
    left_out: tuple[int, int]
    """Number of training and of held-out questions without room."""
    contaminated: list[Contaminated]
    """Training questions that contain a held-out one and were left out."""
    unsolved: int = 0
    """Number of training questions without a worked solution, in self-distillation."""
    cut: int = 0
    """Number of training questions whose teacher sees only the end of the solution."""


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Train the policy of `sft_checkpoint` on the training questions of the config's tasks."""
    config: RLConfig = ctx.config
    sft = ctx.inputs["sft_checkpoint"]
    with training_session(ctx, config) as session:
        world = session.world
        policy, tokenizer = load_checkpoint(sft.directory(), world.device, world.compute_dtype)
        room = policy.config.sequence_len
        protected = protected_questions(ctx)
        found = {
            task.name: _questions(ctx, task_input(ctx, task.name), tokenizer, room, protected) for task in config.tasks
        }
        _check_enough(list(found.values()), config)
        for name, questions in found.items():
            _check_reward(name, questions, tokenizer, config)
        task, train, held_out = _together(found)
        summary = Trainer(policy, tokenizer, config, world, task, train, held_out).run(session)
        if ctx.rank == 0:
            save_checkpoint(ctx.outdir, policy, sft.path(TOKENIZER_FILE))
    contaminated = record_left_out(ctx, [row for q in found.values() for row in q.contaminated], found)
    return {
        **summary,
        "questions": len(train),
        "questions_left_out": sum(q.left_out[0] for q in found.values()),
        "held_out_questions_left_out": sum(q.left_out[1] for q in found.values()),
        **(_solution_counts(found.values()) if config.distills else {}),
        **{f"chance_{name}": mean(q.task.chance(e) for e in q.held_out) for name, q in found.items()},
        "ranks": world.size,
        **contaminated,
    }


def _questions(
    ctx: StageContext, found: TaskInput, tokenizer: Tokenizer, sequence_len: int, protected: HeldOut | None
) -> Questions:
    config: RLConfig = ctx.config
    task = found.task
    task.check_ready()
    train, contaminated = _clean(task.name, found.examples("train"), protected)
    train = train[: config.limit]
    held_out = [task.shown(e, config.seed) for e in found.examples(found.choice_split(config.validation_split))]
    room = config.max_new_tokens + room_for_cue(config, tokenizer, task)
    asked, asked_held_out = (fitting(some, tokenizer, room, sequence_len) for some in (train, held_out))
    left_out = len(train) - len(asked), len(held_out) - len(asked_held_out)
    if any(left_out):
        ctx.log(
            f"{left_out[0]} of {len(train)} training questions and {left_out[1]} of {len(held_out)} held-out questions "
            f"of {task.name} are left out, because they leave no room for rl_checkpoint.max_new_tokens "
            f"{config.max_new_tokens} in the policy's context"
        )
    questions = Questions(task, asked, asked_held_out[: config.eval_questions], left_out, contaminated)
    return _with_solutions(ctx, questions, tokenizer, sequence_len) if config.distills else questions


def _clean(
    name: str, examples: list[Example[Any]], protected: HeldOut | None
) -> tuple[list[Example[Any]], list[Contaminated]]:
    """The examples without those that contain a protected question, and a list of these."""
    if protected is None:
        return examples, []
    found = {e.id: contamination(protected, searched(e)) for e in examples}
    listed = [Contaminated(name, row, *why) for row, why in found.items() if why]
    return [e for e in examples if not found[e.id]], listed


def _with_solutions(ctx: StageContext, found: Questions, tokenizer: Tokenizer, sequence_len: int) -> Questions:
    """The questions that a teacher who sees the worked solution can teach. Raises `StageError` if there are none."""
    config: RLConfig = ctx.config
    kept = taught(found.task, found.train, tokenizer, sequence_len - config.max_new_tokens)
    ctx.log(
        f"self-distillation on {len(kept.examples)} of {len(found.train)} questions of {found.task.name}: "
        f"{kept.unsolved} have no worked solution that holds in every order of the options, {kept.too_long} leave no "
        f"room for its last line in the teacher's context, and {kept.cut} are taught with the end of theirs"
    )
    left_out = found.left_out[0] + kept.too_long, found.left_out[1]
    return replace(found, train=kept.examples, left_out=left_out, unsolved=kept.unsolved, cut=kept.cut)


def _solution_counts(found: Collection[Questions]) -> dict[str, Scalar]:
    return {
        "questions_without_solution": sum(q.unsolved for q in found),
        "solutions_cut": sum(q.cut for q in found),
    }


def _check_enough(found: Sequence[Questions], config: RLConfig) -> None:
    """Raises `StageError` if too few questions are left for a step or for an evaluation."""
    there = sum(len(q.train) for q in found)
    if there >= config.prompts_per_step and all(q.train and q.held_out for q in found):
        if config.curriculum.enabled:
            _check_parts(found, config)
        return
    counts = "; ".join(f"{q.task.name}: {len(q.train)} training and {len(q.held_out)} held-out" for q in found)
    raise StageError(
        f"too few questions leave room for rl_checkpoint.max_new_tokens {config.max_new_tokens} ({counts}), but a "
        f"step needs {config.prompts_per_step}: lower max_new_tokens, or train with a longer "
        "base_checkpoint.model.sequence_len"
    )


def _check_parts(found: Sequence[Questions], config: RLConfig) -> None:
    """Raises `StageError` if a task has fewer questions than its share of a step, because a step draws none twice."""
    for questions, n in zip(found, shares([t.weight for t in config.tasks], config.prompts_per_step), strict=True):
        if n > len(questions.train):
            raise StageError(
                f"a step asks {n} questions of {questions.task.name}, but there are {len(questions.train)}: lower its "
                "weight in rl_checkpoint.tasks, or rl_checkpoint.prompts_per_step"
            )


def _check_reward(name: str, questions: Questions, tokenizer: Tokenizer, config: RLConfig) -> None:
    try:
        check_reward(questions.task, questions.train[:REWARD_CHECKED_ON], tokenizer, seed=config.seed)
    except StageError as e:
        raise StageError(f"task {name}: {e}" if len(config.tasks) > 1 else str(e)) from None


def _together(found: dict[str, Questions]) -> tuple[Task[Any], list[Example[Any]], list[Example[Any]]]:
    """The single task with its questions, or a mixture with those of all tasks."""
    if len(found) == 1:
        (only,) = found.values()
        return only.task, only.train, only.held_out
    mixture = TaskMixture({name: q.task for name, q in found.items()})
    train, held_out = (
        [mixture.member(name, e) for name, q in found.items() for e in getattr(q, split)]
        for split in ("train", "held_out")
    )
    return mixture, train, held_out
