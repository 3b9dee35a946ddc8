"""`aquarat ask`: a checkpoint's answer to a message, or its continuation of a text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.errors import UsageError
from aquarat_core.tasks.origin import questions_of


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("ask", help="print a checkpoint's answer to a message")
    add_artifact(command)
    command.add_argument("text", help="the message, or - to read it from standard input")
    command.add_argument("--plain", action="store_true", help="continue the text itself, as a base checkpoint does")
    command.add_argument("--samples", type=int, default=1, help="answers to sample (1)")
    command.add_argument("--temperature", type=float, help="0 takes the most likely tokens (0 for one answer, else 1)")
    command.add_argument("--top-k", type=int, help="sample only from the k most likely tokens")
    command.add_argument(
        "--top-p", type=float, help="sample from the most likely tokens whose probabilities add up to this"
    )
    command.add_argument("--max-new-tokens", type=int, default=64, help="maximum number of tokens of an answer (64)")
    command.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    command.add_argument("--calculator", action="store_true", help="compute the calculator calls that the model makes")
    add_store(command)
    add_json(command)
    command.set_defaults(run=_ask)


def _ask(arguments: argparse.Namespace) -> str:
    artifact = ArtifactStore.open(arguments.store).resolve(arguments.artifact)
    if artifact.manifest.kind != "checkpoint":
        raise UsageError(f"{artifact.asset} is a {artifact.manifest.kind}: only checkpoints can be asked")
    if arguments.samples < 1 or arguments.max_new_tokens < 1:
        raise UsageError("--samples and --max-new-tokens must be at least 1")
    text = _text(arguments.text)
    found = _said(artifact, text, arguments)
    machine = {
        "asset": artifact.asset,
        "manifest_sha256": artifact.sha256,
        "questions": questions_of(artifact),
        "text": text,
        "answers": found,
    }
    cut_off = "\n[cut off by --max-new-tokens]"
    return answer(arguments, machine, "\n---\n".join(f["text"] + ("" if f["ended"] else cut_off) for f in found))


def _text(given: str) -> str:
    """The message, read from standard input for -. Raises `UsageError` if it is not Unicode text."""
    try:
        text = sys.stdin.read() if given == "-" else given
        text.encode()
    except UnicodeError:
        raise UsageError("the message is not UTF-8 text") from None
    return text


def _said(artifact: Artifact, text: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Text, number of tokens, and whether it ended, for each answer."""
    from aquarat_core.config import LaunchConfig
    from aquarat_core.model.checkpoint import load_checkpoint
    from aquarat_core.rollout.engine import Engine
    from aquarat_core.rollout.random import row_key
    from aquarat_core.rollout.tools import calculator
    from aquarat_core.runtime.distributed import distributed_world
    from aquarat_core.training.samples import chat_prompts, text_prompts

    with distributed_world(LaunchConfig()) as world:
        model, tokenizer = load_checkpoint(artifact.directory(), world.device, world.compute_dtype)
        if arguments.plain:
            (prompt,), stop = text_prompts([text], tokenizer), "<|bos|>"
        else:
            (prompt,), stop = chat_prompts([text], [], tokenizer), "<|assistant_end|>"
        engine = Engine(model, tokenizer.special(stop))
        keys = [row_key("ask", arguments.seed, n) for n in range(arguments.samples)]
        temperature = arguments.temperature
        if temperature is None:
            temperature = 0.0 if arguments.samples == 1 else 1.0
        tool = calculator(tokenizer) if arguments.calculator else None
        (said,) = engine.generate(
            [prompt.ids], [keys], arguments.max_new_tokens, temperature, top_k=arguments.top_k, top_p=arguments.top_p,
            tool=tool,
        )  # fmt: skip
        return [{"text": tokenizer.decode(c.content), "tokens": len(c.tokens), "ended": c.ended} for c in said]
