"""`aquarat release`: a checkpoint for other people's tools, in a folder, a bucket or a repository on the Hub."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.finding import find_artifact
from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer, log
from aquarat_core.errors import UsageError
from aquarat_core.runtime.scratch import scratch_folder

if TYPE_CHECKING:
    from aquarat_core.config.release import ReleaseConfig
    from aquarat_core.evaluation.report import EvalReport

TRANSFORMERS, NANOCHAT = "transformers", "nanochat"


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "release",
        description="Writes a folder that Hugging Face tools open, with a model card made from the artifacts, or a "
        "checkpoint that nanochat loads. An artifact of model_release is published as it is.",
    )
    add_artifact(command)
    command.add_argument("--to", required=True, metavar="WHERE",
                         help="a new folder, gs://bucket/folder, or hf://owner/name[@branch]")  # fmt: skip
    command.add_argument("--form", choices=(TRANSFORMERS, NANOCHAT), default=TRANSFORMERS,
                         help="whose tools are to open it (%(default)s)")  # fmt: skip
    command.add_argument("--report", metavar="REPORT", help="the evaluation to show: an artifact, or a folder that"
                         " `aquarat eval --out` wrote (default: the newest about this checkpoint)")  # fmt: skip
    command.add_argument("--without-report", action="store_true", help="release it without an evaluation")
    command.add_argument("--title", help="heading of the card")
    command.add_argument(
        "--license", help="license of the weights, by the Hub's abbreviation (mit, unless it was imported)"
    )
    command.add_argument("--tag", help="hf://: a tag for the commit, such as v1.0")
    command.add_argument("--public", action="store_true", help="hf://: make a new repository public")
    command.add_argument("--force", action="store_true", help="hf://: replace a model of another family")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_release)


def _release(arguments: argparse.Namespace) -> str:
    artifact = find_artifact(arguments.artifact, arguments.store)
    _check(arguments, artifact)
    with scratch_folder("release") as scratch:
        folder = scratch / "release"
        folder.mkdir()
        said = _write(arguments, artifact, folder)
        machine, where = _deliver(arguments, folder)
    machine |= {"asset": artifact.asset, "manifest_sha256": artifact.sha256}
    return answer(arguments, machine, "\n".join(filter(None, (said, where))))


def _check(arguments: argparse.Namespace, artifact: Artifact) -> None:
    """Checks the options before anything is written."""
    kind, to = artifact.manifest.kind, arguments.to
    if kind not in ("checkpoint", "release"):
        raise UsageError(f"{artifact.asset} is a {kind}: only a checkpoint can be released")
    on_hub = to.startswith("hf://")
    if not on_hub and (arguments.tag or arguments.public or arguments.force):
        raise UsageError("--tag, --public and --force are for hf:// alone")
    of_card = ("--report", "--without-report", "--title", "--license")
    given = [name for name in of_card if getattr(arguments, name[2:].replace("-", "_"))]
    if arguments.form == NANOCHAT:
        if on_hub or kind == "release":
            raise UsageError("--form nanochat writes a checkpoint to a folder or a bucket")
        if given:
            raise UsageError(f"{given[0]} is for the card of a release, which --form nanochat does not have")
    if arguments.report and arguments.without_report:
        raise UsageError("--report and --without-report contradict each other")
    if kind == "release" and given:
        raise UsageError(
            f"{artifact.asset} is a finished release, whose card stays as it is: release its checkpoint, or change the "
            "section model_release of the profile"
        )
    _check_place(to)
    if on_hub:
        from aquarat_core.exchange.hub import Repository, write_token

        Repository.parse(to)
        write_token()


def _check_place(to: str) -> None:
    """Raises `UsageError` for a place that is mistyped or taken."""
    scheme, _, _ = to.partition(":")
    if "://" in to:
        if scheme not in ("gs", "hf"):
            raise UsageError(f"{to}: a release is written to a folder, gs://bucket/folder or hf://owner/name")
        return
    if scheme.lower() in ("gs", "hf", "file") and ":" in to:
        raise UsageError(f"{to} is neither a folder nor an address: write {scheme.lower()}://")
    try:
        taken = Path(to).exists() and (not Path(to).is_dir() or any(Path(to).iterdir()))
    except OSError as e:
        raise UsageError(f"{to[:100]} cannot be a folder: {e.strerror}. Choose another with --to") from None
    if not to or taken:
        raise UsageError(f"{to or 'nothing'} is not an empty folder: choose another with --to")


def _write(arguments: argparse.Namespace, artifact: Artifact, folder: Path) -> str:
    """Fills the folder. Returns a sentence about its form."""
    if artifact.manifest.kind == "release":
        shutil.copytree(artifact.directory(), folder, dirs_exist_ok=True)
        return ""
    if arguments.form == NANOCHAT:
        return _write_nanochat(artifact, folder)
    from aquarat_core.exchange.release import write_release

    return write_release(folder, artifact, _report(arguments, artifact), _config(arguments)).facts.form


def _write_nanochat(artifact: Artifact, folder: Path) -> str:
    import torch

    from aquarat_core.exchange.nanochat import write_nanochat
    from aquarat_core.model.checkpoint import load_checkpoint

    model, tokenizer = load_checkpoint(artifact.directory(), torch.device("cpu"), torch.float32)
    write_nanochat(folder, model, tokenizer)
    return ""


def _config(arguments: argparse.Namespace) -> ReleaseConfig:
    from aquarat_core.config import validate
    from aquarat_core.config.release import ReleaseConfig
    from aquarat_core.exchange.hub import SCHEME, Repository

    named = Repository.parse(arguments.to).name if arguments.to.startswith(SCHEME) else None
    given = {"title": arguments.title, "license": arguments.license, "repository": named}
    return validate(ReleaseConfig, {name: value for name, value in given.items() if value is not None}, "the release")


def _report(arguments: argparse.Namespace, checkpoint: Artifact) -> EvalReport | None:
    """The evaluation to show. Raises `UsageError` if there is none."""
    from aquarat_core.artifacts.survey import readable_artifacts
    from aquarat_core.evaluation.looks import reports_about
    from aquarat_core.evaluation.report import Evaluated

    if arguments.without_report:
        return None
    if arguments.report:
        folder = Path(arguments.report)
        if folder.is_dir():
            return Evaluated.read_folder(folder).report
        return Evaluated.read(find_artifact(arguments.report, arguments.store)).report
    if not (found := reports_about(checkpoint, readable_artifacts(checkpoint.store).values())):
        raise UsageError(
            f"there is no report about {checkpoint.asset} {checkpoint.sha256[:12]} for its card: materialize its eval "
            f"report; or make one with `aquarat eval {checkpoint.sha256[:12]} --out DIR`, and name it with "
            "--report DIR; or give --without-report"
        )
    return Evaluated.read(found[0]).report


def _deliver(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], str]:
    """Puts the finished folder where it belongs. Returns facts for machines, and a sentence."""
    to = arguments.to
    if to.startswith("hf://"):
        return _to_hub(arguments, folder)
    from aquarat_core.exchange.places import to_bucket, to_folder

    if "://" in to:
        to_bucket(folder, to)
    else:
        to_folder(folder, Path(to))
    return {"to": to}, f"released to {to}"


def _to_hub(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], str]:
    from aquarat_core.exchange.hub import Repository, upload

    to = Repository.parse(arguments.to)
    done = upload(folder, to, public=arguments.public, tag=arguments.tag, force=arguments.force, log=log)
    said = f"released to {done.url}" if done.changed else f"{done.url} has this release already: nothing was changed"
    return {"to": arguments.to, "commit": done.commit, "url": done.url, "changed": done.changed}, said
