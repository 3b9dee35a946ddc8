"""`aquarat import`: publishes checkpoints of other programs as artifacts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.artifacts import ArtifactStore, CodeVersion, digest_file, git_state
from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.errors import UsageError
from aquarat_core.runtime.scratch import scratch_folder
from aquarat_core.settings import REPO_ROOT

if TYPE_CHECKING:
    from aquarat_core.text.tokenizer import Tokenizer

HUGGING_FACE, TIKTOKEN, OURS = "hugging-face", "tiktoken", "aquarat"


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("import", help="publish another program's checkpoint as an artifact")
    programs = command.add_subparsers(required=True, metavar="PROGRAM")
    nanochat = programs.add_parser(
        "nanochat",
        help="a nanochat checkpoint as of October 2025",
        description="Reads model_STEP.pt (only tensors: a file with anything else is rejected) and meta_STEP.json."
        " nanochat's own tokenizer.pkl is a pickle, which can run code, and is never read: provide the vocabulary as"
        " tiktoken ranks, a Hugging Face tokenizer.json or a tokenizer of aquarat.",
    )
    nanochat.add_argument("directory", type=Path, help="folder of the checkpoint")
    nanochat.add_argument("--tokenizer", type=Path, required=True, help="file of the vocabulary it was trained with")
    nanochat.add_argument("--tokenizer-format", choices=(OURS, TIKTOKEN, HUGGING_FACE), default=OURS,
                          help="that file's format (default: %(default)s)")  # fmt: skip
    nanochat.add_argument("--step", type=int, help="step of the checkpoint (default: the last one in the folder)")
    nanochat.add_argument("--name", default="nanochat_checkpoint", help="name of the artifact (default: %(default)s)")
    add_store(nanochat)
    add_json(nanochat)
    nanochat.set_defaults(run=_nanochat)


def _nanochat(arguments: argparse.Namespace) -> str:
    from aquarat_core.exchange.nanochat import load_nanochat, saved_steps
    from aquarat_core.model.accounting import parameters
    from aquarat_core.model.checkpoint import save_checkpoint
    from aquarat_core.stages.registry import STAGES
    from aquarat_core.text.tokenizer import TOKENIZER_FILE

    if arguments.name in STAGES:
        raise UsageError(f"{arguments.name} is the name of a stage's artifacts: choose another --name")
    step = arguments.step
    if step is None:
        if not (steps := saved_steps(arguments.directory)):
            raise UsageError(f"there is no model_STEP.pt in {arguments.directory}")
        step = steps[-1]
    tokenizer = _tokenizer(arguments.tokenizer, arguments.tokenizer_format)
    model = load_nanochat(arguments.directory, step)
    if tokenizer.vocab_size != model.vocab_size:
        raise UsageError(
            f"the model has {model.vocab_size:,} ids, but {arguments.tokenizer} has {tokenizer.vocab_size:,}: it "
            "is not the vocabulary that the model was trained with"
        )
    with scratch_folder("import") as scratch:
        content, written = scratch / "content", scratch / TOKENIZER_FILE
        content.mkdir()
        tokenizer.save(written)
        save_checkpoint(content, model, written)
        source = digest_file(arguments.directory / f"model_{step:06d}.pt").sha256
        commit, dirty = git_state(REPO_ROOT)
        artifact = ArtifactStore.open(arguments.store).publish(
            asset=arguments.name,
            kind="checkpoint",
            directory=content,
            config={"imported_from": "nanochat", "step": step, "model": model.config.model_dump()},
            profile="imported",
            code=CodeVersion(version=source, commit=commit, dirty=dirty),
            parents=(),
            metrics={"parameters": parameters(model.config, model.vocab_size)},
            seeds={},
            run_id=f"import-{source[:12]}",
        )
    machine = {"asset": artifact.asset, "manifest_sha256": artifact.sha256, "step": step, "uri": artifact.uri}
    return answer(arguments, machine, f"{artifact.asset} {artifact.sha256[:12]}: step {step}, now in {artifact.uri}")


def _tokenizer(path: Path, kind: str) -> Tokenizer:
    """Raises `TokenizerError` for a file that is not a tokenizer, or a vocabulary without the chat tokens."""
    from aquarat_core.config import SPLIT_PATTERN
    from aquarat_core.text.formats import load_hugging_face, load_tiktoken
    from aquarat_core.text.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError

    if path.suffix == ".pkl":
        raise TokenizerError(
            f"{path} is a pickle, which can run code when it is read: provide the vocabulary in another format"
        )
    if kind == TIKTOKEN:  # only ranks: nanochat's pattern and special tokens are the same as ours
        return load_tiktoken(path, SPLIT_PATTERN, SPECIAL_TOKENS)
    tokenizer = load_hugging_face(path) if kind == HUGGING_FACE else Tokenizer.load(path)
    if missing := [name for name in SPECIAL_TOKENS if name not in tokenizer.special_ids]:
        raise TokenizerError(f"{path} has no {', '.join(missing[:3])}: it is not a tokenizer of nanochat")
    return tokenizer
