"""Reads checkpoints of nanochat.

The `.pt` file is a torch pickle; it is read with `weights_only`, which creates nothing but tensors, and mapped into
memory, so that a checkpoint is in memory only once, as our model. torch does not limit how long it follows the
instructions of the pickle, so their size is checked first.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from aquarat_core.config.accounting import padded_vocabulary
from aquarat_core.errors import WeightsError
from aquarat_core.exchange.nanochat.forms import Form, config_of, form_of, is_table, tensor_names
from aquarat_core.exchange.opened import Opened, check_finite, origin_of
from aquarat_core.exchange.tokenizer_files import find_tokenizer, read_tokenizer
from aquarat_core.model.transformer import Transformer

MAX_META_BYTES = 1 << 20
MAX_PICKLE_BYTES = 1 << 20
"""Maximum size of the pickle in a `.pt` file. It only describes the tensors: less than 100 KB for 64 layers."""


def read_nanochat(folder: Path, step: int | None = None, tokenizer: Path | None = None) -> Opened:
    """The checkpoint of `step` in the folder, by default the last one, with its tokenizer.

    `tokenizer` is a file in any of the forms of `tokenizer_files.py`; by default the folder and those in which nanochat
    keeps its tokenizer are searched. Raises `WeightsError` or `TokenizerError` for files that are missing, damaged, or
    do not belong together.
    """
    if step is None:
        if not (steps := saved_steps(folder)):
            raise WeightsError(f"there is no model_STEP.pt in {folder}")
        step = steps[-1]
    file, meta = _files(folder, step)
    vocabulary = tokenizer or find_tokenizer(folder)
    if vocabulary is None:
        raise WeightsError(
            f"there is no tokenizer in or beside {folder}: name the file of the vocabulary that the model was trained "
            "with (--tokenizer), such as nanochat's tokenizer/tokenizer.pkl"
        )
    read, vocab_size = read_tokenizer(vocabulary), described_model(meta).get("vocab_size")
    # Before the weights are read, which takes longer. Reading them says what is wrong with another `vocab_size`.
    if type(vocab_size) is int and read.vocab_size != vocab_size:
        raise WeightsError(
            f"the model has {vocab_size:,} ids, but {vocabulary} has {read.vocab_size:,}: it is not the vocabulary "
            "that the model was trained with"
        )
    model, form = load_nanochat(folder, step)
    return Opened(model, read, form.name, origin_of(form.name, step, [file, meta], vocabulary))


def load_nanochat(directory: Path, step: int, compute_dtype: torch.dtype = torch.float32) -> tuple[Transformer, Form]:
    """The model that nanochat saved in `directory` at `step`, with float32 master weights on the CPU, and its form.

    Raises `WeightsError` if a file is missing, contains more than tensors or has another form, and if the two files do
    not match.
    """
    file, meta = _files(directory, step)
    described = described_model(meta)
    _check_archive(file)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        # A damaged file makes torch's reader raise almost any exception. Its text advises to run the pickle.
        _not_tensors(file, "it contains code or objects besides tensors, or it is damaged")
    if not isinstance(weights, Mapping):
        raise WeightsError(f"{file} does not contain a state dict")
    # `from_nanochat` checks the names and that the values are tensors.
    return from_nanochat(cast("Mapping[str, Tensor]", weights), described, compute_dtype)


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in `directory`, in ascending order."""
    found = (re.fullmatch(r"model_(\d+)\.pt", path.name) for path in directory.glob("model_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def from_nanochat(
    weights: Mapping[str, Tensor], described: Mapping[str, Any], compute_dtype: torch.dtype = torch.float32
) -> tuple[Transformer, Form]:
    """The model of a state dict and its `model_config`. Raises `WeightsError` if they do not match."""
    given = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in weights.items()}
    form = form_of(given)
    config = config_of(form, described)
    names, vocab_size = tensor_names(config), described["vocab_size"]
    _check_names(given, set(names.values()), form, config.depth)
    for name, tensor in given.items():
        _check_tensor(name, tensor)
    for name in filter(is_table, names):
        # Checked before the model is allocated: its size follows from the description alone.
        width = config.dim if not name.startswith("value_embeddings.") else config.kv_heads * config.head_size
        shapes = [[rows, width] for rows in (vocab_size, padded_vocabulary(vocab_size))]
        if [*given[names[name]].shape] not in shapes:
            _wrong_shape(names[name], given[names[name]], shapes[0])
    model = Transformer(config, vocab_size, compute_dtype)
    ours = model.state_dict()
    for name, theirs in names.items():
        # Rows beyond the vocabulary stand for nothing, in our tables and in theirs.
        rows = vocab_size if is_table(name) else None
        target, source = ours[name][:rows], given[theirs][:rows]
        if target.shape != source.shape:
            _wrong_shape(theirs, source, [*target.shape])
        ours[name].zero_()
        target.copy_(source)
        check_finite(theirs, target)
    return model, form


def _files(folder: Path, step: int) -> tuple[Path, Path]:
    file, meta = folder / f"model_{step:06d}.pt", folder / f"meta_{step:06d}.json"
    for path in (file, meta):
        if not path.is_file():
            raise WeightsError(f"{path} is missing: a checkpoint is the two files {file.name} and {meta.name}")
    return file, meta


def _check_archive(file: Path) -> None:
    """Raises `WeightsError` unless it is a zip file of uncompressed entries, as torch writes, with a small pickle."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        _not_tensors(file, "it is not a complete zip archive, the form in which torch saves: it is damaged or older")
    except OSError as e:
        raise WeightsError(f"cannot read {file}: {e.strerror}") from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            _not_tensors(file, f"its entry {entry.filename[:60]!r} is compressed, which torch never does")
        if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE_BYTES:
            _not_tensors(
                file, f"its list of tensors has {entry.file_size:,} bytes, and no model needs {MAX_PICKLE_BYTES:,}"
            )


def _not_tensors(file: Path, reason: str) -> NoReturn:
    raise WeightsError(f"{file} does not contain only tensors, so it is not loaded: {reason}")


def described_model(meta: Path) -> dict[str, Any]:
    """The `model_config` of a `meta_STEP.json`. Raises `WeightsError` if it has none."""
    try:
        with meta.open("rb") as file:
            return dict(json.loads(file.read(MAX_META_BYTES))["model_config"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise WeightsError(f"{meta} has no model_config: it was not written by nanochat") from None


def _check_names(given: Mapping[str, Tensor], expected: set[str], form: Form, depth: int) -> None:
    start = f"these are not the weights of a model of {form.name} with {depth} layers:"
    if missing := sorted(expected - given.keys()):
        raise WeightsError(f"{start} {', '.join(missing[:3])} {'are' if missing[1:] else 'is'} missing")
    if unknown := sorted(given.keys() - expected):
        raise WeightsError(f"{start} it has no {', '.join(unknown[:3])}")


def _check_tensor(name: str, tensor: Any) -> None:
    """Raises `WeightsError` unless it is a dense tensor of real numbers that is stored completely in the file."""
    plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.is_floating_point()
    if not plain or tensor.is_meta or tensor.is_quantized:
        raise WeightsError(f"{name} is not an array of real numbers")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise WeightsError(f"{name} claims more numbers than the file contains")


def _wrong_shape(name: str, tensor: Tensor, expected: list[int]) -> NoReturn:
    raise WeightsError(f"{name} is {[*tensor.shape]}, but model_config implies {expected}")
