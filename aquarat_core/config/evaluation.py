"""How checkpoints are evaluated: the profile's section, and every single evaluation that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aquarat_core.config.core import CoreConfig
from aquarat_core.config.fields import Positive, PositiveInt, StrictModel, covers
from aquarat_core.config.interpret import InterpretConfig
from aquarat_core.config.protocols import GENERATING, GREEDY, OF_CHOICES, EvalProtocol
from aquarat_core.config.tasks import AQUA, MAIN_TASK, TaskDefinition
from aquarat_core.config.training import LaunchConfig

Split = Literal["validation", "test", "holdout"]
"""The splits that can be asked; only AQuA-RAT has the last one, from `aqua_dataset.n_holdout`."""
Cue = Literal["answer", "bare"]
SAMPLES, TEMPERATURE = 16, 1.0
"""The values that a null in an entry stands for."""
CHAT_CORE: tuple[tuple[str, EvalProtocol, float], ...] = (
    ("arc_easy", "letters", 0.25),
    ("arc_challenge", "letters", 0.25),
    ("mmlu", "letters", 0.25),
    ("gsm8k", "greedy", 0.0),
    ("humaneval", "greedy", 0.0),
    ("spelling", "greedy", 0.0),
    (AQUA, "greedy", 0.2),
)
"""The tasks of ChatCORE, with the protocol and the baseline accuracy of each."""
BOTH_WAYS = "gsm8k"
"""ChatCORE asks this task with and without the calculator; only the result with it counts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One evaluation: the questions of a task, and how they are asked."""

    task: str
    protocol: EvalProtocol
    split: Split
    limit: int | None
    samples: int
    """Samples per question; always 1 except under `sampled`."""
    temperature: float
    max_new_tokens: int
    calculator: bool
    cue: Cue
    permute_options: bool
    seed: int

    @property
    def name(self) -> str:
        """Its name in records, metrics and tables: task and protocol, and the settings that differ from the usual."""
        generates = self.protocol in GENERATING
        return "".join([
            self.task,
            f"@{self.split}" if self.split != "test" else "",
            f"/{self.protocol}",
            f"-{self.cue}" if self.protocol == "letters" and self.cue != "answer" else "",
            f"-t{self.temperature:g}" if self.protocol == "sampled" and self.temperature != TEMPERATURE else "",
            "+calculator" if self.calculator and generates else "",
        ])  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the result besides task, protocol and split, without those that this protocol does
        not use."""
        unused = {"task", "protocol", "split"}
        if self.protocol not in GENERATING:
            unused |= {"max_new_tokens", "calculator"}
        if self.protocol != "sampled":
            unused |= {"samples", "temperature"}
        if self.protocol != "letters":
            unused |= {"cue"}
        return {name: value for name, value in asdict(self).items() if name not in unused}


class EvalEntry(StrictModel):
    """An additional evaluation: a task under a protocol. A null takes the value of the section around it."""

    task: str = MAIN_TASK
    """The task whose questions are asked; `task` is the profile's own. If that task has no options, entries that need
    options are left out; for a task that is given by name they are an error."""
    protocol: EvalProtocol = GREEDY
    """`greedy`: the most likely answer. `sampled`: several samples of each question. `letters`: the likelihood of each
    letter after the cue. `continuations`: that of each option's text. `cued`: that of each letter after the model's own
    solution. `rotated`: greedy, under every cyclic order of the options."""
    split: Split | None = None
    """Split of the questions."""
    limit: PositiveInt | None = None
    """Questions asked; null asks all."""
    samples: Annotated[int, Field(ge=2, le=4096)] | None = None
    """`sampled` only: samples of each question; null takes 16."""
    temperature: Positive | None = None
    """`sampled` only: null takes 1."""
    max_new_tokens: PositiveInt | None = None
    """Maximum number of tokens of an answer."""
    calculator: bool | None = None
    """Answer the calls that the model makes of the calculator."""
    cue: Cue | None = None
    """`letters` only: the text before the letters that are compared. `answer` (also for null): the task's own words for
    an answer, such as "Answer:". `bare`: none, the letter is the whole answer, as nanochat's checkpoints learn it."""
    of: tuple[str, ...] = ()
    """The phases whose checkpoints are asked, e.g. [sft, rl]; empty for all."""

    @model_validator(mode="after")
    def _fields_fit(self) -> EvalEntry:
        for field, protocols in (
            ("samples", {"sampled"}),
            ("temperature", {"sampled"}),
            ("cue", {"letters"}),
            ("max_new_tokens", GENERATING),
            ("calculator", GENERATING),
        ):
            if getattr(self, field) is not None and self.protocol not in protocols:
                raise ValueError(
                    f"{field} belongs to protocol {' or '.join(sorted(protocols))}, and this one is "
                    f"{self.protocol!r}: leave it out"
                )
        return self


class ChatCoreConfig(StrictModel):
    """ChatCORE: the mean over seven tasks of a score that is 0 for guessing and 1 for perfect answers."""

    limit: PositiveInt | None = None
    """Questions asked of each task; null asks all."""
    of: tuple[str, ...] = ()
    """The phases whose checkpoints are asked, e.g. [sft, rl]; empty for all."""
    cue: Cue = "answer"
    """The text before the letters that its multiple-choice tasks compare, as in an entry of `tasks`."""
    tasks: tuple[str, ...] = ()
    """Its tasks that have test rows in the profile; filled in automatically."""


class EvalConfig(StrictModel):
    """How the four checkpoints are evaluated: greedy answers to the main task, and any other evaluations."""

    launch: LaunchConfig = LaunchConfig()
    task: str = MAIN_TASK
    """The task whose questions are asked; `task` is the profile's own."""
    definitions: dict[str, TaskDefinition] = Field(default_factory=dict[str, TaskDefinition])
    """Definitions of the profile's own tasks; filled in from its `tasks`."""
    split: Split = "test"
    """Split of the questions that are asked."""
    limit: PositiveInt | None = None
    """Questions asked of the main task; null asks all."""
    permute_options: bool = True
    """Put each question's options in a seeded random order, so that no letter is favoured."""
    max_new_tokens: PositiveInt = 64
    """Maximum number of tokens of an answer; an answer that is cut off counts as wrong."""
    calculator: bool = False
    """Answer the calls that the model makes of the calculator."""
    forced_letter: bool = False
    """Also compare the letters after a forced cue that follows each of the main task's solutions (`cued`), and give
    three figures: as generated, among the answers that can be read, and by the forced letter. Nothing is generated
    again. Has no effect on tasks without options."""
    batch_rows: PositiveInt = 256
    """Answers that one process generates at a time."""
    bpb_tokens: PositiveInt = 65_536
    """Tokens of validation text scored for bits per byte (base and mid)."""
    tasks: tuple[EvalEntry, ...] = ()
    """Additional evaluations."""
    chat_core: ChatCoreConfig | None = None
    """Also compute ChatCORE; null does not."""
    core: CoreConfig | None = None
    """Also compute CORE; null does not."""
    seed: int = 30
    """Decides the order of the options, and samples."""
    interpret: InterpretConfig | None = None
    """Analyze the checkpoint's attention and layers, and show the result in the report; null does not."""

    @property
    def main(self) -> Asked:
        """The evaluation of the main task."""
        return self.resolved(EvalEntry(task=self.task, limit=self.limit))

    @property
    def forced(self) -> Asked | None:
        """The evaluation that `forced_letter` adds."""
        if not self.forced_letter:
            return None
        return self.resolved(EvalEntry(task=self.task, protocol="cued", limit=self.limit))

    def asked(self, phase: str | None = None) -> list[Asked]:
        """All evaluations of a phase's checkpoint, the main one first and each once; None takes those of all phases."""
        found: dict[str, Asked] = {}
        forced = [self.forced] if self.forced else []
        for asked in (self.main, *forced, *self.of_tasks(phase), *self.of_chat_core(phase)):
            found.setdefault(asked.name, asked)
        return list(found.values())

    def of_tasks(self, phase: str | None = None) -> list[Asked]:
        """The evaluations of `tasks`."""
        return [self.resolved(entry) for entry in self.tasks if covers(entry.of, phase)]

    def of_chat_core(self, phase: str | None = None) -> list[Asked]:
        """The evaluations that ChatCORE is made of."""
        found = self.chat_core
        if found is None or not covers(found.of, phase):
            return []
        entries = [
            EvalEntry(
                task=task, protocol=protocol, split="test", limit=found.limit, calculator=calculator,
                cue=found.cue if protocol == "letters" else None,
            )
            for task, protocol, _ in CHAT_CORE
            if task in found.tasks
            for calculator in ((True, False) if task == BOTH_WAYS else (None,))
        ]  # fmt: skip
        return [self.resolved(entry) for entry in entries]

    def optional(self, phase: str | None = None) -> set[str]:
        """The names of evaluations that are left out, instead of being an error, if they are impossible: those that
        only ChatCORE needs, which then has fewer tasks, and those that need options of the main task, because only the
        code of a task may know that it has none."""
        entries = self.of_tasks(phase)
        of_chat_core = {asked.name for asked in self.of_chat_core(phase)} - {a.name for a in (self.main, *entries)}
        by_letter = [*entries, *([self.forced] if self.forced else [])]
        return of_chat_core | {a.name for a in by_letter if a.task == self.task and a.protocol in OF_CHOICES}

    def resolved(self, entry: EvalEntry) -> Asked:
        """An entry with its nulls replaced by the section's values."""
        sampled = entry.protocol == "sampled"
        return Asked(
            task=entry.task,
            protocol=entry.protocol,
            split=entry.split or self.split,
            limit=entry.limit,
            samples=(entry.samples or SAMPLES) if sampled else 1,
            temperature=(entry.temperature or TEMPERATURE) if sampled else 0.0,
            max_new_tokens=entry.max_new_tokens or self.max_new_tokens,
            calculator=self.calculator if entry.calculator is None else entry.calculator,
            cue=entry.cue or "answer",
            permute_options=self.permute_options,
            seed=self.seed,
        )


def check_phases(of: Sequence[str], phases: Sequence[str], field: str) -> None:
    """Raises `ValueError` if `of` names anything but phases of the chain."""
    if unknown := [phase for phase in of if phase not in phases]:
        raise ValueError(f"{field}.of names {unknown[0]!r}, and the phases are {', '.join(phases)}")


def check_chat_core(given: ChatCoreConfig, filled: ChatCoreConfig) -> None:
    """Raises `ValueError` if none of its tasks has test rows, or if the profile lists other tasks."""
    if not filled.tasks:
        raise ValueError(
            "eval_report.chat_core: the profile keeps test rows of none of its tasks "
            f"({', '.join(name for name, _, _ in CHAT_CORE)}): add some to chat_datasets.sources"
        )
    if given.tasks not in ((), filled.tasks):
        raise ValueError(
            f"eval_report.chat_core.tasks is filled in ({', '.join(filled.tasks)}), from what there are test rows of: "
            "leave it out"
        )


def check_asked_once(config: EvalConfig, phase: str) -> None:
    """Raises `ValueError` if two entries of the filled-in section are the same evaluation for a phase's checkpoint."""
    entries = [(i, config.resolved(e).name) for i, e in enumerate(config.tasks) if covers(e.of, phase)]
    seen = {config.main.name: "the main evaluation, whose task, split and limit are those of eval_report itself"}
    if config.forced:
        seen[config.forced.name] = "eval_report.forced_letter"
    for place, name in entries:
        if name in seen:
            raise ValueError(
                f"eval_report.tasks[{place}] asks {name} a second time, like {seen[name]}: leave one of them out"
            )
        seen[name] = f"eval_report.tasks[{place}]"
