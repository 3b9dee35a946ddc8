"""Checkpoints from Python: generate, chat, and see how likely one finds a text.

    import aquarat_core as aq

    model = aq.load("rl_checkpoint")
    model.chat("What is 12 * 7?")
    model.generate("12 * 7 =", samples=4, temperature=1.0)
    model.logprobs("12 * 7 =", " 84").total

Needs no Dagster, and runs on a CPU or a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from aquarat_core import arguments
from aquarat_core.artifacts import Artifact
from aquarat_core.config import ModelConfig
from aquarat_core.errors import UsageError
from aquarat_core.model.transformer import Transformer
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.stops import StopTexts
from aquarat_core.rollout.tools import calculator as calculator_of
from aquarat_core.text.chat import reading_text, render_prompt, stop_tokens
from aquarat_core.text.reading import Piece, Reader
from aquarat_core.text.tokenizer import Tokenizer

MAX_ROWS = 256
"""Completions that are generated at a time."""
MAX_CHAT_TOKENS = 512
"""Maximum number of tokens of an answer, if neither its caller nor the model's folder names another."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of a prompt."""

    prompt: str
    text: str
    """What was generated, without the stop token or stop text that ended it. It has the names of
    special tokens, calls of the calculator and their output only if they were asked for."""
    tokens: tuple[int, ...]
    """Ids of the generated tokens, including the stop token or those of the stop text."""
    logprobs: tuple[float, ...]
    """Log-probability of each of `tokens` in nats, under the distribution that it was drawn from (with temperature,
    top-k and top-p); of the most likely tokens (temperature 0) under the model's own. 0 for tokens of the
    calculator."""
    ended: bool
    """Whether it ended at a stop token or stop text, rather than at the limit of tokens."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely the model finds each token of a text after everything before it."""

    tokens: tuple[int, ...]
    """Token ids."""
    logprobs: tuple[float, ...]
    """Log-probability of each token in nats, under the model's distribution at temperature 1."""

    @property
    def total(self) -> float:
        """Log-probability of the whole text in nats."""
        return sum(self.logprobs)


class Model:
    """A checkpoint in memory, with its tokenizer. `load` makes one.

    Its matrices have the compute type; the weights that they were loaded from are not kept.
    """

    def __init__(
        self,
        transformer: Transformer,
        tokenizer: Tokenizer,
        artifact: Artifact | None = None,
        origin: Mapping[str, Any] | None = None,
        max_chat_tokens: int = MAX_CHAT_TOKENS,
    ) -> None:
        self.tokenizer = tokenizer
        self.artifact = artifact
        """The artifact that it was loaded from, with its `manifest`, `sha256` and `uri`; None for a folder."""
        self.origin = dict(origin or {})
        """Facts about the folder that it was loaded from, such as its form and hashes of its weights' files."""
        self.max_chat_tokens = max_chat_tokens
        """Maximum number of tokens of an answer of `chat` whose caller names no other: that of the folder's
        `generation_config.json`, else 512."""
        self.engine = Engine(transformer, stop_tokens(tokenizer))

    @property
    def transformer(self) -> Transformer:
        """The network: ids [B, T] in, float32 logits [B, T, V] out."""
        return self.engine.model

    @property
    def config(self) -> ModelConfig:
        """Sizes and options of the network, such as `depth` and `sequence_len`."""
        return self.transformer.config

    @property
    def device(self) -> torch.device:
        return self.transformer.cos.device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which it computes."""
        return self.transformer.compute_dtype

    def __repr__(self) -> str:
        name = f"{self.artifact.asset} {self.artifact.sha256[:12]}" if self.artifact else "from a folder"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<Model {name}: depth {self.config.depth}, width {self.config.dim}, {dtype} on {self.device}>"

    def generate(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        samples: int = 1,
        calculator: bool = False,
        special_tokens: bool = False,
    ) -> list[Generation]:
        """Continuations of texts: `samples` of the first prompt, then of the second, and so on.

        Temperature 0 takes the most likely tokens. A generation ends at `<|assistant_end|>` or `<|bos|>`, at the first
        of the texts `stop`, or after `max_new_tokens`. A sample depends on its prompt, its number and `seed`, not on
        other prompts. With `calculator`, calls of the calculator are computed. Special tokens, calls and their output
        are left out of the text, in which `stop` is looked for too; with `special_tokens`, they are in it with their
        names. Raises `UsageError` for arguments of another type or out of range, and for a prompt that leaves no room
        for `max_new_tokens` in the model's context.
        """
        prompts = arguments.texts("prompt", prompt)
        how = arguments.how(max_new_tokens, temperature, top_k, top_p, seed, stop, samples, calculator, special_tokens)
        bos = self.tokenizer.special("<|bos|>")
        return self._generate(prompts, [[bos, *self.tokenizer.encode(text)] for text in prompts], how)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        calculator: bool = False,
        special_tokens: bool = False,
    ) -> str:
        """The model's answer to a message, or to a conversation of `{"role": ..., "content": ...}`.

        Roles are `user` and `assistant` in turn, after at most one `system` message; the last is the user's. Without
        `max_new_tokens`, an answer has up to `max_chat_tokens`, as far as the model's context has room for them. The
        other arguments are those of `generate`, and so are the errors; a conversation in another form is a `UsageError`
        too.
        """
        limit = self.max_chat_tokens if max_new_tokens is None else max_new_tokens
        how = arguments.how(limit, temperature, top_k, top_p, seed, stop, 1, calculator, special_tokens)
        prompt, ids, how = self._asked(messages, how, max_new_tokens is None)
        (found,) = self._generate([prompt], [ids], how)
        return found.text

    def stream(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        calculator: bool = False,
        special_tokens: bool = False,
    ) -> Iterator[Piece]:
        """The answer of `chat` to the same arguments, piece by piece while it is generated.

        A piece has new text, which may be empty, and the calls of the calculator that are complete by then; the last
        piece says whether the answer came to an end. The model must not be used for anything else meanwhile. Raises the
        errors of `chat`, before the first piece.
        """
        limit = self.max_chat_tokens if max_new_tokens is None else max_new_tokens
        how = arguments.how(limit, temperature, top_k, top_p, seed, stop, 1, calculator, special_tokens)
        prompt, ids, how = self._asked(messages, how, max_new_tokens is None)
        reader = Reader(self.tokenizer, how.stop, how.special_tokens)
        drawn = self.engine.stream(
            ids, row_key("generate", how.seed, prompt, 0), how.max_new_tokens,
            Sampling(how.temperature, how.top_k, how.top_p), calculator_of(self.tokenizer) if how.calculator else None,
        )  # fmt: skip
        return _pieces(reader, (one.token for one in drawn), self.engine.stop_tokens)

    @torch.no_grad()
    def logprobs(self, text: str, continuation: str | None = None) -> Logprobs:
        """How likely the tokens of a text are, after `<|bos|>` and the tokens before them.

        With a `continuation`, only its tokens are scored, after those of `text`. The two are encoded one by one, so the
        continuation's tokens are its own whatever it continues. Raises `UsageError` if nothing is to be scored, for
        what is no text, and for a text that is longer than the model's context.
        """
        given = [self.tokenizer.special("<|bos|>")]
        scored = self.tokenizer.encode(arguments.text("the text", text))
        if continuation is not None:
            given = [*given, *scored]
            scored = self.tokenizer.encode(arguments.text("the continuation", continuation))
        if not scored:
            raise UsageError("there is no token to score: the text is empty")
        ids, room = [*given, *scored], self.config.sequence_len
        # The last token is only predicted.
        if len(ids) - 1 > room:
            raise UsageError(f"{len(ids)} tokens do not fit into the model's context of {room}: shorten the text")
        row = torch.tensor([ids], device=self.device)
        losses = self.transformer.token_losses(row[:, :-1], row[:, 1:])[0, -len(scored) :]
        return Logprobs(tuple(scored), tuple(to_list(-losses.float())))

    def _asked(self, messages: object, how: arguments.How, as_room: bool) -> tuple[str, list[int], arguments.How]:
        """The last message, the conversation's ids, and how to answer: `as_room` allows, if the limit may shrink."""
        said = arguments.conversation(messages)
        try:
            ids = render_prompt(self.tokenizer, said)
        except ValueError as e:
            raise UsageError(f"this is not a conversation to answer: {e}") from None
        if as_room:
            room = self.config.sequence_len - len(ids)
            if room < 1:
                raise UsageError(
                    f"a conversation of {len(ids)} tokens leaves no room for an answer in the model's context of "
                    f"{self.config.sequence_len}: shorten it"
                )
            how = replace(how, max_new_tokens=min(how.max_new_tokens, room))
        return said[-1]["content"], ids, how

    def _generate(self, prompts: Sequence[str], ids: Sequence[Sequence[int]], how: arguments.How) -> list[Generation]:
        decode = None if how.special_tokens else partial(reading_text, self.tokenizer)
        stops = StopTexts(self.tokenizer, how.stop, decode)
        keys = [[row_key("generate", how.seed, prompt, n) for n in range(how.samples)] for prompt in prompts]
        found = self.engine.generate(
            ids, keys, how.max_new_tokens, how.temperature, MAX_ROWS, how.top_k, how.top_p,
            calculator_of(self.tokenizer) if how.calculator else None, enough=stops.enough,
        )  # fmt: skip
        made: list[Generation] = []
        for prompt, completions in zip(prompts, found, strict=True):
            for one in completions:
                said = stops.cut(one)
                tokens, logprobs = one.tokens[: said.n_tokens], one.logprobs[: said.n_tokens]
                made.append(Generation(prompt, said.text, tuple(tokens), tuple(logprobs), said.ended))
        return made


def _pieces(reader: Reader, tokens: Iterable[int], stop_tokens: Sequence[int]) -> Iterator[Piece]:
    ended = False
    for token in tokens:
        if token in stop_tokens:
            ended = True
            break
        n_calls = len(reader.calls)
        yield Piece(reader.push([token]), tuple(reader.calls[n_calls:]))
        if reader.stopped:
            break
    rest = reader.finish()
    yield Piece(rest, ended=ended or reader.stopped)
