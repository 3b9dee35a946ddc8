"""The table of commands. It imports nothing, so that `aquarat --help` and the choice of a command cost no time.

Other packages add rows as entry points (`entry_points.py`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # pyright: ignore[reportPrivateUsage]
"""The return type of `ArgumentParser.add_subparsers`, for which argparse has no public name."""

GROUPS = ("look", "ask", "make", "evaluate", "exchange", "configure", "operate")
"""The groups of the manual, in its order. Commands of another group come last."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its line in the manual, and the module that adds its parser."""

    name: str
    what: str
    """A phrase such as `talk with a model`, of at most 56 characters, so that the manual fits 80 columns."""
    group: str
    module: str
    """Has a function `add_commands(commands)` that adds the parser, perhaps with those of other commands."""
    example: str = ""
    """A call of it, as it is typed."""


_CLI = "aquarat_core.cli"
COMMANDS = (
    Command(
        "show",
        "print everything that is known about an artifact",
        "look",
        f"{_CLI}.artifacts",
        "aquarat show rl_checkpoint",
    ),
    Command(
        "lineage", "print what an artifact was made from", "look", f"{_CLI}.artifacts", "aquarat lineage rl_checkpoint"
    ),
    Command(
        "name",
        "give an artifact a name, or list the names",
        "look",
        f"{_CLI}.name",
        "aquarat name rl_checkpoint rl-with-hints",
    ),
    Command(
        "report",
        "open a report's page in the browser, or serve it",
        "look",
        f"{_CLI}.report",
        "aquarat report rl_checkpoint --serve",
    ),
    Command(
        "ask",
        "print a checkpoint's answer to one message",
        "ask",
        f"{_CLI}.generate",
        'aquarat ask rl_checkpoint "What is 12 * 7?"',
    ),
    Command("chat", "talk with a model", "ask", f"{_CLI}.chat", "aquarat chat rl_checkpoint --temperature 0.7"),
    Command(
        "serve",
        "serve models: a chat page, an explorer, OpenAI's API",
        "ask",
        f"{_CLI}.serve",
        "aquarat serve sft_checkpoint rl_checkpoint",
    ),
    Command(
        "eval",
        "evaluate a checkpoint on tasks of your choice",
        "evaluate",
        f"{_CLI}.evaluate",
        "aquarat eval rl_checkpoint --tasks aqua --limit 100",
    ),
    Command(
        "compare",
        "compare two checkpoints, question by question",
        "evaluate",
        f"{_CLI}.compare",
        "aquarat compare sft_checkpoint rl_checkpoint",
    ),
    Command(
        "reproduce",
        "run an artifact's stage again and compare the results",
        "evaluate",
        f"{_CLI}.reproduce",
        "aquarat reproduce tokenizer",
    ),
    Command(
        "import",
        "publish another program's checkpoint as an artifact",
        "exchange",
        f"{_CLI}.import_model",
        "aquarat import hf://owner/name",
    ),
    Command(
        "release",
        "write a checkpoint for other tools, and publish it",
        "exchange",
        f"{_CLI}.release",
        "aquarat release rl_checkpoint --to release",
    ),
    Command(
        "export",
        "write a data set's questions or conversations as JSONL",
        "exchange",
        f"{_CLI}.export",
        "aquarat export aqua_dataset --out questions",
    ),
    Command(
        "config",
        "show, compare and validate profiles",
        "configure",
        f"{_CLI}.config",
        "aquarat config diff demo mine.yaml",
    ),
    Command("profiles", "list the built-in profiles", "configure", f"{_CLI}.models", "aquarat profiles"),
    Command(
        "model",
        "print the size and cost of the profiles' models",
        "configure",
        f"{_CLI}.models",
        "aquarat model --profile d12",
    ),
    Command(
        "completion",
        "print the code that completes commands in your shell",
        "configure",
        f"{_CLI}.completion",
        "source <(aquarat completion bash)",
    ),
    Command(
        "store", "list, fetch, verify and clean up artifacts", "operate", f"{_CLI}.store", "aquarat store ls --all"
    ),
)
