"""The tasks that a profile's stages use: checks their names, and fills in the tasks that a stage needs.

A stage only gets its own section. So the section refers to tasks by their own names instead of "the profile's task",
and includes the definitions of those that the profile defines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from aquarat_core.config.data import ChatDatasetsConfig, PretrainTextConfig
from aquarat_core.config.evaluation import CHAT_CORE, EvalConfig
from aquarat_core.config.model import TokenizerConfig
from aquarat_core.config.protocols import OF_CHOICES, EvalProtocol
from aquarat_core.config.rl import RLConfig
from aquarat_core.config.tasks import AQUA, CORE, MAIN_TASK, TaskConfig
from aquarat_core.config.training import ChatTrainConfig
from aquarat_core.config.validation import did_you_mean

S = TypeVar("S", bound=BaseModel)
TASK_SOURCES = frozenset({"arc", "arc_challenge", "arc_easy", "gsm8k", "humaneval", "mmlu", "spelling"})
"""The sources of chat_datasets that are tasks, whose answers can be graded."""
WITH_OPTIONS = frozenset({AQUA, "arc", "arc_challenge", "arc_easy", "mmlu"})
"""The built-in tasks whose options can be reordered."""

WITH_SOLUTIONS = frozenset({AQUA, "gsm8k", "spelling"})
"""The built-in tasks whose training rows have worked solutions."""


def nothing_learned(name: str, stage: str) -> str:
    """The error for documents in a mixture of which only the assistant's words are learned."""
    return (
        f"{stage}.mixture names {name}, which has documents, but with loss_on 'assistant' only what the assistant says "
        f"is learned, so nothing of them: name it in mid_checkpoint.mixture alone, or set {stage}.loss_on to 'all'"
    )


def names_in(section: BaseModel | None) -> set[str]:
    """The data sets that a section names: tasks and, for a mixture, also other conversations."""
    match section:
        case PretrainTextConfig():
            return {*section.decontaminate} - {CORE}
        case ChatTrainConfig():
            return {*(entry.name for entry in section.mixture), section.validation_task, *section.decontaminate}
        case RLConfig():
            return {*(task.name for task in section.tasks), *section.decontaminate}
        case EvalConfig():
            chat_core = section.chat_core.tasks if section.chat_core else ()
            return {section.task, *(entry.task for entry in section.tasks), *chat_core}
        case _:
            return set()


class TaskNames:
    """The tasks and data sets of a profile, by name, with their number of training rows (None if unknown)."""

    def __init__(
        self, main: str, tasks: Mapping[str, TaskConfig], chats: ChatDatasetsConfig, aqua_rows: Mapping[str, int]
    ) -> None:
        self.tasks = tasks
        self.rows: dict[str, Mapping[str, int | None]] = {AQUA: aqua_rows}
        for source in chats.sources:
            if source.name in tasks:
                raise ValueError(
                    f"{source.name!r} is both a source of chat_datasets and a task of the profile: rename the task"
                )
            self.rows[source.name] = {
                "train": source.n_train, "validation": source.n_validation, "test": source.n_test
            }  # fmt: skip
        for name, task in tasks.items():
            self.rows[name] = {"train": task.n_train, "validation": task.n_validation, "test": task.n_test}
        self.graded = {AQUA, *tasks, *(TASK_SOURCES & self.rows.keys())}
        self.documents = frozenset(source.name for source in chats.sources if source.has_documents)
        """The sources of chat_datasets that have documents instead of conversations."""
        self.main = main
        self.check(main, "task", self.graded)

    def own(self, name: str) -> str:
        """The task's own name (instead of `task`)."""
        return self.main if name == MAIN_TASK else name

    def check(self, name: str, field: str, known: Iterable[str]) -> None:
        """Raises `ValueError` for a name that is not `known`, and suggests the most similar name."""
        if self.own(name) in known:
            return
        if name in TASK_SOURCES:
            raise ValueError(f"{field} names the task {name!r}: add {{name: {name}}} to chat_datasets.sources")
        hint = did_you_mean(name, [*known, MAIN_TASK])
        raise ValueError(f"{field} names {name!r}: {hint}there are {', '.join(sorted(known))}")

    def check_split(self, name: str, split: str, field: str) -> None:
        """Raises `ValueError` for a split of which the profile keeps no rows."""
        name = self.own(name)
        if split == "holdout" and not self.rows[name].get(split):
            raise ValueError(
                f"{field} needs questions of {name} that are set aside: set aqua_dataset.n_holdout, e.g. to 5000"
                if name == AQUA
                else f"{field} asks for the split 'holdout' of {name}, which only aqua has: take 'validation'"
            )
        if self.rows[name][split] == 0:
            where = f"tasks.{name}" if name in self.tasks else f"the source {name} in chat_datasets.sources"
            raise ValueError(f"{field} needs {split} rows of {name}, but none are kept: set n_{split} of {where}")

    def check_learned(self, name: str, loss_on: str, stage: str) -> None:
        """Raises `ValueError` for documents in a mixture of which only the assistant's words are learned."""
        if name in self.documents and loss_on != "all":
            raise ValueError(nothing_learned(name, stage))

    def check_decontaminated(self, names: Iterable[str], stage: str) -> None:
        """Raises `ValueError` unless each of `names` is a task; pretraining text may also name `CORE`."""
        for name in names:
            if name != CORE:
                self.check(name, f"{stage}.decontaminate", self.graded)
            elif stage != "pretrain_text":
                raise ValueError(f"{stage}.decontaminate names {name!r}, which only pretrain_text.decontaminate can")

    def choice_split(self, name: str, split: str) -> str:
        """The split of a task by which models are chosen where the config says `split`: only AQuA-RAT has a
        hold-out."""
        return split if self.own(name) == AQUA else "validation"

    def check_filled_in(self, section: BaseModel, stage: str) -> None:
        """Raises `ValueError` if a section contradicts the profile's `tasks`, because its definition would be
        ignored."""
        if isinstance(section, ChatDatasetsConfig):
            field, given, known = "tasks", section.tasks, self.tasks
        else:
            field, given = "definitions", getattr(section, "definitions", {})
            known = {name: task.definition for name, task in self.tasks.items()}
        for name, task in given.items():
            without_code = known[name].model_copy(update={"code": None}) if name in known else None
            if task not in (known.get(name), without_code):
                raise ValueError(
                    f"{stage}.{field}.{name} differs from `tasks.{name}` of the profile, from which it is filled in: "
                    "change it there, and leave it out here"
                )

    def has_options(self, name: str) -> bool:
        """Whether copies of the task's rows can differ in the order of their options."""
        name = self.own(name)
        return name in WITH_OPTIONS or (name in self.tasks and self.tasks[name].kind in ("multiple_choice", "module"))

    def check_protocol(self, name: str, protocol: EvalProtocol, field: str) -> None:
        """Raises `ValueError` for a protocol that needs lettered options, where a task that is named has none."""
        if name != MAIN_TASK and protocol in OF_CHOICES and not self.has_options(name):
            raise ValueError(
                f"{field} asks {self.own(name)} under protocol {protocol!r}, which needs lettered options, and it has "
                "none: greedy and sampled work with every task"
            )

    def check_shortened(self, name: str, field: str) -> None:
        """Raises `ValueError` for answers alone of a built-in task whose rows are no longer than that."""
        if (name := self.own(name)) not in WITH_SOLUTIONS and name not in self.tasks:
            raise ValueError(
                f"{field}: answer_only would do nothing for {name}, whose rows have no worked solutions: leave it out"
            )

    def check_solutions(self, name: str, field: str) -> None:
        """Raises `ValueError` for a built-in task without worked solutions; those of other tasks are seen in their
        rows."""
        if (name := self.own(name)) not in WITH_SOLUTIONS and name not in self.tasks:
            raise ValueError(
                f"{field} needs worked solutions for its teacher, and {name} has none: train on rewards "
                f"({field} 'none'), or on {', '.join(sorted(WITH_SOLUTIONS))} or a task of your own with a rationale"
            )

    def is_possible(self, name: str, protocol: EvalProtocol) -> bool:
        """Whether an evaluation of the profile's own task can be asked at all. A profile that another one extends may
        ask for the letters of its task, and the task of the other one may have none: that is then left out."""
        return name != MAIN_TASK or protocol not in OF_CHOICES or self.has_options(name)

    def chat_core(self, used: Iterable[str]) -> tuple[str, ...]:
        """The tasks of ChatCORE that the profile keeps test rows of; AQuA-RAT only where it is `used` for more."""
        there = {name for name in self.graded if self.rows[name]["test"] != 0 and (name != AQUA or AQUA in used)}
        return tuple(name for name, _, _ in CHAT_CORE if name in there)

    def of(self, section: BaseModel) -> set[str]:
        """The data sets, by their own names, that the stage with this section reads."""
        return set(map(self.own, names_in(section)))

    def central(self, section: BaseModel) -> set[str]:
        """Those that the chain is about; what is evaluated besides the main task changes nothing before it."""
        return {self.own(section.task)} if isinstance(section, EvalConfig) else self.of(section)

    def filled(self, section: BaseModel, used: Iterable[str]) -> BaseModel:
        """The section with tasks by their own names and with definitions; `used` are the tasks of the chain."""
        changes: dict[str, Any] = {}
        match section:
            case ChatDatasetsConfig():
                changes = {"tasks": dict(self.tasks)}
            case PretrainTextConfig():
                changes = {"decontaminate": tuple(map(self.own, section.decontaminate))}
            case TokenizerConfig():
                changes = {"tasks": tuple(sorted(self.graded.intersection(used)))}
            case ChatTrainConfig():
                mixture = tuple(e.model_copy(update={"name": self.own(e.name)}) for e in section.mixture)
                changes = {
                    "mixture": mixture,
                    "validation_task": self.own(section.validation_task),
                    "decontaminate": tuple(map(self.own, section.decontaminate)),
                }
            case RLConfig():
                changes = {
                    "tasks": tuple(t.model_copy(update={"name": self.own(t.name)}) for t in section.tasks),
                    "decontaminate": tuple(map(self.own, section.decontaminate)),
                }
            case EvalConfig():
                entries = tuple(
                    e.model_copy(update={"task": self.own(e.task), "split": e.split or section.split})
                    for e in section.tasks
                    if self.is_possible(e.task, e.protocol)
                )
                forced = section.forced_letter and self.has_options(section.task)
                changes = {"task": self.own(section.task), "tasks": entries, "forced_letter": forced}
                if section.chat_core:
                    there = self.chat_core({*used, *(e.task for e in entries)})
                    changes["chat_core"] = section.chat_core.model_copy(update={"tasks": there})
            case _:
                pass
        section = section.model_copy(update=changes) if changes else section
        if "definitions" in type(section).model_fields:
            section = section.model_copy(update={"definitions": self._definitions(section)})
        return section

    def _definitions(self, section: BaseModel) -> dict[str, Any]:
        """Definitions of the profile's tasks that the stage uses. A stage that only trains on stored examples runs no
        module, so it does not include module code, and an edit of the module does not affect it."""
        found = {name: self.tasks[name].definition for name in sorted(self.of(section)) if name in self.tasks}
        if not isinstance(section, ChatTrainConfig | PretrainTextConfig):
            return found
        mixture = section.mixture if isinstance(section, ChatTrainConfig) else ()
        anew = (entry for entry in mixture if entry.permutations > 1 or entry.answer_only)
        shown_anew = {self.own(entry.name) for entry in anew}
        return {
            name: task if name in shown_anew else task.model_copy(update={"code": None}) for name, task in found.items()
        }


def standing_alone(section: S) -> S:
    """A section without a profile around it, whose task is AQuA-RAT."""
    rows = {"train": 1, "validation": 1, "test": 1}
    return cast("S", TaskNames(AQUA, {}, ChatDatasetsConfig(), rows).filled(section, {AQUA}))
