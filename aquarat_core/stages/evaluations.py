"""From artifacts to an evaluation's questions, and from its answers to the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from typing import Any

from aquarat_core.artifacts import Artifact, CodeVersion
from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import Asked
from aquarat_core.evaluation.chat_core import ChatCore
from aquarat_core.evaluation.figure_types import Evaluation
from aquarat_core.evaluation.records import Facts
from aquarat_core.evaluation.report import EvalReport, build, grader_version
from aquarat_core.evaluation.suite import Answered, Questions
from aquarat_core.evaluation.summary import summarize
from aquarat_core.stages.task_inputs import TaskInput
from aquarat_core.tasks import origin
from aquarat_core.tasks.task import Example, most_common


def questions(asked: Iterable[Asked], find: Callable[[str], TaskInput], data: Sequence[Artifact]) -> list[Questions]:
    """Every evaluation with its questions; `find` gives the task of a name, `data` are the data sets of all of them."""
    asked = list(asked)
    inputs = {task: find(task) for task in dict.fromkeys(one.task for one in asked)}
    majorities = {task: majority(found) for task, found in inputs.items()}
    made: list[Questions] = []
    for one in asked:
        task, dataset = inputs[one.task].task, inputs[one.task].dataset
        examples = questions_to_ask(inputs[one.task], one)
        facts = Facts(
            name=one.name,
            task=one.task,
            protocol=one.protocol,
            split=one.split,
            questions=origin.asked(one.task, data),
            settings=one.settings,
            categories=list(task.categories),
            majority=majorities[one.task],
            longest=longest_option(examples),
            grader=grader_version(task),
            data_asset=dataset.asset,
            data_version=dataset.data_version,
        )
        made.append(Questions(one, task, examples, facts))
    return made


def questions_to_ask(found: TaskInput, asked: Asked) -> list[Example[Any]]:
    """The first `asked.limit` questions of the split, with choices in the order the model will read."""
    examples = found.examples(asked.split)[: asked.limit]
    return [found.task.shown(e, asked.seed) for e in examples] if asked.permute_options else examples


def majority(found: TaskInput) -> str | None:
    """The commonest right answer of the training split; None for a task that has none."""
    return most_common(found.references("train")) if found.rows("train") else None


def longest_option(examples: Sequence[Example[Any]]) -> float | None:
    """Accuracy of always choosing the option with the longest text; several of that length share the question.

    None where there are no options, or their right answers are not letters.
    """
    shares: list[float] = []
    for example in examples:
        lengths = [len(text) for text in example.choices]
        places = [i for i, length in enumerate(lengths) if length == max(lengths)]
        if not places or len(example.reference) != 1:
            return None
        right = ord(example.reference) - ord("A")
        shares.append((right in places) / len(places))
    return mean(shares) if shares else None


def report_of(
    asset: str,
    checkpoint: Artifact,
    data: Sequence[Artifact],
    config: EvalConfig,
    profile: str,
    code: CodeVersion,
    answered: Sequence[Answered],
    evaluations: Sequence[Evaluation],
    chat: ChatCore | None,
    bits_per_byte: float | None = None,
) -> EvalReport:
    """The report on what a checkpoint was asked; its summary is of the first evaluation, the main one."""
    main = answered[0]
    # Without training examples the questions themselves say what is commonest.
    commonest = main.facts["majority"] or most_common(r.gold for r in main.records)
    chance = mean(r.chance for r in main.records)
    return build(
        asset,
        checkpoint,
        data,
        config,
        profile,
        code,
        main.facts["grader"],
        main.records,
        summarize(main.records, commonest, chance, main.facts["categories"]),
        bits_per_byte,
        evaluations,
        chat,
        main.facts["protocol"],
    )
