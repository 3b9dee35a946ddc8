"""Settings of CORE, and the location of its questions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from aquarat_core.config.fields import MAX_COUNT, StrictModel
from aquarat_core.config.local_files import combined, sha256_of
from aquarat_core.config.locations import Anchor, local_path, split_pin

MAX_CORE_SHOTS = 10
"""The largest number of examples before a question in any task of CORE."""


BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""The address of the published bundle with which CORE is usually measured."""
_BUNDLE_FILES = (".yaml", ".csv", ".jsonl")


def _pinned_bundle(text: str) -> str:
    """The bundle's location as a config holds it. Raises `ValueError` if it is neither a zip file nor a folder."""
    place, sha256 = split_pin(text)
    path = local_path(place)
    folder = path is not None and os.path.isdir(path)
    if not folder and not (path or urlsplit(place).path).endswith(".zip"):
        raise ValueError(f"{place} is neither a folder of this machine nor does it end in .zip, as a bundle does")
    return text if path is None else f"{path}#sha256={sha256 or bundle_pin(path)}"


def bundle_pin(path: str) -> str:
    """The SHA-256 of a bundle's zip file; of a folder one hash over the files that can belong to a bundle.

    Raises `ValueError` for what is not there or cannot be read.
    """
    at = Path(path)
    try:
        if not at.is_dir():
            return sha256_of(at)
        files = sorted(file for file in at.rglob("*") if file.suffix in _BUNDLE_FILES and file.is_file())
        return combined([(file.relative_to(at).as_posix(), sha256_of(file)) for file in files])
    except OSError as e:
        raise ValueError(f"{e.filename or path} cannot be read: {e.strerror or e}") from None


BundleLocation = Annotated[str, AfterValidator(_pinned_bundle), Anchor()]


class EvalBundleConfig(StrictModel):
    """The questions of CORE. The asset is only made if `eval_report.core` is set, or if
    `pretrain_text.decontaminate` names `core`."""

    location: BundleLocation = BUNDLE_URL
    """URL or path of the bundle's zip file, or path of a folder with its files. With `#sha256=` and the file's hash at
    its end, other bytes are refused; without it the log says which hash to write."""


class CoreConfig(StrictModel):
    """CORE, the mean over 22 tasks of the accuracy above guessing, from the questions of `eval_bundle`."""

    of: tuple[str, ...] = ()
    """The phases whose checkpoints are measured, e.g. [base, rl]; empty for all."""
    limit: Annotated[int, Field(gt=MAX_CORE_SHOTS, le=MAX_COUNT)] | None = None
    """Questions of each task; null asks all. The examples before a question are drawn from these, so figures with
    different limits do not compare, and the limit is part of a figure's name."""
    too_long: Literal["extend", "crop"] | None = None
    """How to handle prompts longer than the model's context: `extend` reads them in full, beyond the positions of
    training; `crop` drops their beginning. null extends, except for models with a `window_pattern` of short windows."""
