"""Runs tasks of lm-evaluation-harness on a model: its results in its own form, and ours."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from aquarat_core.config.validation import did_you_mean
from aquarat_core.errors import DataError, UsageError
from aquarat_core.evaluation.harness.adapter import Progress, adapter, lm_eval
from aquarat_core.evaluation.harness.answering import Answerer
from aquarat_core.evaluation.harness.samples import HarnessAsked, Run, answered
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.evaluation.suite import Answered

LEFT_OUT = ("samples", "pretty_env_info")
"""Of that program's results: the rows, which are our records, and a description of this machine."""


@dataclass(frozen=True, slots=True)
class HarnessResults:
    """What was found."""

    results: dict[str, Any]
    """As that program writes them: the metrics of each task (`acc,none`, `acc_stderr,none`) and what decides them."""
    table: str
    """Its table of them."""
    answered: list[Answered]
    """The tasks that are right or wrong by the row, in our records."""
    cropped: dict[str, int]
    """By task, rows whose prompt lost its beginning."""


def check_installed() -> None:
    """Raises `UsageError` where lm-evaluation-harness is not installed."""
    lm_eval("api.model")


def run(subject: Subject, asked: HarnessAsked, model_name: str, progress: Progress) -> HarnessResults:
    """Ask all tasks of `asked`.

    Raises `UsageError` for a task that there is not or that may not be run, and `DataError` where its data cannot be
    loaded.
    """
    model = adapter(Answerer(subject, asked.seed, asked.chat), progress)
    with _quiet():
        found = lm_eval("evaluator").simple_evaluate(
            model,
            tasks=list(asked.tasks),
            num_fewshot=asked.num_fewshot,
            limit=asked.limit,
            apply_chat_template=asked.chat,
            task_manager=_manager(asked.tasks),
        )
    found["config"].update(model="aquarat", model_args=model_name)
    done = Run(asked, model.cropped, model.truncated, subject.tokenizer, str(found["lm_eval_version"]))
    kept = {key: value for key, value in found.items() if key not in LEFT_OUT}
    return HarnessResults(
        results=_plain(kept),
        table=lm_eval("utils").make_table(found),
        answered=[one for task in found["samples"] for one in answered(task, found, done)],
        cropped={task: n for task in found["samples"] if (n := done.n_cropped(task))},
    )


def _manager(names: Sequence[str]) -> Any:
    """That program's loader of tasks, whose complaints are ours.

    It reads its thousands of tasks, which takes a while, only if one of `names` is not a file.
    """
    base: Any = lm_eval("tasks").TaskManager

    class Manager(base):
        def load(self, task_list: Any) -> Any:
            for name in task_list:
                _check_known(name, self.all_tasks)
            try:
                loaded: Any = base.load(self, task_list)
            # Hub, network, disk, and the code of thousands of tasks: whatever it is, it is not ours.
            except Exception as e:
                raise DataError(
                    f"lm-evaluation-harness cannot load {', '.join(task_list)} ({type(e).__name__}: {e}). Its "
                    "data come from the Hugging Face Hub: see that this machine reaches it or has them in its cache"
                ) from e
            for name, task in loaded["tasks"].items():
                _check_safe(name, task)
            return loaded

    return Manager(include_defaults=not all(map(_is_file, names)))


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _check_known(name: str, known: Sequence[str]) -> None:
    if _is_file(name) and not os.path.isfile(name):
        raise UsageError(f"--harness: there is no file {name}")
    if _is_file(name) or name in known:
        return
    hint = did_you_mean(name, known)
    raise UsageError(
        f"--harness: lm-evaluation-harness has no task {name!r}: {hint}It has {len(known):,} tasks and groups, which "
        "python -m lm_eval ls tasks lists"
    )


def _check_safe(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(
            f"--harness: {name} runs the code that a model writes without any sandbox. For HumanEval there is --tasks "
            "humaneval, which has one"
        )
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"--harness: {name} shows pictures or sound, and these models read text only")


@contextmanager
def _quiet() -> Generator[None]:
    """That program reports each of its steps; only its errors are let through."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _plain(value: Any) -> Any:
    """As JSON: numbers of NumPy become Python's, what is not finite null, and what JSON does not know its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in cast("Sequence[Any]", value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def to_json(results: Mapping[str, Any]) -> str:
    """The results as that program's file has them."""
    return json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
