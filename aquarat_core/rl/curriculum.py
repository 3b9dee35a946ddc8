"""Draws the questions of a step: in shuffled order, or more often those that the policy solves sometimes.

A question that is always or never solved gives no gradient. Guessing alone reaches a pass rate of chance, so pass rates
are measured from there. A draw depends only on (seed, step) and the pass rates so far, which are equal on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aquarat_core.config import CurriculumConfig
from aquarat_core.data.rows import EpochShuffle
from aquarat_core.errors import StageError
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.random import row_key, uniform
from aquarat_core.runtime.distributed import World


class Curriculum:
    """Draws the questions of each step from `n` and tracks how often they were solved.

    `chances` are the pass rates of random guessing, one for each question.
    """

    def __init__(self, chances: Sequence[float], seed: int, config: CurriculumConfig, world: World) -> None:
        n = len(chances)
        self.chances_N = torch.tensor(chances, dtype=torch.float64)
        self.seed, self.config, self.world = seed, config, world
        self.order, self.replacement_order = EpochShuffle(n, seed), EpochShuffle(n, row_key(seed, "spare") & 0x7FFFFFFF)
        self.pass_rates_N = torch.full((n,), -1.0, dtype=torch.float64)
        """Share of solved samples, an exponential mean over visits; -1 before the first visit."""

    def draw(self, step: int, count: int) -> list[int]:
        """Indices of the questions of `step`."""
        n = len(self.pass_rates_N)
        if not self.config.enabled:
            return self.order.rows(step, count).tolist()
        if count > n:
            raise StageError(f"a step asks {count} questions, but there are {n}: lower rl_checkpoint.prompts_per_step")
        # The largest u^(1/w) are a weighted draw without replacement (Efraimidis & Spirakis 2006).
        u = uniform(torch.arange(n) + row_key(self.seed, "curriculum", step) // 2, 0).double()
        return to_list((u.clamp(min=1e-12).log() / self.weights()).topk(count).indices)

    def replacement(self, step: int, rounds: int, round_: int, count: int, place: int) -> int:
        """Index of the question that replaces the one at `place` of `step` in a round of resampling, on any rank."""
        row = ((step * rounds + round_) * count) + place
        return int(self.replacement_order.rows(row, 1)[0])

    def weights(self) -> Tensor:
        """The weight of each question in the next draw."""
        skill_N = (self.pass_rates_N - self.chances_N) / (1 - self.chances_N)
        useful_N = (skill_N > self.config.hard) & (skill_N < self.config.easy)
        weights_N = torch.full_like(skill_N, self.config.weight)
        return weights_N.masked_fill(useful_N | (self.pass_rates_N < 0), 1.0)

    def update(self, solved: Mapping[int, float]) -> None:
        """Record the shares solved of this rank's questions; every rank calls this once per step."""
        if not self.config.enabled:
            return
        seen_2N = torch.zeros((2, len(self.pass_rates_N)), dtype=torch.float64, device=self.world.device)
        for i, share in solved.items():
            seen_2N[:, i] += torch.tensor([share, 1.0], dtype=torch.float64)
        shares_N, visits_N = self.world.sum(seen_2N).cpu()
        now_N = shares_N / visits_N.clamp(min=1)
        decay = self.config.memory
        known_N = self.pass_rates_N >= 0
        updated_N = torch.where(known_N, decay * self.pass_rates_N + (1 - decay) * now_N, now_N)
        self.pass_rates_N = torch.where(visits_N > 0, updated_N, self.pass_rates_N)

    def metrics(self) -> dict[str, float]:
        """The number of questions seen so far, and the share of them that is solved sometimes."""
        known_N = self.pass_rates_N >= 0
        if not self.config.enabled or not known_N.any():
            return {}
        useful = (self.weights()[known_N] == 1).double().mean()
        return {"rl/curriculum_seen": float(known_N.sum()), "rl/curriculum_useful": float(useful)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"pass_rates": self.pass_rates_N}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> None:
        self.pass_rates_N = state_dict["pass_rates"].clone()


class CurriculumMixture:
    """The curricula of several tasks, each of which gives a fixed number of questions per step.

    Question indices count through the whole run: those of a task follow those of the previous task.
    """

    def __init__(self, curricula: Mapping[str, Curriculum], per_step: Sequence[int]) -> None:
        """`curricula` are keyed by the suffix of their metric names; `per_step` is the number of questions from
        each."""
        self.curricula, self.per_step = dict(curricula), list(per_step)
        sizes = [len(c.pass_rates_N) for c in curricula.values()]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def draw(self, step: int, count: int) -> list[int]:
        """Indices of the questions of `step`, task by task."""
        assert count == sum(self.per_step), "the tasks' shares determine the number of questions in a step"
        parts = zip(self.curricula.values(), self.starts, self.per_step, strict=True)
        return [start + i for curriculum, start, n in parts for i in curriculum.draw(step, n)]

    def replacement(self, step: int, rounds: int, round_: int, count: int, place: int) -> int:
        """Index of a question of the same task that replaces the one at `place` of `step` in a round of resampling."""
        del count
        for curriculum, start, n in zip(self.curricula.values(), self.starts, self.per_step, strict=True):
            if place < n:
                return start + curriculum.replacement(step, rounds, round_, n, place)
            place -= n
        raise IndexError("there is no such place in a step")

    def update(self, solved: Mapping[int, float]) -> None:
        """Record the shares solved of this rank's questions; every rank calls this once per step."""
        for curriculum, start in zip(self.curricula.values(), self.starts, strict=True):
            n = len(curriculum.pass_rates_N)
            curriculum.update({i - start: share for i, share in solved.items() if start <= i < start + n})

    def metrics(self) -> dict[str, float]:
        """The metrics of each task's curriculum, under the task's name."""
        return {
            f"{name}{suffix}": value
            for suffix, curriculum in self.curricula.items()
            for name, value in curriculum.metrics().items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"pass_rates": torch.cat([c.pass_rates_N for c in self.curricula.values()])}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> None:
        rates_N = state_dict["pass_rates"]
        for curriculum, start in zip(self.curricula.values(), self.starts, strict=True):
            end = start + len(curriculum.pass_rates_N)
            curriculum.load_state_dict({"pass_rates": rates_N[start:end]})
