"""Checks of data sets and the tokenizer: cheap readings of what the stage wrote, compared with what is published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from aquarat_core.artifacts import Artifact
from aquarat_pipeline.checks.check import WARN, Check, Finding, Subject, found

PUBLISHED_REPO = "deepmind/aqua_rat"
PUBLISHED_ROWS = {"train": 97_467, "validation": 254, "test": 254}
PUBLISHED_SHARE_OF_A = {"validation": 69 / 254, "test": 63 / 254}
"""Share of held-out questions whose right option is the first; both were counted in the published files."""
_HELD_OUT = ("validation", "test", "holdout")
"""The last one only where the profile sets questions aside."""
_MAX_SIGMAS = 4.5
"""Standard errors by which the share of a letter may differ from its expected value; chance exceeds that once in
150,000."""
_HARD_TEXTS = (
    "",
    " two  spaces\n\n\ttab ",
    "3 * (12.5 - 7)/2 = 8.25, so x² ≈ 68 %.",
    "Grüße, ελληνικά, 日本語, العربية, 👩‍👩‍👧 and \u0000.",
    "<|bos|> written as text",
)


def _row_counts(subject: Subject) -> Finding:
    if why := _unpublished(subject.artifact):
        return found(True, why)
    held = {e.path for e in subject.artifact.manifest.files}
    if "cleaning.json" not in held:
        return found(True, "The artifact does not say how many rows it was made from.")
    counts: dict[str, dict[str, int]] = json.loads(subject.artifact.path("cleaning.json").read_text())["counts"]
    read: dict[str, Any] = {
        split: sum(n for name, n in found_.items() if name == "kept" or name.startswith("dropped_"))
        for split, found_ in counts.items()
    }
    said = f"{', '.join(f'{n:,} {split}' for split, n in read.items())} rows were read"
    if read == PUBLISHED_ROWS:
        return found(True, f"{said}, as published.", **read)
    published = ", ".join(f"{n:,} {split}" for split, n in PUBLISHED_ROWS.items())
    return found(False, f"{said}, but {published} are published.", WARN, **read)


def _letters(subject: Subject) -> Finding:
    metrics, unpublished = subject.artifact.manifest.metrics, _unpublished(subject.artifact)
    worst, said = 0.0, "No letters are counted."
    for split in PUBLISHED_ROWS:
        shares = {
            name.rpartition("_")[2]: float(value)
            for name, value in metrics.items()
            if name.startswith(f"{split}_share_") and isinstance(value, float | int)
        }
        rows = metrics.get(f"rows_{split}")
        if not shares or not isinstance(rows, int) or not rows:
            continue
        expected = 1 / len(shares)
        # The published splits are not permuted, and only the share of A is known beforehand.
        if unpublished is None:
            if split not in PUBLISHED_SHARE_OF_A:
                continue
            shares, expected = {"A": shares["A"]}, PUBLISHED_SHARE_OF_A[split]
        error = (expected * (1 - expected) / rows) ** 0.5
        for letter, share in shares.items():
            sigmas = abs(share - expected) / error
            if sigmas >= worst:
                worst = sigmas
                said = (
                    f"Furthest from expected: {letter} is right for {share:.1%} of {rows:,} {split} questions, "
                    f"expected are {expected:.1%} ({sigmas:.1f} standard errors)."
                )
    return found(worst <= _MAX_SIGMAS, said, WARN, standard_errors=round(worst, 2))


def _leakage(subject: Subject) -> Finding:
    # Imports pyarrow, which Dagster's definitions do without.
    from aquarat_core.tasks.duplicates import normalized

    files = {e.path for e in subject.artifact.manifest.files}
    if not {f"{split}.parquet" for split in PUBLISHED_ROWS} <= files:
        return found(True, "The artifact has no question files to compare.")
    splits = [split for split in _HELD_OUT if f"{split}.parquet" in files]
    held_out = {normalized(text): split for split in splits for text in _questions(subject.artifact, split)}
    leaked = [text for text in _questions(subject.artifact, "train") if normalized(text) in held_out]
    if leaked:
        said = f"{len(leaked):,} training questions are also {' or '.join(splits)} questions."
        return found(False, said, leaked=len(leaked), first=leaked[0][:200])
    return found(True, f"No training question is one of {len(held_out):,} {' and '.join(splits)} questions.", leaked=0)


def _questions(artifact: Artifact, split: str) -> Iterator[str]:
    import pyarrow as pa

    from aquarat_core.data.parquet import read_parts

    schema = pa.schema([("question", pa.string())])
    for part in read_parts(artifact.path(f"{split}.parquet"), schema, "questions"):
        yield from cast("list[str]", part.column("question").to_pylist())


def _round_trip(subject: Subject) -> Finding:
    from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

    if TOKENIZER_FILE not in {e.path for e in subject.artifact.manifest.files}:
        return found(True, "The artifact holds no tokenizer of ours.")
    tokenizer = Tokenizer.load(subject.artifact.path(TOKENIZER_FILE))
    changed = [text for text in _HARD_TEXTS if tokenizer.decode(tokenizer.encode(text)) != text]
    if changed:
        return found(False, f"{changed[0]!r} comes back changed from encoding and decoding.")
    return found(True, f"{len(_HARD_TEXTS)} texts of spaces, formulas, scripts and emoji come back unchanged.")


def _compression(subject: Subject) -> Finding:
    metrics = subject.artifact.manifest.metrics
    own, others = metrics.get("bytes_per_token_questions"), dict[str, float]()
    for name, title in (("gpt2", "GPT-2"), ("cl100k", "GPT-4")):
        value = metrics.get(f"{name}_bytes_per_token_questions")
        if isinstance(value, float | int):
            others[title] = float(value)
    if not isinstance(own, float | int) or not others:
        return found(True, "No known vocabulary is installed to compare with, or there are no questions.")
    said = f"{own:.2f} bytes of questions per token, {', '.join(f'{n} {v:.2f}' for n, v in others.items())}."
    facts: dict[str, Any] = {f"bytes per token, {title}": value for title, value in others.items()}
    return found(own >= 0.8 * min(others.values()), said, WARN, **{"bytes per token": own}, **facts)


def _unpublished(artifact: Artifact) -> str | None:
    """Why the data set cannot be compared with the published one; None if it can."""
    config = artifact.manifest.config
    if config.get("source") == "hub" and config.get("repo") == PUBLISHED_REPO:
        return None
    return "These are not the published questions of AQuA-RAT, so there are no published counts to compare with."


OF_QUESTIONS = (
    Check(
        "row_counts",
        "As many rows were read as AQuA-RAT has: 97,467 for training, 254 for validation and 254 for testing.",
        _row_counts,
    ),
    Check(
        "letters_as_expected",
        "Each letter is right about as often as in the published held-out questions; for generated questions, equally "
        "often.",
        _letters,
    ),
    Check(
        "no_leakage", "No training question is also a validation, test or hold-out question.", _leakage, blocking=True
    ),
)
OF_TOKENIZER = (
    Check("round_trip", "Encoding and decoding leaves difficult texts unchanged.", _round_trip, blocking=True),
    Check(
        "compression",
        "The questions take at most a quarter more tokens than with the vocabulary of GPT-2 or GPT-4, whichever needs "
        "more, as far as these are installed.",
        _compression,
    ),
)
