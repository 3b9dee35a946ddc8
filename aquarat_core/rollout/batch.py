"""Continuous batching on the host: ended rows are removed, and waiting completions take their place.

Requests may be added at any time, and each has its own budget and way of sampling. `step` touches only the device,
unless a request needs the host at every token. In `harvest` the host learns which rows have ended. Between two
harvests ended rows are still computed, and their tokens are dropped.

Shapes: R rows, P prompts, T tokens of a prompt, C width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.model.kv_cache import DecodeShape, Prefill, last_ids
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.replay import GraphRunner, quarters
from aquarat_core.rollout.rows import DecodeStep
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Calls, Tool

PREFILL_TOKENS = 16_384
"""Maximum number of tokens in one prefill pass, including padding."""
PROMPT_ROOM = 64
"""The smallest room for a prompt in an elastic batch."""
Enough = Callable[[list[int]], bool]
"""Whether a completion with these tokens so far need not be continued."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the keys of its completions; completion i has number `first + i` in the whole batch."""

    prompt: Sequence[int]
    keys: Sequence[int]
    first: int
    budget: int
    """Maximum number of tokens of a completion, at least 1."""
    sampling: Sampling
    tool: Tool | None = None
    enough: Enough | None = None
    alternatives: int | None = None
    """Number of most likely tokens to report with each sampled one; None reports nothing (`Drawn.likelihood`)."""

    @property
    def needs_host(self) -> bool:
        """Whether the host must see every token."""
        return self.tool is not None or self.alternatives is not None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation; the stop token, if one was sampled, is the last of `tokens`."""

    tokens: list[int]
    logprobs: list[float]
    """Log-probability of each token under the distribution that it was drawn from."""
    ended: bool
    """True if a stop token was sampled, False if the token budget was used up or the tokens so far were enough."""
    forced: tuple[int, ...] = ()
    """Positions of tokens that came from a tool; their log-probability is 0, and they are not trained on."""

    @property
    def content(self) -> list[int]:
        """The tokens without the stop token."""
        return self.tokens[:-1] if self.ended else self.tokens

    @property
    def n_sampled(self) -> int:
        """Number of tokens that the model sampled: all except the tool's."""
        return len(self.tokens) - len(self.forced)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the model found a token, at temperature 1 and with nothing cut off."""

    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    """The most likely tokens in its place and their log-probabilities."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One new token of a completion."""

    item: int
    """Number of the completion."""
    token: int
    likelihood: Likelihood | None = None
    """If the request asked for it."""


@dataclass(slots=True)
class _Row:
    """The host's record of a row."""

    item: int
    """Number of its completion."""
    request: Request
    prompt: int
    """Index of its prompt in the KV cache."""
    slot: int
    """Its slot of that prompt."""
    start_step: int
    calls: Calls | None
    likelihood: Likelihood | None = None
    """That of its newest token."""


class Batch:
    """Samples every completion of `requests`, in the rows of `runner` and the prompts of their KV cache.

    The prompts and budgets must fit the KV cache.
    """

    def __init__(self, runner: GraphRunner, requests: Iterable[Request] = (), elastic: bool = False) -> None:
        """With `elastic`, the KV cache's room for prompts follows the longest one: a step reads all of that room."""
        self.runner, self.state, self.kv_cache = runner, runner.rows, runner.rows.kv_cache
        self.model = self.state.model
        self.elastic = elastic
        self.waiting: deque[tuple[Request, int]] = deque()
        self.rows: list[_Row] = []
        self.prompt_indices: dict[int, int] = {}
        """Index of each prompt in the KV cache, by its request's `first`."""
        self.prompt_lengths: list[int] = []
        self.steps = 0
        self.completions: dict[int, Completion] = {}
        """Finished completions by number."""
        # What the host knows about all rows together, which changes only where rows do.
        self.needs_host = False
        """Whether the rows need a `harvest` after every step."""
        self._in_slot_order = False
        self._ages: set[tuple[int, int]] = set()
        """First step and budget of the rows."""
        self._samplings: dict[Sampling, list[int]] = {}
        """The rows of each way of sampling."""
        P, _, self.n_rows, _ = self.kv_cache.size
        hidden_RC = self.state.hidden_RC
        self.prompt_hidden_PC = torch.zeros((P, hidden_RC.size(1)), dtype=hidden_RC.dtype, device=hidden_RC.device)
        self.state.clear(0)
        self.add(requests)

    def add(self, requests: Iterable[Request]) -> None:
        """Queue the completions of further requests; they start at a later `harvest`, as rows become free."""
        self.waiting.extend((request, n) for request in requests for n in range(len(request.keys)))

    def step(self) -> None:
        """Sample one token for every row and run the model on it. The device waits only if a row needs the host."""
        self.steps += 1
        step = DecodeStep(self._shape(), next(iter(self._samplings)))
        if self.needs_host:
            self._seen_by_host(step)
        elif self._is_last():
            self.state.append(step, *self.state.sample(len(self.rows), step.sampling))
        else:
            self.runner.advance(step)

    def _is_last(self) -> bool:
        """True if no row samples again."""
        return self._left() <= 0 and not self.waiting

    def _seen_by_host(self, step: DecodeStep) -> None:
        """The host sees every token, so all rows are live. Tokens from a tool have log-probability 0."""
        asking = [i for i, row in enumerate(self.rows) if row.request.alternatives is not None]
        # The last hidden states are gone after the step.
        asked_B = torch.tensor(asking, device=self.prompt_hidden_PC.device) if asking else None
        logp_BV = self.state.logprobs(asked_B) if asked_B is not None else None
        token_R, logp_R = self._sampled()
        pending_R = torch.tensor([row.calls.pending() if row.calls else -1 for row in self.rows], device=token_R.device)
        forced_R = pending_R >= 0
        token_R = torch.where(forced_R, pending_R, token_R)
        self.state.append(step, token_R, logp_R.masked_fill(forced_R, 0.0))
        for row, token, forced in zip(self.rows, to_list(token_R), to_list(forced_R), strict=True):
            if row.calls:
                row.calls.observe(token, forced)
        if logp_BV is not None and asked_B is not None:
            self._note(asking, logp_BV, token_R[asked_B])
        if not self._is_last():
            self.state.forward(step, token_R)

    def _note(self, asking: Sequence[int], logp_BV: Tensor, token_B: Tensor) -> None:
        """Keep the likelihoods of the newest tokens for the rows that are `asking`."""
        own = to_list(logp_BV.gather(1, token_B[:, None])[:, 0])
        most = max(self.rows[i].request.alternatives or 0 for i in asking)
        top = logp_BV.topk(min(most, logp_BV.size(1)), dim=1)
        for i, logp, ids, logps in zip(asking, own, to_list(top.indices), to_list(top.values), strict=True):
            row = self.rows[i]
            row.likelihood = Likelihood(logp, tuple(zip(ids, logps, strict=True))[: row.request.alternatives])

    def _sampled(self) -> tuple[Tensor, Tensor]:
        """Tokens [R] and log-probabilities [R], each row's drawn in its own way."""
        if len(self._samplings) == 1:
            return self.state.sample(len(self.rows), next(iter(self._samplings)))
        device = self.prompt_hidden_PC.device
        token_R = torch.zeros(len(self.rows), dtype=torch.long, device=device)
        logp_R = torch.zeros(len(self.rows), device=device)
        for sampling, rows in self._samplings.items():
            at = torch.tensor(rows, device=device)
            token_R[at], logp_R[at] = self.state.sample(at, sampling)
        return token_R, logp_R

    def newest(self) -> list[Drawn]:
        """The token that each row got in the last step. Valid after one step since the last `harvest`."""
        n = len(self.rows)
        last_R1 = self.kv_cache.n_generated_R[:n, None] - 1
        tokens = to_list(self.state.tokens_RS[:n].gather(1, last_R1)[:, 0])
        return [Drawn(row.item, token, row.likelihood) for row, token in zip(self.rows, tokens, strict=True)]

    def end(self, items: Iterable[int]) -> None:
        """Do not continue these completions: they finish at the next `harvest` with what they have, or, if they have
        not started, never."""
        ending = set(items)
        self.waiting = deque((request, n) for request, n in self.waiting if request.first + n not in ending)
        if rows := [i for i, row in enumerate(self.rows) if row.item in ending]:
            self.state.live_R[torch.tensor(rows, device=self.state.live_R.device)] = False

    def _shape(self) -> DecodeShape:
        return DecodeShape(
            rows=len(self.rows),
            prompts=len(self.prompt_lengths),
            prompt_len=max(self.prompt_lengths),
            n_generated=self._longest(),
            same_age=len({start for start, _ in self._ages}) == 1,
            in_slot_order=self._in_slot_order,
            same_prompt_len=min(self.prompt_lengths) == max(self.prompt_lengths),
        )

    def harvest(self) -> int:
        """Replace ended rows by waiting completions; returns the largest number of steps that a row has left."""
        live: list[bool] = to_list(self.state.live_R[: len(self.rows)])
        if any(row.request.enough for row in self.rows):
            live = self._continued(live)
        self._collect_ended([i for i, alive in enumerate(live) if not alive])
        self.rearrange(live)
        return self._left()

    def _continued(self, live: Sequence[bool]) -> list[bool]:
        """The `live` rows whose tokens so far are not enough."""
        tokens: list[list[int]] = to_list(self.state.tokens_RS[: len(live)])
        lengths: list[int] = to_list(self.kv_cache.n_generated_R[: len(live)])
        rows = zip(live, self.rows, tokens, lengths, strict=True)
        return [alive and not (row.request.enough and row.request.enough(ids[:n])) for alive, row, ids, n in rows]

    def rearrange(self, live: Sequence[bool]) -> None:
        """Compact the rows that are `live`, and start waiting completions in the free ones."""
        self._compact_rows(live)
        self._compact_prompts()
        self._admit()
        G = self.kv_cache.slots
        slots = [row.prompt * G + row.slot for row in self.rows]
        self._in_slot_order = slots == list(range(len(self.prompt_lengths) * G))
        self._ages = {(row.start_step, row.request.budget) for row in self.rows}
        self._samplings = {}
        for i, row in enumerate(self.rows):
            self._samplings.setdefault(row.request.sampling, []).append(i)
        self.needs_host = len(self._samplings) > 1 or any(row.request.needs_host for row in self.rows)

    def _left(self) -> int:
        return max((budget - (self.steps - start) for start, budget in self._ages), default=0)

    def _longest(self) -> int:
        """Number of tokens of the row that has the most."""
        return max((min(self.steps - start, budget) for start, budget in self._ages), default=0)

    def _collect_ended(self, rows: Sequence[int]) -> None:
        """Store the completions of ended rows."""
        if not rows:
            return
        at = torch.tensor(rows, device=self.state.live_R.device)
        columns = (self.state.tokens_RS, self.state.logp_RS, self.kv_cache.n_generated_R, self.state.ended_R)
        tokens, logprobs, lengths, ended = (to_list(x[at]) for x in columns)
        for i, ids, logps, n, stopped in zip(rows, tokens, logprobs, lengths, ended, strict=True):
            row = self.rows[i]
            forced = tuple(row.calls.forced) if row.calls else ()
            self.completions[row.item] = Completion(ids[:n], logps[:n], stopped, forced)

    def _compact_rows(self, live: Sequence[bool]) -> None:
        """Move live rows from the end to replace ended ones, so that live rows are contiguous."""
        source, target = _moves(live)
        if source:
            rows = torch.tensor([source, target], device=self.state.live_R.device)
            self.state.compact(rows[0], rows[1], self._longest())
            for old, new in zip(source, target, strict=True):
                self.rows[new] = self.rows[old]
        if not all(live):
            del self.rows[sum(live) :]
            self.state.clear(len(self.rows))

    def _compact_prompts(self) -> None:
        """Drop the prompts that no row continues and no waiting completion needs, and move the others together."""
        needed = {row.prompt for row in self.rows}
        if self.waiting and self.waiting[0][0].first in self.prompt_indices:
            needed.add(self.prompt_indices[self.waiting[0][0].first])
        live = [prompt in needed for prompt in range(len(self.prompt_lengths))]
        source, target = _moves(live)
        if source:
            prompts = torch.tensor([source, target], device=self.prompt_hidden_PC.device)
            self.kv_cache.move_prompts(prompts[0], prompts[1], max(self.prompt_lengths))
            self.prompt_hidden_PC[prompts[1]] = self.prompt_hidden_PC[prompts[0]]
        moved = dict(zip(source, target, strict=True))
        for old, new in moved.items():
            self.prompt_lengths[new] = self.prompt_lengths[old]
        self.prompt_indices = {first: moved.get(s, s) for first, s in self.prompt_indices.items() if s in needed}
        for row in self.rows:
            row.prompt = moved.get(row.prompt, row.prompt)
        del self.prompt_lengths[sum(live) :]

    def _admit(self) -> None:
        """Start waiting completions in free rows, and prefill their prompts if necessary."""
        R, P = self.n_rows, self.prompt_hidden_PC.size(0)
        first_row = len(self.rows)
        started: list[tuple[Request, int]] = []
        new: list[Request] = []
        while self.waiting and len(self.rows) < R:
            request, n = self.waiting[0]
            if request.first not in self.prompt_indices:
                if len(self.prompt_lengths) == P:
                    break
                self.prompt_indices[request.first] = len(self.prompt_lengths)
                self.prompt_lengths.append(len(request.prompt))
                new.append(request)
            self.waiting.popleft()
            calls = Calls(request.tool) if request.tool else None
            self.rows.append(_Row(request.first + n, request, self.prompt_indices[request.first], n, self.steps, calls))
            started.append((request, n))
        if not started:
            return
        self._prefill(new)
        device = self.prompt_hidden_PC.device
        rows = torch.arange(first_row, len(self.rows), device=device)
        prompts = torch.tensor([row.prompt for row in self.rows[first_row:]], device=device)
        slots = torch.tensor([n for _, n in started], device=device)
        tails = last_ids([request.prompt for request, _ in started], self.kv_cache.recent_RN.size(1))
        self.kv_cache.start_rows(rows, prompts, slots, tails.to(device))
        keys = torch.tensor([request.keys[n] for request, n in started], device=device)
        budgets = torch.tensor([request.budget for request, _ in started], device=device)
        self.state.start(rows, self.prompt_hidden_PC[prompts], keys, budgets)

    def _fit_prompts(self) -> None:
        """Make the KV cache's room for prompts fit the present ones, with enough to spare that it seldom changes."""
        _, room, _, _ = self.kv_cache.size
        longest = max(self.prompt_lengths)
        if longest > room or 4 * longest < room > PROMPT_ROOM:
            self.kv_cache.resize_prompts(max(PROMPT_ROOM, quarters(longest)), min(longest, room))

    def _prefill(self, requests: Sequence[Request]) -> None:
        device = self.prompt_hidden_PC.device
        if self.elastic and requests:
            self._fit_prompts()
        longest = max((len(request.prompt) for request in requests), default=1)
        at_once = max(1, PREFILL_TOKENS // longest)
        for start in range(0, len(requests), at_once):
            part = requests[start : start + at_once]
            padded = pad([request.prompt for request in part])
            lengths = torch.tensor([len(r.prompt) for r in part], device=device)
            prompts = torch.tensor([self.prompt_indices[r.first] for r in part], device=device)
            hidden_PTC = self.model.hidden(padded.to(device), Prefill(self.kv_cache, prompts, lengths))
            last_PC = hidden_PTC[torch.arange(len(part), device=device), lengths - 1]
            self.prompt_hidden_PC[prompts] = last_PC


def _moves(live: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Sources and targets that move all live entries to the front with as few moves as possible."""
    n = sum(live)
    return [i for i in range(n, len(live)) if live[i]], [i for i in range(n) if not live[i]]
