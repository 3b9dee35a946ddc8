"""Checkpoints from Python: load one, generate, chat, and see how likely it finds a text.

    import aquarat_core as aq

    model = aq.load("rl_checkpoint")
    model.chat("What is 12 * 7?")
    model.generate("12 * 7 =", samples=4, temperature=1.0)
    model.logprobs("12 * 7 =", " 84").total

Needs no Dagster, and runs on a CPU or a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aquarat_core import arguments
from aquarat_core.artifacts import Artifact, ArtifactError
from aquarat_core.artifacts.finding import find_artifact
from aquarat_core.config import LaunchConfig, ModelConfig
from aquarat_core.errors import UsageError, WeightsError
from aquarat_core.exchange.hub import SCHEME
from aquarat_core.exchange.json_files import json_object
from aquarat_core.model.checkpoint import load_checkpoint
from aquarat_core.model.transformer import Transformer
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.engine import Engine
from aquarat_core.rollout.random import row_key
from aquarat_core.rollout.stops import StopTexts
from aquarat_core.rollout.tools import calculator as calculator_of
from aquarat_core.runtime.distributed import compute_dtype
from aquarat_core.settings import store_uri
from aquarat_core.text.chat import reading_text, render_prompt, stop_tokens
from aquarat_core.text.tokenizer import Tokenizer

CHECKPOINT, RELEASE = "checkpoint", "release"
"""Kinds of artifacts that hold a model."""
MAX_ROWS = 256
"""Completions that are generated at a time."""
MAX_CHAT_TOKENS = 512
"""Maximum number of tokens of an answer, if neither its caller nor the model's folder names another."""
GENERATION = "generation_config.json"
"""Hugging Face's file of defaults for generating, in releases and other folders."""
DTYPES = ("float32", "bfloat16")


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
        self._engine = Engine(transformer, stop_tokens(tokenizer))

    @property
    def transformer(self) -> Transformer:
        """The network: ids [B, T] in, float32 logits [B, T, V] out."""
        return self._engine.model

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
        said = arguments.conversation(messages)
        limit = self.max_chat_tokens if max_new_tokens is None else max_new_tokens
        how = arguments.how(limit, temperature, top_k, top_p, seed, stop, 1, calculator, special_tokens)
        try:
            ids = render_prompt(self.tokenizer, said)
        except ValueError as e:
            raise UsageError(f"this is not a conversation to answer: {e}") from None
        if max_new_tokens is None:
            room = self.config.sequence_len - len(ids)
            if room < 1:
                raise UsageError(
                    f"a conversation of {len(ids)} tokens leaves no room for an answer in the model's context of "
                    f"{self.config.sequence_len}: shorten it"
                )
            how = replace(how, max_new_tokens=min(limit, room))
        (found,) = self._generate([said[-1]["content"]], [ids], how)
        return found.text

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

    def _generate(self, prompts: Sequence[str], ids: Sequence[Sequence[int]], how: arguments.How) -> list[Generation]:
        decode = None if how.special_tokens else partial(reading_text, self.tokenizer)
        stops = StopTexts(self.tokenizer, how.stop, decode)
        keys = [[row_key("generate", how.seed, prompt, n) for n in range(how.samples)] for prompt in prompts]
        found = self._engine.generate(
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


def load(
    what: str | Path,
    *,
    store: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Model:
    """A checkpoint, ready to generate.

    `what` is one of

    - an asset (`rl_checkpoint`, `EXPERIMENT/ASSET` in a named experiment) or the beginning of a manifest hash, in the
      artifact store `store` (default: that of `AQUARAT_STORE`), also with `aquarat://` before it;
    - the URI of a manifest in any store, as `aquarat show` prints it;
    - `hf://owner/name` or `hf://owner/name@revision`, a repository of the Hugging Face Hub;
    - a folder: a checkpoint of aquarat, a release, or one of the forms of nanochat. Write `./NAME` where the store may
      have an asset of that name, or give a `Path`.

    `device` is `cpu` or `cuda`, by default the GPU if torch sees one. `dtype` is `float32` or `bfloat16`, by default
    bfloat16 where the hardware computes in it natively. `chat` answers with up to as many tokens as the folder's
    `generation_config.json` says, if it has one. Raises a `UserError`, such as `ArtifactError` for what is not
    in the store and `WeightsError` for what is no model.
    """
    named = _named(what)
    if store is not None:
        store = arguments.text("store", store)
    where = _device(device)
    kind = _dtype(dtype) or compute_dtype(LaunchConfig(), where)
    folder = named if isinstance(named, Path) else _folder(named)
    if folder is not None:
        _is_folder(folder)  # a path that the system cannot even look up
        return _opened(folder, where, kind)
    name = str(named)
    try:
        artifact = find_artifact(name, store or store_uri())
    except ArtifactError:
        # A folder may be called like an asset that does not exist, but not like anything in the store.
        if "://" not in name and _is_folder(Path(name)):
            return _opened(Path(name), where, kind)
        raise
    if artifact.manifest.kind == RELEASE:
        return _opened(artifact.directory(), where, kind, artifact)
    if artifact.manifest.kind != CHECKPOINT:
        raise UsageError(f"{artifact.asset} is a {artifact.manifest.kind}: only checkpoints and releases have a model")
    transformer, tokenizer = load_checkpoint(artifact.directory(), where, kind)
    return Model(transformer, tokenizer, artifact)


def _named(what: object) -> str | Path:
    """Raises `UsageError` for what can be no name, address or folder."""
    if isinstance(what, Path):
        return what
    if not isinstance(what, str):
        raise UsageError(
            f"the name to load is {arguments.kind(what)}, but must be that of an asset, an address, or a folder "
            "(str or Path)"
        )
    name = arguments.text("the name to load", what)
    if not name.strip():
        raise UsageError("the name to load is empty: give an asset, an address, or a folder ('.' for this one)")
    return name


def _folder(name: str) -> Path | None:
    """The folder that is certainly meant by this; None for a name or address in a store."""
    if name.startswith(SCHEME):
        from aquarat_core.exchange.hub import download

        return download(name)
    try:
        return Path(name).expanduser() if re.match(r"[./~]", name) else None
    except RuntimeError:
        raise UsageError(f"{_short(name)}: there is no such user, or no home folder is known") from None


def _is_folder(path: Path) -> bool:
    """Like `Path.is_dir`. Raises `UsageError` for a path that the system refuses to look up."""
    try:
        return path.is_dir()
    except OSError as e:
        raise UsageError(f"{_short(str(path))} cannot be opened: {e.strerror}") from None
    except ValueError:
        raise UsageError(f"{_short(str(path))!r} is no path: it contains a NUL character") from None


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}..."


def _opened(folder: Path, device: torch.device, dtype: torch.dtype, artifact: Artifact | None = None) -> Model:
    from aquarat_core.exchange.opening import open_folder

    opened = open_folder(folder)
    limit = _chat_tokens(folder / GENERATION)
    opened.model.compute_dtype = dtype
    return Model(opened.model.to(device), opened.tokenizer, artifact, opened.origin, limit)


def _chat_tokens(path: Path) -> int:
    """The `max_new_tokens` of a `generation_config.json`, or the default if there is none.

    Raises `WeightsError` for a file that is damaged.
    """
    if not path.is_file():
        return MAX_CHAT_TOKENS
    limit: object = json_object(path).get("max_new_tokens")
    if limit is None:
        return MAX_CHAT_TOKENS
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise WeightsError(f"max_new_tokens in {path} must be a whole number of at least 1")
    return limit


def _device(named: str | torch.device | None) -> torch.device:
    if named is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise UsageError(f"{named!r} is no device: use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"{device} is not supported: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"torch sees no GPU {device} here: use device='cpu'")
    return device


def _dtype(named: str | torch.dtype | None) -> torch.dtype | None:
    if named is None:
        return None
    name = str(named).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(f"{name} is no type to compute in: use {' or '.join(DTYPES)}")
    return getattr(torch, name)
