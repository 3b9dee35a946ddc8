"""Writes a model as a folder that Hugging Face transformers loads."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aquarat_core.artifacts.weights import save_sharded
from aquarat_core.errors import UsageError, WeightsError
from aquarat_core.exchange.huggingface.chat_template import chat_template
from aquarat_core.exchange.huggingface.description import BOS, END, beyond_nanochat, describe, generation_defaults
from aquarat_core.exchange.huggingface.tensors import shared_tensors
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.formats import save_hugging_face
from aquarat_core.text.tokenizer import Tokenizer

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# Whole names, so that the code version of a stage that writes releases covers these modules.
REMOTE_MODULES = (
    "aquarat_core.exchange.huggingface.remote.configuration_aquarat",
    "aquarat_core.exchange.huggingface.remote.modeling_aquarat",
)
"""The modules whose files a release carries."""


@dataclass(frozen=True, slots=True)
class Written:
    """What kind of folder was written."""

    remote_code: bool
    """Whether the folder carries code, so that loading it needs `trust_remote_code=True`."""
    reason: str
    """One sentence: why transformers' own class is or is not enough."""


def write_huggingface(folder: Path, model: Transformer, tokenizer: Tokenizer, max_new_tokens: int) -> Written:
    """Writes config, float32 weights in shards, tokenizer with chat template, and generation defaults to `folder`.

    `max_new_tokens` is what `generate` stops after by default. Weights are not copied in memory. Raises `WeightsError`
    for a tokenizer with another vocabulary than the model or a form that transformers does not have, `TokenizerError`
    for a tokenizer that cannot be written exactly, and `UsageError` for a folder that has such files. Nothing remains
    of a folder that could not be completed.
    """
    if model.vocab_size != tokenizer.vocab_size:
        raise WeightsError(
            f"the model has {model.vocab_size} ids, but its tokenizer has {tokenizer.vocab_size}: they do not belong "
            "together"
        )
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}: a release that generates needs at least 1")
    options = beyond_nanochat(model.config)
    documents = {
        CONFIG: describe(model.config, tokenizer),
        GENERATION: generation_defaults(tokenizer, max_new_tokens),
        TOKENIZER_CONFIG: _tokenizer_config(tokenizer, model.config.sequence_len),
    }
    with _all_or_nothing(folder):
        save_hugging_face(tokenizer, folder / TOKENIZER, prepend=BOS)
        for name, document in documents.items():
            _write_json(folder / name, document)
        for name in REMOTE_MODULES if options else ():
            package, _, module = name.rpartition(".")
            source = resources.files(package) / f"{module}.py"
            (folder / f"{module}.py").write_bytes(source.read_bytes())
        save_sharded(folder, shared_tensors(model), metadata={"format": "pt"})
    return Written(bool(options), _reason(options))


def _reason(options: list[str]) -> str:
    if not options:
        return "transformers' own NanoChat class computes this model exactly, so the folder carries no code."
    return (
        f"transformers' NanoChat class has no {', '.join(options[:-1])}{' or ' if options[1:] else ''}{options[-1]}, "
        "so the folder carries the model's class, and loading it needs trust_remote_code=True."
    )


def _tokenizer_config(tokenizer: Tokenizer, sequence_len: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": END,
        # `generate` continues the rows of a batch at their right end.
        "padding_side": "left",
        "model_max_length": sequence_len,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(tokenizer),
    }


@contextmanager
def _all_or_nothing(folder: Path) -> Generator[None]:
    """Removes what the block wrote to `folder`, and the folder if it is new, should the block fail."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in folder.iterdir()}
    ours = {CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG}
    if taken := sorted(name for name in before if name in ours or ".safetensors" in name):
        raise UsageError(f"{folder} already has {taken[0]}: choose a folder without a model")
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            if path.name not in before and path.is_file():
                path.unlink()
        if is_new:
            folder.rmdir()
        raise


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
