"""`aquarat ask`: a checkpoint's answer to a message, or its continuation of a text."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from aquarat_core.artifacts import Artifact
from aquarat_core.artifacts.finding import find_checkpoint
from aquarat_core.cli.artifacts import add_artifact, add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.output import answer
from aquarat_core.errors import UsageError
from aquarat_core.tasks.origin import questions_of


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("ask")
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
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end an answer before this text; can be repeated"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    command.add_argument("--calculator", action="store_true", help="compute the calculator calls that the model makes")
    command.add_argument(
        "--special-tokens", action="store_true", help="print names of special tokens, and calls of the calculator"
    )
    add_store(command)
    add_json(command)
    command.set_defaults(run=_ask)


def _ask(arguments: argparse.Namespace) -> str:
    artifact = find_checkpoint(arguments.artifact, arguments.store)
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
    from aquarat_core.rollout.stops import StopTexts
    from aquarat_core.rollout.tools import calculator
    from aquarat_core.runtime.distributed import distributed_world
    from aquarat_core.text.chat import reading_text, stop_tokens
    from aquarat_core.training.samples import chat_prompts, text_prompts

    with distributed_world(LaunchConfig()) as world:
        model, tokenizer = load_checkpoint(artifact.directory(), world.device, world.compute_dtype)
        decode = None if arguments.special_tokens else partial(reading_text, tokenizer)
        stops = StopTexts(tokenizer, arguments.stop, decode)
        (prompt,) = text_prompts([text], tokenizer) if arguments.plain else chat_prompts([text], [], tokenizer)
        engine = Engine(model, stop_tokens(tokenizer))
        keys = [row_key("ask", arguments.seed, n) for n in range(arguments.samples)]
        temperature = arguments.temperature
        if temperature is None:
            temperature = 0.0 if arguments.samples == 1 else 1.0
        tool = calculator(tokenizer) if arguments.calculator else None
        (completions,) = engine.generate(
            [prompt.ids], [keys], arguments.max_new_tokens, temperature, top_k=arguments.top_k, top_p=arguments.top_p,
            tool=tool, enough=stops.enough,
        )  # fmt: skip
        said = map(stops.cut, completions)
        return [{"text": one.text, "tokens": one.n_tokens, "ended": one.ended} for one in said]
