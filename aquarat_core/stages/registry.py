"""The table of all stages and their inputs, in an order in which they can run. Imports nothing heavy.

The Dagster assets, the stage runner and the command line all read this table. To add a stage, add a row and the
function that it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any

from aquarat_core.config import PretrainTextConfig, Profile, TokenizerConfig
from aquarat_core.config.fields import covers
from aquarat_core.config.task_use import names_in
from aquarat_core.config.tasks import CORE
from aquarat_core.stages.stage import CORE_QUESTIONS, EVAL_BUNDLE, OPTIONAL_INPUTS, TEXT_PASSES, Stage
from aquarat_core.tasks.registry import DATASETS, OTHER_DATASET, TASKS, dataset_of, entry_of


def _names(config: Any) -> set[str]:
    """The data sets that a stage's filled-in config names."""
    return set(config.tasks) if isinstance(config, TokenizerConfig) else names_in(config)


def _tasks(config: Any) -> Iterable[str]:
    """Registry entries of the tasks that the config names."""
    definitions = getattr(config, "definitions", {})
    return sorted({entry_of(name, definitions) for name in _names(config) if name in definitions or name in TASKS})


def _tasks_of_text(config: PretrainTextConfig | None) -> Iterable[str]:
    """The same, and what leaves documents out, if the config asks for it."""
    passes = [TEXT_PASSES] if config and config.leaves_out else []
    return (*_tasks(config), *passes, *([CORE_QUESTIONS] if config and CORE in config.decontaminate else []))


def _tasks_of_report(config: Any) -> Iterable[str]:
    """The same, plus the tasks whose data sets a report may have to warn about."""
    return sorted({*_tasks(config), *(TASKS[name] for name in DATASETS.values())})


def _datasets(config: Any) -> Iterable[str]:
    """The assets that hold the data sets that the config names."""
    return map(dataset_of, _names(config))


def _datasets_of_text(config: Any) -> Iterable[str]:
    """The data sets whose questions must not occur in the text."""
    return (*_datasets(config), *([EVAL_BUNDLE] if CORE in config.decontaminate else []))


def _datasets_of_report(phase: str, config: Any) -> Iterable[str]:
    """The main task's questions, and those of CORE where it is measured of this phase."""
    core = config.core
    return (*_datasets(config), *([EVAL_BUNDLE] if core and covers(core.of, phase) else []))


def _datasets_of_tokenizer(config: Any) -> Iterable[str]:
    """All conversations, and the questions of tasks that have their own asset."""
    return (OTHER_DATASET, *_datasets(config))


_UP_TO_RL = (
    Stage(
        name="aqua_dataset",
        kind="dataset",
        description="Questions in AQuA-RAT's form, cleaned: five options, a rationale and the right letter.",
        how=(
            "Real rows are loaded from the Hub, tidied, and left out of training if they contradict themselves or "
            "are too close to a held-out question; generated ones come from templates and a seed."
        ),
        inputs=(),
        section="aqua_dataset",
        entry="aquarat_core.stages.aqua_dataset:run",
        group="data",
        kinds=("parquet",),
    ),
    Stage(
        name="chat_datasets",
        kind="dataset",
        description=(
            "Conversations and documents for mid-training and SFT, and questions of tasks; one file per source and "
            "split."
        ),
        how="Each source of the profile becomes Parquet files of its rows: from the Hub, from files, or generated.",
        inputs=(),
        section="chat_datasets",
        entry="aquarat_core.stages.chat_datasets:run",
        group="data",
        kinds=("parquet",),
    ),
    Stage(
        name=EVAL_BUNDLE,
        kind="dataset",
        description="Questions of the tasks of CORE, from the published bundle.",
        how="The bundle is fetched once, checked against its published hash, and unpacked.",
        inputs=(),
        section="eval_bundle",
        entry="aquarat_core.stages.eval_bundle:run",
        group="evaluation",
        kinds=("json",),
    ),
    Stage(
        name="pretrain_text",
        kind="dataset",
        description="Documents for pretraining, with a pinned validation shard.",
        how=(
            "Shards of documents are taken from the Hub, from files, or generated; the validation shard is never "
            "trained on. Duplicates and held-out questions are left out if the profile asks for it."
        ),
        inputs=("chat_datasets", "aqua_dataset", EVAL_BUNDLE),
        section="pretrain_text",
        entry="aquarat_core.stages.pretrain_text:run",
        group="data",
        kinds=("parquet",),
        tasks=_tasks_of_text,
        datasets=_datasets_of_text,
    ),
    Stage(
        name="tokenizer",
        kind="tokenizer",
        description="Byte-level BPE trained on the pretraining text and the conversations.",
        how=(
            "The most frequent pairs of bytes are merged, in Rust, until the vocabulary is full; compression is "
            "then compared with known vocabularies."
        ),
        inputs=("pretrain_text", "chat_datasets", "aqua_dataset"),
        section="tokenizer",
        entry="aquarat_core.stages.tokenizer:run",
        group="tokenizer",
        kinds=("rust",),
        tasks=_tasks,
        datasets=_datasets_of_tokenizer,
    ),
    Stage(
        name="pretrain_tokens",
        kind="dataset",
        description="The pretraining text as token ids, memory-mapped by those who train on it.",
        how="Every document is encoded with the tokenizer, after a token that marks its beginning.",
        inputs=("pretrain_text", "tokenizer"),
        section=None,
        entry="aquarat_core.stages.pretrain_tokens:run",
        group="tokenizer",
        kinds=("numpy",),
    ),
    Stage(
        name="base_checkpoint",
        kind="checkpoint",
        description="The language model after pretraining on plain text.",
        how=(
            "Predicts the next token of packed documents, with Muon for matrices and AdamW for the rest, under "
            "torchrun."
        ),
        inputs=("tokenizer", "pretrain_tokens"),
        section="base_checkpoint",
        entry="aquarat_core.stages.base_checkpoint:run",
        group="training",
        kinds=("pytorch", "wandb"),
        distributed=True,
    ),
    Stage(
        name="mid_checkpoint",
        kind="checkpoint",
        description="The base model after mid-training on conversations and problems.",
        how="Goes on with the profile's mixture of conversations, questions and documents, learning every word of it.",
        inputs=("base_checkpoint", "chat_datasets", "aqua_dataset"),
        section="mid_checkpoint",
        entry="aquarat_core.stages.chat_training:run_mid",
        group="training",
        kinds=("pytorch", "wandb"),
        tasks=_tasks,
        datasets=_datasets,
        distributed=True,
    ),
    Stage(
        name="sft_checkpoint",
        kind="checkpoint",
        description="The mid-trained model after supervised fine-tuning on rationales.",
        how="Trains on worked answers, each a row of its own, with the loss on the assistant's words only.",
        inputs=("mid_checkpoint", "chat_datasets", "aqua_dataset"),
        section="sft_checkpoint",
        entry="aquarat_core.stages.chat_training:run_sft",
        group="training",
        kinds=("pytorch", "wandb"),
        tasks=_tasks,
        datasets=_datasets,
        distributed=True,
    ),
    Stage(
        name="rl_checkpoint",
        kind="checkpoint",
        description="The SFT model after reinforcement learning on its own answers, rewarded when right.",
        how=(
            "Samples a group of answers to each question, rewards the right ones, and follows the policy gradient "
            "with the group's mean reward as the baseline (the profile can choose another objective). Keeps the "
            "step that was best on held-out questions."
        ),
        inputs=("sft_checkpoint", "aqua_dataset", "chat_datasets"),
        section="rl_checkpoint",
        entry="aquarat_core.stages.rl_checkpoint:run",
        group="training",
        kinds=("pytorch", "wandb"),
        tasks=_tasks,
        datasets=_datasets,
        distributed=True,
    ),
)

CHECKPOINTS = tuple(row.name for row in _UP_TO_RL if row.kind == "checkpoint")
"""The training stages, each of which starts from the weights of the previous one."""
CHAIN = tuple(name.removesuffix("_checkpoint") for name in CHECKPOINTS)
"""The phases of training; the names of their checkpoints, reports and metrics begin with these."""
EVAL_REPORTS = tuple(f"{phase}_eval_report" for phase in CHAIN)
_MEASURED_ON_TEXT = ("base", "mid")
"""Phases whose bits per byte of plain text are informative."""


def _eval_report(before: str | None, phase: str) -> Stage:
    text = ("pretrain_text",) if phase in _MEASURED_ON_TEXT else ()
    compared = (f"{before}_eval_report",) if before else ()
    return Stage(
        name=f"{phase}_eval_report",
        kind="report",
        description=f"How many of its task's questions {phase}_checkpoint answers correctly, with an interval.",
        how=(
            "Asks every question of the chosen split once, greedily, reads the answer's last line, and compares "
            "with the best constant answer and, question by question, with the stage before."
        ),
        inputs=(f"{phase}_checkpoint", "aqua_dataset", "chat_datasets", EVAL_BUNDLE, *text, *compared),
        section="eval_report",
        entry="aquarat_core.stages.eval_report:run",
        group="evaluation",
        kinds=("pytorch", "markdown"),
        tasks=_tasks_of_report,
        datasets=partial(_datasets_of_report, phase),
        distributed=True,
    )


_FROM_CHECKPOINTS = (
    *(_eval_report(before, phase) for before, phase in pairwise((None, *CHAIN)) if phase),
    Stage(
        name="pipeline_report",
        kind="report",
        description="One page over the whole chain: curves, accuracies, paired tests, lineage.",
        how="Computed from the records of the four checkpoints and their reports; no model is run.",
        inputs=(*CHECKPOINTS, *EVAL_REPORTS),
        section=None,
        entry="aquarat_core.stages.pipeline_report:run",
        group="evaluation",
        kinds=("markdown", "html"),
        tasks=_tasks_of_report,
    ),
    Stage(
        name="model_release",
        kind="release",
        description="The last checkpoint as a folder that Hugging Face tools open, with its model card.",
        how="The weights are renamed, not changed; every number on the card comes from an artifact.",
        inputs=(CHECKPOINTS[-1], EVAL_REPORTS[-1]),
        section="model_release",
        entry="aquarat_core.stages.model_release:run",
        group="release",
        kinds=("huggingface", "markdown"),
        tasks=_tasks_of_report,
    ),
)

STAGES: dict[str, Stage] = {row.name: row for row in (*_UP_TO_RL, *_FROM_CHECKPOINTS)}
"""All stages by name, each after all of its inputs."""


def used_stages(profile: Profile) -> tuple[str, ...]:
    """The stages of the chain under a profile: all except the data sets that no other stage reads."""
    read = {name for stage in STAGES.values() for name in stage.needs(stage.config(profile))}
    return tuple(name for name in STAGES if name in read or name not in OPTIONAL_INPUTS)
