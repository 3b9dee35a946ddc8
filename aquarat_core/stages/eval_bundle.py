"""eval_bundle: the questions of CORE, fetched, compared with their hash and checked row by row.

Writes the bundle's files as they are: `core.yaml`, `eval_meta_data.csv` and the data of each task under `eval_data/`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aquarat_core.config import EvalBundleConfig
from aquarat_core.config.core import bundle_pin
from aquarat_core.config.locations import shown, split_pin
from aquarat_core.data.remote_files import remote_file
from aquarat_core.errors import DataError
from aquarat_core.evaluation.core.archive import unpack
from aquarat_core.evaluation.core.bundle import Bundle, baselines_sentence
from aquarat_core.evaluation.core.tasks import BASELINES
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.stages.base import Scalar, StageContext


def run(ctx: StageContext) -> dict[str, Scalar]:
    """Returns the numbers of tasks and questions, and the hashes of the bundle's file and of its content."""
    config: EvalBundleConfig = ctx.config
    where = shown(config.location)
    with scratch_folder("bundle") as scratch:
        try:
            folder, sha256 = _files(ctx, config.location, scratch)
            bundle = Bundle(folder)
            questions = _checked(ctx, bundle)
        except DataError as e:
            text = str(e)
            raise DataError(text if text.startswith(where) else f"{where}: {text}") from None
        for name in bundle.files:
            target = ctx.outdir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)
        content = bundle.sha256
    if bundle.absent:
        named = ", ".join(f"{label} ({reason})" for label, reason in bundle.absent.items())
        ctx.log(f"{len(bundle.tasks)} of the {len(BASELINES)} tasks of CORE are in the bundle; absent: {named}")
    if sentence := baselines_sentence(bundle.other_baselines):
        ctx.log(sentence)
    return {"tasks": len(bundle.tasks), "questions": questions, "sha256": sha256, "content_sha256": content}


def _checked(ctx: StageContext, bundle: Bundle) -> int:
    """The number of questions, after every row was read."""
    questions = 0
    for i, task in enumerate(bundle.tasks):
        ctx.progress(i, len(bundle.tasks), "tasks")
        questions += len(bundle.rows(task))
    ctx.progress(len(bundle.tasks), len(bundle.tasks), "tasks")
    return questions


def _files(ctx: StageContext, location: str, scratch: Path) -> tuple[Path, str]:
    """A folder with the bundle's files, and the hash of where they come from, which is that of the config if it names
    one."""
    place, pin = split_pin(location)
    if "://" not in place and os.path.isdir(place):
        sha256 = _hash(place)
        _compare(pin, sha256)
        return Path(place), sha256
    archive = Path(place)
    if "://" in place:
        archive = scratch / "bundle.zip"
        ctx.log(f"fetching {shown(location)}")
        remote_file(place).fetch(archive, ctx.log)
    sha256 = _hash(str(archive))
    _compare(pin, sha256)
    if pin is None:
        ctx.log(f"to refuse other bytes from now on, set eval_bundle.location to {shown(location)}#sha256={sha256}")
    folder = scratch / "bundle"
    folder.mkdir()
    unpack(archive, folder)
    return folder, sha256


def _hash(place: str) -> str:
    try:
        return bundle_pin(place)
    except ValueError as e:
        raise DataError(
            f"{e}. A local path has to be there on the host that runs the stage; https://, gs://, s3:// and hf:// are "
            "read from any host"
        ) from None


def _compare(pin: str | None, sha256: str) -> None:
    if pin not in (None, sha256):
        raise DataError(
            f"it has other bytes (SHA-256 {sha256}) than eval_bundle.location names ({pin}). If they are the ones that "
            "you want, write their hash; else bring the file back"
        )
