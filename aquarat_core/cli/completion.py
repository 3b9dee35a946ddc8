"""`aquarat completion`, and what the shell completes: commands, options, artifacts, profiles and fields of profiles.

argcomplete asks this program at each press of TAB, so names of artifacts and experiments are those that exist. Scripts
that are generated once, as by shtab, could not know them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from typing import Any

from aquarat_core.cli.commands import Commands
from aquarat_core.errors import MissingPackageError, UserError

SHELLS = ("bash", "zsh", "fish")
Completer = Callable[..., Iterable[str]]


def add_commands(commands: Commands) -> None:
    """Adds `completion`."""
    command = commands.add_parser(
        "completion",
        description="Prints code for your shell that completes commands, options, assets and profiles. In "
        "`./run shell` it is loaded already.",
        epilog="bash: source <(aquarat completion bash), in ~/.bashrc. zsh: the same in ~/.zshrc, after compinit. "
        "fish: aquarat completion fish > ~/.config/fish/completions/aquarat.fish",
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(run=_completion)


def _completion(arguments: argparse.Namespace) -> str:
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError:
        raise MissingPackageError("completion", "argcomplete", "pipeline") from None
    return shellcode(["aquarat"], shell=arguments.shell)


def complete(parser: Callable[[str | None], argparse.ArgumentParser]) -> int:
    """Answers the shell, which passes the line in the environment. `parser` is called with the line's command."""
    try:
        from argcomplete.finders import CompletionFinder
    except ModuleNotFoundError:
        return 1
    words = os.environ.get("COMP_LINE", "").split()[1:]
    chosen = next((word for word in words if not word.startswith("-")), "")
    CompletionFinder()(parser(chosen))
    return 0


def complete_with(action: argparse.Action, completer: Completer) -> None:
    """Has argcomplete ask `completer` for the words that an argument may be."""

    def ask(**_: Any) -> list[str]:
        try:
            return list(completer())
        except UserError:
            return []  # the command itself says what is wrong

    action.completer = ask  # pyright: ignore[reportAttributeAccessIssue]  # where argcomplete looks for it


def complete_artifacts(action: argparse.Action) -> None:
    """Has an argument completed with the assets and names that the store has."""
    complete_with(action, _artifacts)


def complete_profiles(action: argparse.Action) -> None:
    """Has an argument completed with the built-in profiles, and files."""
    complete_with(action, _profiles)


def _artifacts() -> Iterable[str]:
    from aquarat_core.artifacts import ArtifactStore
    from aquarat_core.artifacts.names import listed
    from aquarat_core.settings import store_uri

    # A bucket would have to be asked over the network at each key.
    uri = store_uri()
    if not uri.startswith("file://"):
        return ()
    store = ArtifactStore.open(uri)
    return [*store.assets(), *listed(store)]


def _profiles() -> Iterable[str]:
    from argcomplete.completers import FilesCompleter

    from aquarat_core.config import profile_names

    files: Iterable[str] = FilesCompleter(["yaml", "yml"])("")
    return [*profile_names(), *files]
