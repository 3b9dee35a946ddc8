"""Writes checkpoints that nanochat loads.

The tokenizer is written as ranks (`tokenizer/tokenizer.tiktoken`) and as our JSON, not as the `tokenizer.pkl` that
nanochat reads: a pickle is a program that whoever opens it runs, so a file that is passed on should not be one.
docs/exchange.md has the lines that make it where nanochat runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from aquarat_core.config import ModelConfig
from aquarat_core.config.accounting import SMEAR_CHANNELS, padded_vocabulary
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.nanochat.forms import (
    OCTOBER_2025,
    OPTIONS,
    PRESENT,
    SOFTCAP,
    WINDOW_PATTERN,
    Form,
    is_table,
    tensor_names,
)
from aquarat_core.exchange.tokenizer_files import RANKS_FILE
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.formats import save_tiktoken
from aquarat_core.text.tokenizer import TOKENIZER_FILE, Tokenizer

WRITTEN = (OCTOBER_2025, PRESENT)
"""The forms that are written, in the order of preference."""


def write_nanochat(folder: Path, model: Transformer, tokenizer: Tokenizer, step: int = 0) -> str:
    """Writes `model_STEP.pt`, `meta_STEP.json` and `tokenizer/`; returns the name of the form.

    The form of October 2025 is taken if it can represent the model, otherwise that of 2026, in which options that the
    model lacks get values that change nothing. The files get their names when all are complete. Raises `WeightsError`
    with the options that no form can represent, and `OSError`.
    """
    if tokenizer.vocab_size != model.vocab_size:
        raise WeightsError(f"the model has {model.vocab_size:,} ids, but the tokenizer has {tokenizer.vocab_size:,}")
    form = _form_for(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        scratch = Path(unfinished)
        (scratch / "tokenizer").mkdir()
        save_tiktoken(tokenizer, scratch / "tokenizer" / RANKS_FILE)
        tokenizer.save(scratch / "tokenizer" / TOKENIZER_FILE)
        lengths = torch.tensor(tokenizer.token_bytes().tolist(), dtype=torch.int32)
        torch.save(lengths, scratch / "tokenizer" / "token_bytes.pt")
        torch.save(_weights(model, form), scratch / f"model_{step:06d}.pt")
        meta = {"step": step, "model_config": _described(model, form)}
        (scratch / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer").mkdir(exist_ok=True)
        for path in sorted((p for p in scratch.rglob("*") if p.is_file()), reverse=True):
            path.replace(folder / path.relative_to(scratch))
    return form.name


def _form_for(config: ModelConfig) -> Form:
    reasons = {form.name: _obstacles(config, form) for form in WRITTEN}
    for form in WRITTEN:
        if not reasons[form.name]:
            return form
    text = "; ".join(f"{name}: {', '.join(why)}" for name, why in reasons.items())
    raise WeightsError(f"nanochat cannot represent this model ({text})")


def _obstacles(config: ModelConfig, form: Form) -> list[str]:
    """What in the config the form cannot represent, in words."""
    needed = {"embedding_taps": 0, "qk_scale": form.qk_scale, "rope_base": form.rope_base, "softcap": SOFTCAP}
    needed |= {option: False for option in OPTIONS if option not in form.options}
    found = [
        f"{field} is {getattr(config, field)}, not {value}"
        for field, value in needed.items()
        if getattr(config, field) != value
    ]
    if "smear" in form.options and config.dim < SMEAR_CHANNELS:
        found.append(f"the width is {config.dim}, not at least {SMEAR_CHANNELS}")
    T = config.sequence_len
    short = T if form.short_window is None else min(T, form.short_window(T))
    if other := next((window for window in config.windows if window not in (short, T)), None):
        remedy = f"layers with a window see {short} (short_window)" if form.short_window else "there are no windows"
        found.append(f"a layer sees {other} tokens, but {remedy}")
    return found


def _described(model: Transformer, form: Form) -> dict[str, int | str]:
    config = model.config
    described: dict[str, int | str] = {
        "sequence_len": config.sequence_len,
        "vocab_size": model.vocab_size,
        "n_layer": config.depth,
        "n_head": config.n_head,
        "n_kv_head": config.kv_heads,
        "n_embd": config.dim,
    }
    if form.short_window is not None:
        described[WINDOW_PATTERN] = config.window_pattern if min(config.windows) < config.sequence_len else "L"
    return described


def _weights(model: Transformer, form: Form) -> dict[str, Tensor]:
    """The tensors by nanochat's names, without a copy where they are whole."""
    config = model.config.model_copy(update=dict.fromkeys(form.options, True))
    with torch.device("meta"):
        shapes = Transformer(config, model.vocab_size).state_dict()
    state = model.state_dict()
    rows = model.vocab_size if form is OCTOBER_2025 else padded_vocabulary(model.vocab_size)
    weights: dict[str, Tensor] = {}
    for name, its in tensor_names(config).items():
        if name not in state:
            # 1 x stream + 0 x embeddings, 0 x smear, 0 x backout and values of 0 change nothing.
            weights[its] = torch.full(shapes[name].shape, float(name == "residual_lambdas"))
        elif is_table(name) and rows < len(state[name]):
            # A slice would be saved with all its rows.
            weights[its] = state[name][:rows].cpu().clone()
        else:
            weights[its] = state[name].cpu()
    return weights
