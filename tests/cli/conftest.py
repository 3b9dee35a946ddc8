"""A terminal for commands, and checkpoints to talk with."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore, CodeVersion
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.text.tokenizer import Tokenizer
from tests.patience import limit


class Terminal:
    """A command in a terminal of 80 columns: what it shows, and a keyboard."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "aquarat_core.cli", *arguments]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1", **env}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        """Types it and presses Enter."""
        self.press(f"{text}\n")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def press_until(self, keys: str, text: str) -> None:
        """Presses the keys, as often as a person would, until the command has shown `text`.

        Python shows a prompt a moment before it reads keys, and what is pressed in between waits for the next key.
        """
        self._read_while(lambda: text not in self.shown, keys)
        self.until(text)

    def until(self, text: str) -> str:
        """Waits until the command has shown `text`, and returns all since the last time."""
        self._read_while(lambda: text not in self.shown)
        assert text in self.shown, f"ended without {text!r}: {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def until_anything(self) -> None:
        """Waits until the command shows more than how it sets up the terminal."""
        self._read_while(lambda: not re.sub(r"\x1b\[[?0-9;]*[a-z]", "", self.shown).strip())

    def end(self, keys: str = "") -> int:
        """Waits until the command has ended, and presses the keys until then; its exit code."""
        self._read_while(lambda: self.process.poll() is None, keys)
        return self.process.wait()

    def _read_while(self, going: Callable[[], bool], keys: str = "") -> None:
        """Reads what is shown, until the command has closed the terminal; presses the keys every few seconds."""
        started = pressed = time.monotonic()
        if keys:
            self.press(keys)
        while going():
            now = time.monotonic()
            assert now - started < limit(60), self.shown
            if keys and now - pressed > limit(2):
                self.press(keys)
                pressed = now
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:
                    return

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    """Makes standard input the terminal whose Ctrl-C reaches the command."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(store_uri: str) -> Iterator[Callable[..., Terminal]]:
    """Starts commands in terminals; those that still run at the end are killed."""
    made: list[Terminal] = []

    def start(*arguments: str, **env: str) -> Terminal:
        made.append(Terminal(*arguments, **env))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def checkpoint(store_uri: str, tmp_path: Path) -> Callable[..., Artifact]:
    """Publishes a model with its tokenizer as an artifact."""

    def publish(asset: str, model: Transformer, tokenizer: Tokenizer, **fields: Any) -> Artifact:
        made = tmp_path / asset
        (made / "out").mkdir(parents=True)
        tokenizer.save(made / "tokenizer.json")
        save_checkpoint(made / "out", model, made / "tokenizer.json")
        return ArtifactStore.open(store_uri).publish(
            asset=asset, directory=made / "out", **({
                "kind": "checkpoint", "config": {}, "profile": "demo", "run_id": "r", "parents": [], "metrics": {},
                "seeds": {}, "code": CodeVersion(version="1" * 64, commit=None, dirty=False),
            } | fields),
        )  # fmt: skip

    return publish
