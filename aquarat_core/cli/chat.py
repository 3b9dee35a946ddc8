"""`aquarat chat`: a conversation with a model in the terminal, or one message a line from standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aquarat_core.cli.artifacts import add_json, add_store
from aquarat_core.cli.commands import Commands
from aquarat_core.cli.completion import complete_artifacts
from aquarat_core.cli.output import dim, log
from aquarat_core.cli.table import cut
from aquarat_core.errors import UsageError
from aquarat_core.plain_text import one_line, printable

if TYPE_CHECKING:
    from aquarat_core.cli.conversing import Answer, Conversation
    from aquarat_core.text.reading import Call, Piece

HISTORY = "chat_history"
HISTORY_LINES = 1000


def add_commands(commands: Commands) -> None:
    """Adds `chat`."""
    command = commands.add_parser(
        "chat",
        description="Loads a model once and answers messages, which it remembers. Without a terminal, every line of "
        "standard input is a message, and standard output has only the answers.",
        epilog="Within a conversation, /help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.",
    )
    what = command.add_argument(
        "what", metavar="WHAT",
        help="an asset (EXPERIMENT/ASSET in a named experiment), a name, a manifest's hash or URI, hf://OWNER/NAME, or "
        "a folder with a checkpoint",
    )  # fmt: skip
    complete_artifacts(what)
    command.add_argument("--system", default="", metavar="TEXT", help="a system message before the conversation")
    command.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely tokens (0)")
    command.add_argument("--top-k", type=int, help="sample only from the k most likely tokens")
    command.add_argument("--top-p", type=float, help="sample from the most likely tokens that add up to this")
    command.add_argument("--max-new-tokens", type=int, help="tokens of an answer (at most a quarter of the context)")
    command.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    command.add_argument("--no-calculator", action="store_true", help="leave the model's calculator calls unanswered")
    add_store(command)
    add_json(command, "print each answer as a line of JSON")
    command.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> str:
    for name in ("max_new_tokens", "top_k"):
        if (given := getattr(arguments, name)) is not None and given < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    log(f"loading {arguments.what}")
    from aquarat_core import load
    from aquarat_core.cli.conversing import Conversation

    conversation = Conversation(
        load(arguments.what, store=arguments.store),
        temperature=_temperature(str(arguments.temperature)),
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        calculator=not arguments.no_calculator,
        system=arguments.system,
    )
    if sys.stdin.isatty():
        log(_described(conversation))
        _Terminal(conversation, arguments.json).run(_typed())
    else:
        _Pipe(conversation, arguments.json).run(_lines())
    return ""


def _described(conversation: Conversation) -> str:
    """The model in a line, and what its training questions were."""
    from aquarat_core.artifacts.names import shown
    from aquarat_core.tasks.origin import questions_of

    model = conversation.model
    artifact = model.artifact
    name = shown(artifact) if artifact else "a model from a folder"
    questions = questions_of(artifact) if artifact else None
    of = f", trained on {questions}" if questions else ""
    parameters = sum(p.numel() for p in model.transformer.parameters())
    return (
        f"{name}: {parameters:,} parameters, context of {model.config.sequence_len:,} tokens{of}\n"
        "/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves"
    )


# --- input ----------------------------------------------------------------------------------------------------------


def _lines() -> Iterator[str]:
    """The messages of standard input; a backslash at the end of a line joins it with the next."""
    kept: list[str] = []
    for line in sys.stdin:
        text = line.rstrip("\n")
        if text.endswith("\\"):
            kept.append(text[:-1])
            continue
        yield "\n".join([*kept, text])
        kept = []
    if kept:
        yield "\n".join(kept)


def _typed() -> Iterator[str]:
    """The messages that the user types, with the history of earlier conversations. Pasted lines are one message."""
    _read_history()
    kept: list[str] = []
    try:
        while True:
            try:
                text = input("... " if kept else "> ")
            except KeyboardInterrupt:
                kept = []
                log("\nCtrl-D leaves")
                continue
            except EOFError:
                log("")
                return
            if text.endswith("\\"):
                kept.append(text[:-1])
                continue
            yield "\n".join([*kept, text])
            kept = []
    finally:
        _write_history()


def _history() -> Path:
    from aquarat_core.settings import cache_dir

    return cache_dir() / HISTORY


def _read_history() -> None:
    import readline

    readline.parse_and_bind("set enable-bracketed-paste on")
    with suppress(OSError):  # there is none yet
        readline.read_history_file(_history())


def _write_history() -> None:
    import readline

    path = _history()
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):  # the next conversation then lacks this one's lines
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.write_history_file(path)


# --- the conversation -----------------------------------------------------------------------------------------------


class _Leave(Exception):
    """The user has typed /quit."""


class _Pipe:
    """Answers messages and executes commands, with only the answers on standard output. A mistake ends it."""

    def __init__(self, conversation: Conversation, json: bool) -> None:
        self.conversation, self._json = conversation, json
        self._dropped = 0
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/new": (self._new, "forget the conversation and begin another"),
            "/system": (self._system, "TEXT: begin anew with this system message, or with none"),
            "/temperature": (self._set_temperature, "NUMBER: 0 takes the most likely tokens"),
            "/retry": (self._retry, "answer the last message again, with another seed"),
            "/undo": (self._undo, "take back the last message and its answer"),
            "/save": (self._save, "FILE: write the conversation as one line of JSON"),
            "/help": (self._help, "list these commands"),
            "/quit": (self._quit, "leave"),
        }

    def run(self, messages: Iterator[str]) -> None:
        """Until there are no more messages, or /quit."""
        with suppress(_Leave):
            for text in messages:
                if text.strip():
                    self.take(text)

    def take(self, text: str) -> None:
        """Executes a command or answers a message."""
        name, _, rest = text.strip().partition(" ")
        if not name.startswith("/") or "\n" in name:
            self._answer(text)
        elif name in self._commands:
            self._commands[name][0](rest.strip())
        else:
            from aquarat_core.config.validation import did_you_mean

            raise UsageError(f"there is no command {name}; {did_you_mean(name, self._commands)}/help lists them")

    def _answer(self, text: str) -> None:
        pieces = self.conversation.ask(text)
        if (dropped := self.conversation.dropped) > self._dropped:
            self._note(f"dropped what no longer fits the model's context: the oldest {dropped} of the exchanges so far")
        self._dropped = dropped
        answer = self._received(pieces)
        self.conversation.keep(answer)
        if not answer.text:
            self._note("an empty answer: the message is forgotten")
        if self._json:
            calls = [{"expression": call.expression, "result": call.result} for call in answer.calls]
            facts = {"text": answer.text, "letter": answer.letter, "calls": calls, "stopped": answer.stopped}
            facts["cut_off"] = answer.cut_off
            print(json.dumps(facts), flush=True)
        else:
            self._end(answer)

    def _received(self, pieces: Iterator[Piece]) -> Answer:
        """Shows an answer while it comes."""
        from aquarat_core.cli.conversing import Answer

        text, calls, ended, stopped = "", list["Call"](), None, False
        try:
            for piece in pieces:
                text += piece.text
                ended = piece.ended
                calls += piece.calls
                if not self._json:
                    self._show(piece)
        except KeyboardInterrupt:
            if not self._survives_ctrl_c:
                raise
            stopped = True
        return Answer(text, tuple(calls), stopped, cut_off=ended is False)

    _survives_ctrl_c = False

    def _show(self, piece: Piece) -> None:
        sys.stdout.write(printable(piece.text))
        sys.stdout.flush()

    def _end(self, answer: Answer) -> None:
        print(flush=True)

    def _note(self, text: str) -> None:
        log(dim(f"[{text}]", sys.stderr))

    # --- commands ---

    def _new(self, _: str) -> None:
        self.conversation.clear()
        self._dropped = 0
        self._note("a new conversation")

    def _system(self, text: str) -> None:
        self.conversation.system = text
        self._new("")

    def _set_temperature(self, text: str) -> None:
        self.conversation.temperature = _temperature(text)
        self._note(f"temperature {self.conversation.temperature:g}")

    def _retry(self, _: str) -> None:
        text = self.conversation.undo()
        self.conversation.seed += 1
        if not self.conversation.temperature:
            self._note("at temperature 0 the answer is always the same: /temperature 0.7 samples others")
        self._answer(text)

    def _undo(self, _: str) -> None:
        self._note(f"taken back: {cut(one_line(self.conversation.undo()), 60)}")

    def _save(self, text: str) -> None:
        if not text:
            raise UsageError("/save needs the name of a file")
        self.conversation.save(Path(text))
        self._note(f"saved as {text}")

    def _help(self, _: str) -> None:
        for name, (_run, what) in self._commands.items():
            log(f"{name:<13}{what}")
        log("A \\ at the end of a line continues the message on the next one.\nPasted lines are one message.")

    def _quit(self, _: str) -> None:
        raise _Leave


class _Terminal(_Pipe):
    """The same for a person: mistakes are sentences, Ctrl-C stops an answer, and calls and letters are shown."""

    _survives_ctrl_c = True

    def take(self, text: str) -> None:
        try:
            super().take(text)
        except UsageError as e:
            self._note(printable(str(e)))
        except KeyboardInterrupt:  # before the first token
            self.conversation.forget_question()
            self._note("stopped")

    def _show(self, piece: Piece) -> None:
        for call in piece.calls:
            sys.stdout.write(dim(printable(f"[{call.expression} = {call.result or '?'}]"), sys.stdout))
        super()._show(piece)

    def _end(self, answer: Answer) -> None:
        super()._end(answer)
        if answer.stopped:
            self._note("stopped")
        elif answer.cut_off:
            self._note(f"cut off at {self.conversation.limit} tokens: --max-new-tokens allows more")
        elif answer.letter:
            self._note(f"answer {answer.letter}")


def _temperature(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise UsageError(f"a temperature is a number from 0 up, not {text!r}")
    return found
