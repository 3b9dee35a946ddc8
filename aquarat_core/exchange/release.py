"""A release: a checkpoint as a folder that Hugging Face tools open, with its model card and its provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from aquarat_core.artifacts import Artifact
from aquarat_core.config.accounting import parameters
from aquarat_core.config.release import ReleaseConfig
from aquarat_core.errors import DataError, UsageError
from aquarat_core.evaluation.report import EvalReport
from aquarat_core.exchange.card import Subject, model_card
from aquarat_core.exchange.facts import FACTS, ReleaseFacts, write_facts
from aquarat_core.exchange.huggingface import write_huggingface
from aquarat_core.exchange.provenance import ancestors, family_of, origin_of_root, publication
from aquarat_core.model.checkpoint import load_checkpoint

CARD = "README.md"
DEFAULT_NEW_TOKENS = 256
"""Of an answer, for a checkpoint whose evaluation sets no limit."""


@dataclass(frozen=True, slots=True)
class Release:
    """What was written."""

    facts: ReleaseFacts
    parameters: int


def write_release(folder: Path, checkpoint: Artifact, report: EvalReport | None, config: ReleaseConfig) -> Release:
    """Writes the release of `checkpoint` to an empty folder.

    `report` is its evaluation. The same checkpoint, report and config give the same bytes. Raises `DataError` if the
    report is about another checkpoint, and `WeightsError` or `TokenizerError` for a checkpoint that cannot be written.
    """
    if checkpoint.manifest.kind != "checkpoint":
        raise UsageError(f"{checkpoint.asset} is a {checkpoint.manifest.kind}: only a checkpoint can be released")
    if report is not None:
        _check_report(checkpoint, report)
    chain = ancestors(checkpoint)
    origin = origin_of_root(chain)
    model, tokenizer = load_checkpoint(checkpoint.directory(), torch.device("cpu"), torch.float32)
    written = write_huggingface(folder, model, tokenizer, _new_tokens(report, model.config.sequence_len))
    facts = ReleaseFacts(
        checkpoint=publication(checkpoint),
        root=family_of(chain),
        lineage=(*(origin.release.lineage if origin and origin.release else ()), *map(publication, chain)),
        questions_sha256=report["evaluation"]["questions_sha256"] if report else None,
        remote_code=written.remote_code,
        form=written.reason,
    )
    write_facts(folder / FACTS, facts)
    subject = Subject(
        checkpoint, chain, model.config, model.vocab_size, report, written.remote_code, written.reason, config
    )
    (folder / CARD).write_text(model_card(subject), encoding="utf-8")
    return Release(facts, parameters(model.config, model.vocab_size))


def _check_report(checkpoint: Artifact, report: EvalReport) -> None:
    about = report["checkpoint"]
    if about["data_version"] != checkpoint.data_version:
        raise DataError(
            f"the report is about {about['asset']} {about['data_version'][:12]}, and not about {checkpoint.asset} "
            f"{checkpoint.data_version[:12]}, which is to be released: name a report about that one, or make it again"
        )


def _new_tokens(report: EvalReport | None, sequence_len: int) -> int:
    """Tokens of an answer at most: as evaluated, else half of the context."""
    limit = report["evaluation"]["max_new_tokens"] if report else DEFAULT_NEW_TOKENS
    return min(limit, sequence_len // 2)
