"""Continuous batching on the host: ended rows are removed, and waiting completions take their place.

`step` touches only the device. In `harvest` the host learns which rows have ended. Between two harvests ended rows are
still computed, and their tokens are dropped.

Shapes: R rows, P prompts, T tokens of a prompt, C width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from aquarat_core.data.rows import pad
from aquarat_core.model.kv_cache import DecodeShape, Prefill, last_ids
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.replay import GraphRunner
from aquarat_core.rollout.rows import DecodeStep
from aquarat_core.rollout.sampling import Sampling
from aquarat_core.rollout.tools import Calls, Tool

PREFILL_TOKENS = 16_384
"""Maximum number of tokens in one prefill pass, including padding."""
Enough = Callable[[list[int]], bool]
"""Whether a completion with these tokens so far need not be continued."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the keys of its completions; completion i has number `first + i` in the whole batch."""

    prompt: Sequence[int]
    keys: Sequence[int]
    first: int


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


@dataclass(slots=True)
class _Row:
    """The host's record of a row: its completion, its prompt's index in the KV cache, its slot of that prompt, and the
    step at which it started."""

    item: int
    prompt: int
    slot: int
    start_step: int


class Batch:
    """Samples every completion of `requests`, in the rows of `runner` and the prompts of their KV cache."""

    def __init__(
        self,
        runner: GraphRunner,
        requests: Sequence[Request],
        budget: int,
        sampling: Sampling,
        tool: Tool | None = None,
        enough: Enough | None = None,
    ) -> None:
        self.runner, self.state, self.kv_cache = runner, runner.rows, runner.rows.kv_cache
        self.model = self.state.model
        self.budget, self.sampling, self.enough = budget, sampling, enough
        self.waiting = deque((request, n) for request in requests for n in range(len(request.keys)))
        self.rows: list[_Row] = []
        self.prompt_indices: dict[int, int] = {}
        """Index of each prompt in the KV cache, by its request's `first`."""
        self.prompt_lengths: list[int] = []
        self.steps = 0
        self.completions: dict[int, Completion] = {}
        """Finished completions by number."""
        self._in_slot_order = False
        P, _, self.n_rows, _ = self.kv_cache.size
        hidden_RC = self.state.hidden_RC
        self.prompt_hidden_PC = torch.zeros((P, hidden_RC.size(1)), dtype=hidden_RC.dtype, device=hidden_RC.device)
        self.calls = Calls(tool) if tool else None
        self.state.clear(0)

    def step(self) -> None:
        """Sample one token for every row and run the model on it. Without a tool, the device never waits."""
        self.steps += 1
        step = DecodeStep(self._shape(), self.sampling, self.budget)
        if self.calls:
            self._with_tool(self.calls, step)
        elif self._is_last():
            self.state.append(step, *self.state.sample(step))
        else:
            self.runner.advance(step)

    def _is_last(self) -> bool:
        """True if no row samples again."""
        return self._left() <= 0 and not self.waiting

    def _with_tool(self, calls: Calls, step: DecodeStep) -> None:
        """With a tool, the host sees every token, so all rows are live. Tokens from the tool have log-probability 0."""
        token_R, logp_R = self.state.sample(step)
        items = [row.item for row in self.rows]
        pending_R = torch.tensor(calls.pending(items), device=token_R.device)
        forced_R = pending_R >= 0
        token_R = torch.where(forced_R, pending_R, token_R)
        self.state.append(step, token_R, logp_R.masked_fill(forced_R, 0.0))
        calls.observe(items, to_list(token_R), to_list(forced_R))
        if not self._is_last():
            self.state.forward(step, token_R)

    def _shape(self) -> DecodeShape:
        starts = {row.start_step for row in self.rows}
        return DecodeShape(
            rows=len(self.rows),
            prompts=len(self.prompt_lengths),
            prompt_len=max(self.prompt_lengths),
            n_generated=min(self.steps - min(starts), self.budget),
            same_age=len(starts) == 1,
            in_slot_order=self._in_slot_order,
        )

    def harvest(self) -> int:
        """Replace ended rows by waiting completions; returns the largest number of steps that a row has left."""
        live: list[bool] = to_list(self.state.live_R[: len(self.rows)])
        if self.enough is not None and live:
            live = self._continued(live, self.enough)
        self._collect_ended([i for i, alive in enumerate(live) if not alive])
        self.rearrange(live)
        return self._left()

    def _continued(self, live: Sequence[bool], enough: Enough) -> list[bool]:
        """The `live` rows whose tokens so far are not enough."""
        tokens: list[list[int]] = to_list(self.state.tokens_RS[: len(live)])
        lengths: list[int] = to_list(self.kv_cache.n_generated_R[: len(live)])
        return [alive and not enough(ids[:n]) for alive, ids, n in zip(live, tokens, lengths, strict=True)]

    def rearrange(self, live: Sequence[bool]) -> None:
        """Compact the rows that are `live`, and start waiting completions in the free ones."""
        self._compact_rows(live)
        self._compact_prompts()
        self._admit()
        G = self.kv_cache.slots
        self._in_slot_order = [row.prompt * G + row.slot for row in self.rows] == list(
            range(len(self.prompt_lengths) * G)
        )

    def _left(self) -> int:
        return max((self.budget - (self.steps - row.start_step) for row in self.rows), default=0)

    def _collect_ended(self, rows: Sequence[int]) -> None:
        """Store the completions of ended rows."""
        if not rows:
            return
        at = torch.tensor(rows, device=self.state.live_R.device)
        columns = (self.state.tokens_RS, self.state.logp_RS, self.kv_cache.n_generated_R, self.state.ended_R)
        tokens, logprobs, lengths, ended = (to_list(x[at]) for x in columns)
        for row, ids, logps, n, stopped in zip(rows, tokens, logprobs, lengths, ended, strict=True):
            item = self.rows[row].item
            forced = self.calls.forced(item) if self.calls else ()
            self.completions[item] = Completion(ids[:n], logps[:n], stopped, forced)

    def _compact_rows(self, live: Sequence[bool]) -> None:
        """Move live rows from the end to replace ended ones, so that live rows are contiguous."""
        source, target = _moves(live)
        if source:
            rows = torch.tensor([source, target], device=self.state.live_R.device)
            oldest = self.steps - min(row.start_step for row in self.rows)
            self.state.compact(rows[0], rows[1], min(oldest, self.budget))
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
            self.kv_cache.move_prompts(prompts[0], prompts[1])
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
            self.rows.append(_Row(request.first + n, self.prompt_indices[request.first], n, self.steps))
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
        self.state.start(rows, self.prompt_hidden_PC[prompts], keys)

    def _prefill(self, requests: Sequence[Request]) -> None:
        device = self.prompt_hidden_PC.device
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
