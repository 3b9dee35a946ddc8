"""The rows that are being sampled, in memory that stays where it is: refilled as rows end, closed up when none wait.

`step` touches the device only. `look` is where the host finds out which rows have ended; between two looks ended rows
are computed along, and what they say is dropped.

Shapes: R rows, C width, N completions asked for, S tokens of a completion at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aquarat_core.model.kv_cache import Decode, KVMemory, Prefill, last_ids
from aquarat_core.model.transformer import Transformer
from aquarat_core.rollout.sampling import Sampling, sample
from aquarat_core.rollout.tools import Calls, Tool

PREFILL_TOKENS = 16_384
"""Tokens, padding included, that are read in one forward pass."""
LOGITS_PER_DRAW = 1 << 18
"""Logits on a CPU at once: 1 MB stays in its cache from the head's product to the token drawn."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and one completion to sample for each of its keys; completion i is number `first + i` of all."""

    prompt: Sequence[int]
    keys: Sequence[int]
    first: int


@dataclass(slots=True)
class _Row:
    """The host's side of a row: the slot of its prompt, its lane there, and the step it began at."""

    slot: int
    lane: int
    born: int


class Batch:
    """Samples every completion of `requests`, in the rows and prompt slots of `memory`."""

    def __init__(
        self,
        model: Transformer,
        memory: KVMemory,
        requests: Sequence[Request],
        budget: int,
        sampling: Sampling,
        stop_token: int,
        tool: Tool | None = None,
    ) -> None:
        self.model, self.memory, self.budget = model, memory, budget
        self.sampling, self.stop_token = sampling, stop_token
        self.waiting = deque((request, n) for request in requests for n in range(len(request.keys)))
        self.rows: list[_Row] = []
        self.slots: dict[int, int] = {}
        """Slot of each prompt in memory, by its request's `first`."""
        self.slot_lengths: list[int] = []
        self.steps = 0
        self._in_lanes = False

        device, N = model.cos.device, len(self.waiting)
        R, C = memory.row_k_LNRKSD.size(2), model.config.dim
        self.hidden_RC = torch.zeros((R, C), dtype=model.compute_dtype, device=device)
        """Of each row's last token; what the next one is drawn from."""
        self.prompt_hidden_PC = torch.zeros(
            (memory.prompt_v_LPKTD.size(1), C), dtype=model.compute_dtype, device=device
        )
        self.keys_R = torch.zeros(R, dtype=torch.long, device=device)
        self.item_R = torch.full((R,), N, dtype=torch.long, device=device)
        """Which completion a row samples; N, a row of the outputs that nobody reads, once it has ended."""
        self.tokens_NS = torch.zeros((N + 1, budget), dtype=torch.long, device=device)
        self.logp_NS = torch.zeros((N + 1, budget), device=device)
        self.lengths_N = torch.zeros(N + 1, dtype=torch.long, device=device)
        self.ended_N = torch.zeros(N + 1, dtype=torch.bool, device=device)
        self.calls = Calls(tool) if tool else None
        self.given_NS = torch.zeros((N + 1, budget if tool else 0), dtype=torch.bool, device=device)
        """Tokens that a tool said."""

    # --- device -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Draw one token for every row and read it."""
        n, ages_R, item_R = len(self.rows), self.memory.ages_R[: len(self.rows)], self.item_R[: len(self.rows)]
        token_R, logp_R = self._draw(n)
        if self.calls:
            token_R, logp_R = self._with_tool(self.calls, token_R, logp_R)
        self.tokens_NS[item_R, ages_R.clamp(max=self.budget - 1)] = token_R
        self.logp_NS[item_R, ages_R.clamp(max=self.budget - 1)] = logp_R
        live_R = item_R < len(self.ended_N) - 1
        ages_R += live_R
        stopped_R = token_R == self.stop_token
        self.lengths_N[item_R], self.ended_N[item_R] = ages_R, stopped_R
        item_R.masked_fill_(stopped_R | (ages_R >= self.budget), len(self.ended_N) - 1)
        self.steps += 1
        if self._left() <= 0 and not self.waiting:
            return  # nobody will draw from what this token leads to
        self.hidden_RC[:n] = self.model.hidden(token_R[:, None], self._decode())[:, 0]

    def _with_tool(self, calls: Calls, token_R: Tensor, logp_R: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities, 0 where a tool speaks. With a tool the host looks at every token."""
        ages_R, item_R = self.memory.ages_R[: len(token_R)], self.item_R[: len(token_R)]
        items, device = item_R.tolist(), token_R.device
        due_R = torch.tensor(calls.due(items), device=device)
        given_R = due_R >= 0
        self.given_NS[item_R, ages_R.clamp(max=self.budget - 1)] = given_R
        token_R = torch.where(given_R, due_R, token_R)
        calls.said(items, token_R.tolist(), given_R.tolist())
        return token_R, logp_R.masked_fill(given_R, 0.0)

    def _decode(self) -> Decode:
        born = {row.born for row in self.rows}
        return Decode(
            self.memory,
            rows=len(self.rows),
            prompts=len(self.slot_lengths),
            prompt_len=max(self.slot_lengths),
            n_own=min(self.steps - min(born), self.budget),
            abreast=len(born) == 1,
            in_lanes=self._in_lanes,
        )

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Tokens [R] and log-probabilities [R] of the first n rows."""
        raw_RV = self.model.head(self.hidden_RC[:n])
        parts = raw_RV.split(n if raw_RV.is_cuda else max(1, LOGITS_PER_DRAW // self.model.vocab_size))
        keys, ages = (x[:n].split(len(parts[0])) for x in (self.keys_R, self.memory.ages_R))
        cap = self.model.config.softcap
        drawn = [
            sample(self.model.capped(raw), self.sampling, *row, cap)
            for raw, *row in zip(parts, keys, ages, strict=True)
        ]
        return torch.cat([tokens for tokens, _ in drawn]), torch.cat([logp for _, logp in drawn])

    # --- host -------------------------------------------------------------------------------------------------------

    def look(self) -> int:
        """Take ended rows out and waiting completions in; returns the steps that some row has left at most."""
        live = (self.item_R[: len(self.rows)] < len(self.ended_N) - 1).tolist()
        self._close_rows(live)
        self._close_slots()
        self._admit()
        G = self.memory.lanes
        self._in_lanes = [row.slot * G + row.lane for row in self.rows] == list(range(len(self.slot_lengths) * G))
        return self._left()

    def _left(self) -> int:
        return max((self.budget - (self.steps - row.born) for row in self.rows), default=0)

    def _close_rows(self, live: list[bool]) -> None:
        """Move live rows from the end into the places of ended ones, so that all rows up to the last are live."""
        source, target = _moves(live)
        if source:
            rows = torch.tensor([source, target], device=self.item_R.device)
            oldest = self.steps - min(row.born for row in self.rows)
            self.memory.move_rows(rows[0], rows[1], min(oldest, self.budget))
            for state in (self.hidden_RC, self.keys_R, self.item_R):
                state[rows[1]] = state[rows[0]]
            for old, new in zip(source, target, strict=True):
                self.rows[new] = self.rows[old]
        del self.rows[sum(live) :]

    def _close_slots(self) -> None:
        """The same for prompts that no row continues and no waiting completion needs."""
        needed = {row.slot for row in self.rows}
        if self.waiting and self.waiting[0][0].first in self.slots:
            needed.add(self.slots[self.waiting[0][0].first])
        live = [slot in needed for slot in range(len(self.slot_lengths))]
        source, target = _moves(live)
        if source:
            slots = torch.tensor([source, target], device=self.item_R.device)
            self.memory.move_prompts(slots[0], slots[1])
            self.prompt_hidden_PC[slots[1]] = self.prompt_hidden_PC[slots[0]]
        moved = dict(zip(source, target, strict=True))
        for old, new in moved.items():
            self.slot_lengths[new] = self.slot_lengths[old]
        self.slots = {first: moved.get(s, s) for first, s in self.slots.items() if s in needed}
        for row in self.rows:
            row.slot = moved.get(row.slot, row.slot)
        del self.slot_lengths[sum(live) :]

    def _admit(self) -> None:
        """Start waiting completions in free rows, reading their prompts where that has not been done."""
        R, P = self.hidden_RC.size(0), self.prompt_hidden_PC.size(0)
        first_row, started, new = len(self.rows), [], []
        while self.waiting and len(self.rows) < R:
            request, n = self.waiting[0]
            if request.first not in self.slots:
                if len(self.slot_lengths) == P:
                    break
                self.slots[request.first] = len(self.slot_lengths)
                self.slot_lengths.append(len(request.prompt))
                new.append(request)
            self.waiting.popleft()
            self.rows.append(_Row(self.slots[request.first], n, self.steps))
            started.append((request, n))
        if not started:
            return
        self._prefill(new)
        device = self.item_R.device
        rows = torch.arange(first_row, len(self.rows), device=device)
        slots = torch.tensor([row.slot for row in self.rows[first_row:]], device=device)
        lanes = torch.tensor([n for _, n in started], device=device)
        tails = last_ids([request.prompt for request, _ in started], self.memory.recent_RN.size(1))
        self.memory.place_rows(rows, slots, lanes, tails.to(device))
        self.hidden_RC[rows] = self.prompt_hidden_PC[slots]
        self.keys_R[rows] = torch.tensor([request.keys[n] for request, n in started], device=device)
        self.item_R[rows] = torch.tensor([request.first + n for request, n in started], device=device)

    def _prefill(self, requests: Sequence[Request]) -> None:
        device = self.item_R.device
        longest = max((len(request.prompt) for request in requests), default=1)
        at_once = max(1, PREFILL_TOKENS // longest)
        for start in range(0, len(requests), at_once):
            part = requests[start : start + at_once]
            padded = torch.zeros((len(part), max(len(r.prompt) for r in part)), dtype=torch.long)
            for row, request in enumerate(part):
                padded[row, : len(request.prompt)] = torch.as_tensor(request.prompt)
            lengths = torch.tensor([len(r.prompt) for r in part], device=device)
            slots = torch.tensor([self.slots[r.first] for r in part], device=device)
            hidden_PTC = self.model.hidden(padded.to(device), Prefill(self.memory, slots, lengths))
            last_PC = hidden_PTC[torch.arange(len(part), device=device), lengths - 1]
            self.prompt_hidden_PC[slots] = last_PC


def _moves(live: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Sources and targets that bring all live places to the front with as few moves as possible."""
    n = sum(live)
    return [i for i in range(n, len(live)) if live[i]], [i for i in range(n) if not live[i]]
