"""`aquarat import`: publishes checkpoints of other programs as artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer, log
from aquarat_core.errors import UsageError


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "import",
        description="Finds out what the folder is: a checkpoint of nanochat (model_STEP.pt and meta_STEP.json), of"
        " Hugging Face transformers (config.json and safetensors), or of aquarat. Files are only read as data, and"
        " nothing is published unless all of it fits together.",
    )
    command.add_argument("what", metavar="WHAT", help="a folder, or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub")
    command.add_argument("--step", type=int, help="for nanochat: step of the checkpoint (default: the last one)")
    command.add_argument(
        "--tokenizer", type=Path, metavar="FILE",
        help="for nanochat: vocabulary that the model was trained with: tokenizer.pkl, ranks of tiktoken, or a"
        " tokenizer.json of Hugging Face or aquarat (default: the one in or beside the folder)",
    )  # fmt: skip
    command.add_argument("--name", help="name of the artifact (default: nanochat_checkpoint, transformers_checkpoint"
                         " or imported_checkpoint)")  # fmt: skip
    add_store(command)
    add_json(command)
    command.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> str:
    from aquarat_core.exchange.importing import import_checkpoint
    from aquarat_core.stages.registry import STAGES

    if arguments.name in STAGES:
        raise UsageError(f"{arguments.name} is the name of a stage's artifacts: choose another --name")
    store = ArtifactStore.open(arguments.store)
    artifact, opened = import_checkpoint(
        store, arguments.what, arguments.name, log, step=arguments.step, tokenizer=arguments.tokenizer
    )
    step, tokenizer = opened.origin["step"], next(iter(opened.origin["tokenizer"]))
    machine = {
        "asset": artifact.asset,
        "manifest_sha256": artifact.sha256,
        "form": opened.form,
        "step": step,
        "tokenizer": tokenizer,
        "uri": artifact.uri,
    }
    what = opened.form if step is None else f"{opened.form}, step {step}"
    text = f"{artifact.asset} {artifact.sha256[:12]}: {what}, tokenizer from {tokenizer}, now in {artifact.uri}"
    return answer(arguments, machine, text)
