"""How likely a model finds given continuations of a context, in large batches.

A context is computed once: its keys and values are kept, and all its continuations are read as rows that attend to
them. A context with one continuation is read together with it in a single pass. Requests of about the same length share
a pass, and only the positions whose predictions are asked for go through the head.

A request longer than the model's `sequence_len` is never refused but, by the scorer's policy,

- extended: the rotary table is computed for the longest request, and layers that see the whole context go on seeing all
  of it. Positions beyond `sequence_len` are extrapolated: the model never saw them in training;
- cropped: only the last `sequence_len` tokens of the context with its continuation are read, so the context loses its
  beginning, BOS included.

Logits are soft-capped and normalized in float32, as in training.

Shapes: P contexts, G continuations of each, R = P x G rows, T tokens of a context, M of a continuation, H query heads,
C width, V vocabulary, N scored positions, X targets of one position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.model.kv_cache import CacheView
from aquarat_core.model.prefixes import Causal, Continuations
from aquarat_core.model.transformer import Transformer, rotary_table
from aquarat_core.model.typed_torch import to_list

X = TypeVar("X")
_Token = tuple[float, bool, float]
"""Of one token in its place: log-probability, whether it is the most likely one, and the lead of its logit."""
TooLong = Literal["extend", "crop"]

MAX_ATTENTION_VALUES = 1 << 26
"""Attention scores that one layer may have in memory for a pass over continuations: 256 MiB in float32."""
MAX_LOGITS = 1 << 24
"""Logits in memory at once: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Choices:
    """A context and the continuations whose likelihood after it is asked."""

    context: Sequence[int]
    """Token ids, BOS included; at least one."""
    continuations: Sequence[Sequence[int]]
    """Token ids of each, at least one."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a continuation is after its context."""

    logprob: float
    """Sum over the continuation's tokens, in nats. Minus infinity if the continuation was not scored because it does
    not fit into the model's context together with one token before it."""
    n_tokens: int
    is_greedy: bool
    """Whether each token is the most likely one."""
    margin: float
    """The smallest lead of a token's logit over the largest of the other tokens' logits; negative if any is not the
    most likely one. Close to zero, rounding decides `is_greedy`."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.logprob / self.n_tokens

    @property
    def is_scored(self) -> bool:
        return self.logprob > -math.inf


class Scorer:
    """Likelihoods of continuations under `model`, on its device.

    `too_long` is the policy for requests longer than `sequence_len`; None extends models whose layers all see the whole
    context and crops for models with shorter windows, whose layers would not see what they saw in training.
    `tokens_per_pass` bounds the padded tokens of a forward pass; a longer request has a pass of its own.
    """

    def __init__(self, model: Transformer, too_long: TooLong | None = None, tokens_per_pass: int = 8192) -> None:
        self.model, self.tokens_per_pass = model, tokens_per_pass
        self.sequence_len, self.device = model.config.sequence_len, model.cos.device
        windowed = any(block.attention.window < self.sequence_len for block in model.blocks)
        self.too_long: TooLong = too_long or ("crop" if windowed else "extend")
        self.extended = 0
        """Requests so far that were longer than `sequence_len` and read in full."""
        self.cropped = 0
        """Requests so far whose context lost its beginning."""
        self.unscorable = 0
        """Requests so far with a continuation that does not fit even without its context."""

    @torch.no_grad()
    def score(self, requests: Sequence[Choices], tell: Callable[[int], None] | None = None) -> list[list[Likelihood]]:
        """The likelihood of each continuation of each request, in the order given.

        Equal continuations of a request have equal likelihoods, to the last bit. `tell` is called with the number of
        requests done so far. Raises ValueError for an empty context or continuation.
        """
        found: list[list[Likelihood | None]] = [[None] * len(r.continuations) for r in requests]
        rows, prefixes = self._plan(requests, found)
        left = [row.count(None) for row in found]
        # Rows are padded to the longest continuation of their pass, whatever their contexts' lengths.
        padding = max((p.width for p in prefixes), default=0)
        lengths = [len(r.ids) - 1 for r in rows] + [len(p.context) + padding for p in prefixes]
        with _rotary_up_to(self.model, max(lengths, default=0)):
            for scored in self._passes(rows, prefixes):
                for request, places, likelihood in scored:
                    left[request] -= len(places)
                    for place in places:
                        found[request][place] = likelihood
                if tell is not None:
                    tell(left.count(0))
        return [[x for x in row if x is not None] for row in found]

    @torch.no_grad()
    def next_token(self, contexts: Sequence[Sequence[int]], ids: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities [B, V] of the token after each context; with `ids`, only those of these tokens [B, I].

        Either way they are normalized over the whole vocabulary. Raises ValueError for an empty context.
        """
        cut = [self._fit(context) for context in contexts]
        order = sorted(range(len(cut)), key=lambda i: len(cut[i]))
        width = self.model.vocab_size if ids is None else len(ids)
        out = torch.empty((len(cut), width), dtype=torch.float32, device=self.device)
        with _rotary_up_to(self.model, max(map(len, cut), default=0)):
            for batch in _batches(order, lambda i: len(cut[i]), self.tokens_per_pass):
                part = [cut[i] for i in batch]
                hidden = self._hidden(part, self._causal(part))
                last = hidden[torch.arange(len(part)), torch.tensor([len(c) - 1 for c in part])]
                for start in range(0, len(part), self._logit_rows):
                    logp = torch.log_softmax(self.model.logits(last[start : start + self._logit_rows]), dim=-1)
                    out[batch[start : start + self._logit_rows]] = logp if ids is None else logp[:, list(ids)]
        return out

    # --- which passes there are -------------------------------------------------------------------------------------

    def _plan(
        self, requests: Sequence[Choices], found: list[list[Likelihood | None]]
    ) -> tuple[list[_Row], list[_Prefix]]:
        """The rows and shared prefixes that answer `requests`; what cannot be scored is written to `found`."""
        rows: list[_Row] = []
        prefixes: list[_Prefix] = []
        for i, request in enumerate(requests):
            distinct = _distinct(request)
            context, S = list(request.context), self.sequence_len
            longest = len(context) + max(map(len, distinct), default=0)
            if longest > S and self.too_long == "crop":
                self.cropped += 1
                fitting = {c: places for c, places in distinct.items() if len(c) < S}
                self.unscorable += len(fitting) < len(distinct)
                for continuation, places in distinct.items():
                    for place in places if len(continuation) >= S else ():
                        found[i][place] = Likelihood(-math.inf, len(continuation), False, -math.inf)
                rows += [_Row(i, tuple(p), (context + list(c))[-S:], len(c)) for c, p in fitting.items()]
                continue
            self.extended += longest > S
            prefix = _Prefix(i, [tuple(p) for p in distinct.values()], context, [list(c) for c in distinct])
            if len(distinct) > 1 and self._attention_values(1, prefix.size) <= MAX_ATTENTION_VALUES:
                prefixes.append(prefix)
            else:
                rows += [_Row(i, tuple(p), context + list(c), len(c)) for c, p in distinct.items()]
        return rows, prefixes

    def _fit(self, context: Sequence[int]) -> Sequence[int]:
        if not context:
            raise ValueError("a context without tokens has no next token: start it with BOS")
        if len(context) <= self.sequence_len:
            return context
        if self.too_long == "extend":
            self.extended += 1
            return context
        self.cropped += 1
        return context[-self.sequence_len :]

    def _passes(
        self, rows: Sequence[_Row], prefixes: Sequence[_Prefix]
    ) -> Iterator[list[tuple[int, tuple[int, ...], Likelihood]]]:
        """Request, places and likelihood of what each pass has scored."""
        in_order = sorted(rows, key=lambda r: len(r.ids))
        for batch in _batches(in_order, lambda r: len(r.ids) - 1, self.tokens_per_pass):
            scored = zip(batch, self._score_rows(batch), strict=True)
            yield [(row.request, row.places, likelihood) for row, likelihood in scored]
        for group in self._prefix_batches(prefixes):
            scored = zip(group, self._score_prefixes(group), strict=True)
            yield [(p.request, places, x) for p, found in scored for places, x in zip(p.places, found, strict=True)]

    def _prefix_batches(self, prefixes: Sequence[_Prefix]) -> Iterator[list[_Prefix]]:
        """Prefixes of about the same length, so many that neither of their two passes is too large."""
        group: list[_Prefix] = []
        size = (0, 0, 0)
        for prefix in sorted(prefixes, key=lambda p: p.size):
            larger = max(size[0], prefix.size[0]), max(size[1], prefix.size[1]), max(size[2], prefix.size[2])
            if group and not self._fits(len(group) + 1, larger):
                yield group
                group, larger = [], prefix.size
            group.append(prefix)
            size = larger
        if group:
            yield group

    def _fits(self, P: int, size: tuple[int, int, int]) -> bool:
        T, M, G = size
        return P * max(T, G * M) <= self.tokens_per_pass and self._attention_values(P, size) <= MAX_ATTENTION_VALUES

    def _attention_values(self, P: int, size: tuple[int, int, int]) -> int:
        T, M, G = size
        return P * self.model.config.n_head * G * M * (T + M)

    # --- the passes -------------------------------------------------------------------------------------------------

    def _causal(self, rows: Sequence[object], keep: bool = False) -> Causal:
        return Causal(len(rows), self.sequence_len, self.device, keep)

    def _hidden(self, ids: Sequence[Sequence[int]], view: CacheView) -> Tensor:
        return self.model.hidden(pad(ids).to(self.device), view)

    def _score_rows(self, rows: Sequence[_Row]) -> list[Likelihood]:
        hidden_BTC = self._hidden([row.ids[:-1] for row in rows], self._causal(rows))
        ends = [len(row.ids) - 1 for row in rows]
        at = [(b, t) for b, row in enumerate(rows) for t in range(ends[b] - row.n_scored, ends[b])]
        targets = [[id] for row in rows for id in row.ids[-row.n_scored :]]
        tokens = iter(token for (token,) in self._judge(_pick(hidden_BTC, at), targets))
        return [_total([next(tokens) for _ in range(row.n_scored)]) for row in rows]

    def _score_prefixes(self, group: Sequence[_Prefix]) -> list[list[Likelihood]]:
        """The first tokens of all continuations from the last position of their context, the others from their rows."""
        contexts, G = [p.context for p in group], max(len(p.continuations) for p in group)
        prefill = self._causal(group, keep=True)
        hidden_PTC = self._hidden(contexts, prefill)
        last_PC = _pick(hidden_PTC, [(i, len(context) - 1) for i, context in enumerate(contexts)])
        del hidden_PTC
        firsts = [[c[0] for c in p.continuations] for p in group]
        first_tokens = self._judge(last_PC, [first + [0] * (G - len(first)) for first in firsts])
        scores = [[token] for tokens in first_tokens for token in tokens]

        rows = [c for p in group for c in [*p.continuations, *[[0]] * (G - len(p.continuations))]]
        if max(map(len, rows)) > 1:
            view = Continuations(prefill, contexts, G)
            hidden_RMC = self._hidden([row[:-1] for row in rows], view)
            at = [(r, m) for r, row in enumerate(rows) for m in range(len(row) - 1)]
            others = self._judge(_pick(hidden_RMC, at), [[id] for row in rows for id in row[1:]])
            for (r, _), (token,) in zip(at, others, strict=True):
                scores[r].append(token)
        return [[_total(scores[i * G + j]) for j in range(len(p.continuations))] for i, p in enumerate(group)]

    @property
    def _logit_rows(self) -> int:
        return max(1, MAX_LOGITS // self.model.vocab_size)

    def _judge(self, hidden_NC: Tensor, targets: Sequence[Sequence[int]]) -> list[list[_Token]]:
        """The targets of each position [N, X] as the model sees them there."""
        targets_NX = torch.tensor(targets, device=hidden_NC.device)
        found: list[list[_Token]] = []
        for start in range(0, len(hidden_NC), self._logit_rows):
            part = slice(start, start + self._logit_rows)
            logits_NV, at_NX = self.model.logits(hidden_NC[part]), targets_NX[part]
            of_targets_NX = logits_NV.gather(1, at_NX)
            logp_NX = of_targets_NX - logits_NV.logsumexp(dim=1, keepdim=True)
            top_N1, top_id_N1 = logits_NV.max(dim=1, keepdim=True)
            second_N1 = logits_NV.scatter_(1, top_id_N1, -math.inf).amax(dim=1, keepdim=True)
            is_top_NX = at_NX == top_id_N1
            margin_NX = of_targets_NX - torch.where(is_top_NX, second_N1, top_N1)
            both = zip(*map(to_list, (logp_NX, is_top_NX, margin_NX)), strict=True)
            found += [list(zip(*position, strict=True)) for position in both]
        return found


@dataclass(frozen=True, slots=True)
class _Row:
    """A context with one continuation, read in one pass."""

    request: int
    places: tuple[int, ...]
    """Which of the request's continuations it is."""
    ids: list[int]
    n_scored: int
    """The last tokens of `ids`, whose likelihood is asked."""


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A context that several continuations share."""

    request: int
    places: list[tuple[int, ...]]
    context: list[int]
    continuations: list[list[int]]

    @property
    def width(self) -> int:
        """Tokens of the longest continuation that are read: its last one is only predicted."""
        return max(map(len, self.continuations)) - 1

    @property
    def size(self) -> tuple[int, int, int]:
        """T, M and G."""
        return len(self.context), self.width, len(self.continuations)


def _distinct(request: Choices) -> dict[tuple[int, ...], list[int]]:
    """The different continuations of a request, each with the places where it stands."""
    if not request.context or not all(request.continuations):
        raise ValueError("a context and each of its continuations need at least one token")
    distinct: dict[tuple[int, ...], list[int]] = {}
    for place, continuation in enumerate(request.continuations):
        distinct.setdefault(tuple(continuation), []).append(place)
    return distinct


def _batches(items: Sequence[X], length: Callable[[X], int], limit: int) -> Iterator[list[X]]:
    """Neighbors in `items`, which are in order of length, so many that the padded batch has up to `limit` tokens."""
    batch: list[X] = []
    for item in items:
        if batch and (len(batch) + 1) * length(item) > limit:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _pick(hidden: Tensor, at: Sequence[tuple[int, int]]) -> Tensor:
    """The hidden states [N, C] at these rows and positions."""
    index = torch.tensor(at, device=hidden.device)
    return hidden[index[:, 0], index[:, 1]]


def _total(tokens: Sequence[_Token]) -> Likelihood:
    logprobs, is_top, margins = zip(*tokens, strict=True)
    return Likelihood(math.fsum(logprobs), len(tokens), all(is_top), min(margins))


@contextmanager
def _rotary_up_to(model: Transformer, length: int) -> Generator[None]:
    """Within it, the model's rotary table covers `length` positions; afterwards it is what it was."""
    cos, sin = model.cos, model.sin
    if length > len(cos):
        longer = rotary_table(length, model.config.head_size, model.config.rope_base)
        model.cos, model.sin = (
            torch.cat([old, new[len(old) :].to(old)]) for old, new in zip((cos, sin), longer, strict=True)
        )
    try:
        yield
    finally:
        model.cos, model.sin = cos, sin
