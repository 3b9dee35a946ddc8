"""Checks of checkpoints: numbers that say whether training has worked at all."""

from __future__ import annotations

import math
from typing import Any

from aquarat_core.artifacts import Artifact
from aquarat_core.errors import UserError
from aquarat_pipeline.checks.check import WARN, Check, Finding, Subject, found

_MAX_BYTES = 1 << 28
"""Validation tokens of more bytes are not counted, because a control host may have to download them first."""
_MAX_SHARE = 0.9


def _loss(subject: Subject) -> Finding:
    metrics = subject.artifact.manifest.metrics
    loss, skipped = metrics.get("val_loss"), metrics.get("skipped_steps") or 0
    vocabulary = metrics.get("vocab_size") or _vocabulary(subject.artifact)
    if not isinstance(loss, float | int):
        wrong = isinstance(metrics.get("steps"), int) and "val_loss" in metrics
        return found(not wrong, "The validation loss is not finite." if wrong else "No validation loss is recorded.")
    uniform = math.log(vocabulary) if isinstance(vocabulary, int) and vocabulary > 1 else math.inf
    if not math.isfinite(loss) or loss > uniform + 1:
        return found(False, f"The validation loss {loss:.3f} is worse than guessing tokens, {uniform:.3f}.")
    unigram = _unigram_entropy(subject.artifact) if subject.stage.name == "base_checkpoint" else None
    bound, what = (unigram, "the entropy of single tokens") if unigram is not None else (uniform, "guessing tokens")
    said = f"Validation loss {loss:.3f} nats per token, {what} {bound:.3f}."
    if loss >= bound:
        return found(False, f"{said} The model knows less than how often each token occurs.", WARN, val_loss=loss)
    if isinstance(skipped, int) and skipped:
        return found(False, f"{said} {skipped} steps were skipped: their gradients were not finite.", WARN)
    return found(True, said, val_loss=loss, bound=bound if math.isfinite(bound) else None)


def _vocabulary(artifact: Artifact) -> int | None:
    """The size of the checkpoint's vocabulary; None if the artifact holds no tokenizer."""
    from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

    if TOKENIZER_FILE not in {e.path for e in artifact.manifest.files}:
        return None
    try:
        return Tokenizer.load(artifact.path(TOKENIZER_FILE)).vocab_size
    except UserError:
        return None  # other checks report a damaged file


def _unigram_entropy(checkpoint: Artifact) -> float | None:
    """The entropy in nats of the validation tokens' frequencies; None if they cannot be counted."""
    import numpy as np

    parent = next((p for p in checkpoint.manifest.parents if p.asset == "pretrain_tokens"), None)
    if parent is None or not checkpoint.store.has(parent.manifest_sha256):
        return None
    tokens = checkpoint.store.get(parent.manifest_sha256)
    entry = next((e for e in tokens.manifest.files if e.path == "validation.bin"), None)
    if entry is None or entry.size > _MAX_BYTES:
        return None
    size = int(tokens.manifest.metrics.get("validation_tokens") or 0)
    if not size or entry.size % size:
        return None
    ids = np.fromfile(tokens.path("validation.bin"), dtype=np.dtype("<u2" if entry.size == 2 * size else "<u4"))
    shares = np.bincount(ids) / len(ids)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _reward(subject: Subject) -> Finding:
    from aquarat_core.evaluation.plots import EXACT_REWARD, checkpoint_metrics

    rows = checkpoint_metrics(subject.artifact)
    steps = [row for row in rows if "rl/mean_reward" in row]
    if not steps:
        return found(True, "The checkpoint keeps no rewards.")
    last = steps[-max(1, len(steps) // 4) :]
    silent = sum(bool(row.get("rl/silent")) for row in steps) / len(steps)
    letters = {
        name for row in last for name in row if name.startswith("rl/letter_") and len(name) == len("rl/letter_A")
    }
    shares = {name[-1]: sum(row.get(name, 0.0) for row in last) / len(last) for name in letters}
    # The exact reward may have replaced another one in between, and their means do not compare.
    exact = EXACT_REWARD in last[-1]
    paid = [row["rl/mean_reward"] for row in last if (EXACT_REWARD in row) == exact]
    reward = sum(paid) / len(paid)
    of = f"exact reward of the last {len(paid)} steps" if len(paid) < len(last) else "reward of the last quarter"
    said = f"Mean {of} {reward:.3f}; {silent:.0%} of the steps taught nothing."
    facts: dict[str, Any] = {"mean_reward": reward, "silent_steps": silent}
    if silent > _MAX_SHARE:
        return found(False, f"{said} All answers of each group earned the same.", WARN, **facts)
    if shares and (most := max(shares, key=shares.__getitem__)) and shares[most] > _MAX_SHARE:
        return found(False, f"{said} {shares[most]:.0%} of the answers are {most}.", WARN, **facts)
    return found(True, said, **facts)


LOSS = Check(
    "loss_is_sane",
    "The validation loss is finite and below that of a model that only knows how often each token occurs (base), or "
    "that guesses (mid and SFT). Fails if it is worse than guessing, otherwise only warns.",
    _loss,
    blocking=True,
)
REWARD = Check(
    "reward_not_degenerate",
    f"At most {_MAX_SHARE:.0%} of the RL steps taught nothing, and no letter is more than {_MAX_SHARE:.0%} of the last "
    "answers.",
    _reward,
)
