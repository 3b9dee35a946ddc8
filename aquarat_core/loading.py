"""`load`: a checkpoint from a store, a folder or the Hub, as a `Model`."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from aquarat_core import arguments
from aquarat_core.api import MAX_CHAT_TOKENS, Model
from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.finding import find_artifact
from aquarat_core.config import LaunchConfig
from aquarat_core.errors import UsageError, WeightsError
from aquarat_core.exchange.hub import SCHEME
from aquarat_core.exchange.json_files import json_object
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.runtime.distributed import compute_dtype
from aquarat_core.settings import store_uri

CHECKPOINT, RELEASE = "checkpoint", "release"
"""Kinds of artifacts that hold a model."""
GENERATION = "generation_config.json"
"""Hugging Face's file of defaults for generating, in releases and other folders."""
DTYPES = ("float32", "bfloat16")


def load(
    what: str | Path,
    *,
    store: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Model:
    """A checkpoint, ready to generate.

    `what` is one of

    - an asset (`rl_checkpoint`, `EXPERIMENT/ASSET` in a named experiment) or the beginning of a manifest hash, in the
      artifact store `store` (default: that of `AQUARAT_STORE`), also with `aquarat://` before it;
    - the URI of a manifest in any store, as `aquarat show` prints it;
    - `hf://owner/name` or `hf://owner/name@revision`, a repository of the Hugging Face Hub;
    - a folder: a checkpoint of aquarat, a release, or one of the forms of nanochat. Write `./NAME` where the store may
      have an asset of that name, or give a `Path`.

    `device` is `cpu` or `cuda`, by default the GPU if torch sees one. `dtype` is `float32` or `bfloat16`, by default
    bfloat16 where the hardware computes in it natively. `chat` answers with up to as many tokens as the folder's
    `generation_config.json` says, if it has one. Raises a `UserError`, such as `ArtifactError` for what is not
    in the store and `WeightsError` for what is no model.
    """
    named = _named(what)
    if store is not None:
        store = arguments.text("store", store)
    where = _device(device)
    kind = _dtype(dtype) or compute_dtype(LaunchConfig(), where)
    folder = named if isinstance(named, Path) else _folder(named)
    if folder is not None:
        _is_folder(folder)  # a path that the system cannot even look up
        return _opened(folder, where, kind)
    name = str(named)
    try:
        artifact = find_artifact(name, store or store_uri())
    except ArtifactError:
        # A folder may be called like an asset that does not exist, but not like anything in the store.
        if "://" not in name and _is_folder(Path(name)):
            return _opened(Path(name), where, kind)
        raise
    if artifact.manifest.kind == RELEASE:
        return _opened(artifact.directory(), where, kind, artifact)
    if artifact.manifest.kind != CHECKPOINT:
        raise UsageError(f"{artifact.asset} is a {artifact.manifest.kind}: only checkpoints and releases have a model")
    transformer, tokenizer = load_checkpoint(artifact.directory(), where, kind)
    return Model(transformer, tokenizer, artifact)


def _named(what: object) -> str | Path:
    """Raises `UsageError` for what can be no name, address or folder."""
    if isinstance(what, Path):
        return what
    if not isinstance(what, str):
        raise UsageError(
            f"the name to load is {arguments.kind(what)}, but must be that of an asset, an address, or a folder "
            "(str or Path)"
        )
    name = arguments.text("the name to load", what)
    if not name.strip():
        raise UsageError("the name to load is empty: give an asset, an address, or a folder ('.' for this one)")
    return name


def _folder(name: str) -> Path | None:
    """The folder that is certainly meant by this; None for a name or address in a store."""
    if name.startswith(SCHEME):
        from aquarat_core.exchange.hub import download

        return download(name)
    try:
        return Path(name).expanduser() if re.match(r"[./~]", name) else None
    except RuntimeError:
        raise UsageError(f"{_short(name)}: there is no such user, or no home folder is known") from None


def _is_folder(path: Path) -> bool:
    """Like `Path.is_dir`. Raises `UsageError` for a path that the system refuses to look up."""
    try:
        return path.is_dir()
    except OSError as e:
        raise UsageError(f"{_short(str(path))} cannot be opened: {e.strerror}") from None
    except ValueError:
        raise UsageError(f"{_short(str(path))!r} is no path: it contains a NUL character") from None


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}..."


def _opened(folder: Path, device: torch.device, dtype: torch.dtype, artifact: Artifact | None = None) -> Model:
    from aquarat_core.exchange.opening import open_folder

    opened = open_folder(folder)
    limit = _chat_tokens(folder / GENERATION)
    opened.model.compute_dtype = dtype
    return Model(opened.model.to(device), opened.tokenizer, artifact, opened.origin, limit)


def _chat_tokens(path: Path) -> int:
    """The `max_new_tokens` of a `generation_config.json`, or the default if there is none.

    Raises `WeightsError` for a file that is damaged.
    """
    if not path.is_file():
        return MAX_CHAT_TOKENS
    limit: object = json_object(path).get("max_new_tokens")
    if limit is None:
        return MAX_CHAT_TOKENS
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise WeightsError(f"max_new_tokens in {path} must be a whole number of at least 1")
    return limit


def _device(named: str | torch.device | None) -> torch.device:
    if named is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise UsageError(f"{named!r} is no device: use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"{device} is not supported: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"torch sees no GPU {device} here: use device='cpu'")
    return device


def _dtype(named: str | torch.dtype | None) -> torch.dtype | None:
    if named is None:
        return None
    name = str(named).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"{name} is no type to compute in: use {' or '.join(DTYPES)}")
    return getattr(torch, name)
