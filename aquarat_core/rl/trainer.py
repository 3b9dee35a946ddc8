"""The RL loop: sample with the current policy, judge, update once, measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch

from aquarat_core.config import RLConfig
from aquarat_core.evaluation.protocols import accuracy
from aquarat_core.model.transformer import Transformer
from aquarat_core.rl.objective import kl_k3, policy_loss
from aquarat_core.rl.rollouts import Tally, sample_groups
from aquarat_core.rl.scoring import Sample, SampleBatch, collate, completion_logp
from aquarat_core.rollout.engine import Engine
from aquarat_core.stages.base import StageContext, StageError
from aquarat_core.tasks.aqua import Question
from aquarat_core.text.tokenizer import Tokenizer
from aquarat_core.training.batches import RowOrder
from aquarat_core.training.distributed import World
from aquarat_core.training.metrics import MetricLog
from aquarat_core.training.update import Updater


class Trainer:
    """Owns the policy, the sampling engine and the frozen reference of one RL run."""

    def __init__(self, policy: Transformer, tokenizer: Tokenizer, config: RLConfig, world: World) -> None:
        self.policy, self.tokenizer, self.config, self.world = policy, tokenizer, config, world
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.engine = Engine(policy, tokenizer.special("<|assistant_end|>"))
        self.updater = Updater(policy, config.optim, config.steps, world)

    def run(
        self, questions: Sequence[Question], held_out: Sequence[Question], ctx: StageContext, log: MetricLog
    ) -> dict[str, float]:
        """Train for `config.steps` steps on `questions`, watching accuracy on `held_out`; returns the summary."""
        config = self.config
        order = RowOrder(len(questions), config.seed)
        before = accuracy(self.engine, self.tokenizer, held_out, config.max_new_tokens, self.world)
        log.row(0, **{"eval/accuracy": before})
        metrics: dict[str, float] = {}
        first, tokens, started = {}, 0.0, time.monotonic()
        for step in range(config.steps):
            rows = order.rows(step, config.prompts_per_step)
            metrics = self.step(step, [questions[i] for i in self.world.share(list(rows))])
            if step == 0:
                first = dict(metrics)
                self._refuse_hopeless(metrics)
            last = step + 1 == config.steps
            if last or (step + 1) % config.eval_every == 0:
                metrics["eval/accuracy"] = accuracy(
                    self.engine, self.tokenizer, held_out, config.max_new_tokens, self.world
                )
            tokens += metrics["rl/completion_length_mean"] * config.prompts_per_step * config.group_size
            log.row(step + 1, **metrics)
            shown = ("rl/reward_mean", "rl/parse_rate", "eval/accuracy")
            ctx.progress(step + 1, config.steps, **{name: metrics[name] for name in shown if name in metrics})
        return {
            "steps": config.steps,
            "reward_mean_first": first["rl/reward_mean"],
            "reward_mean_last": metrics["rl/reward_mean"],
            "kl_sequence_mean": metrics["rl/kl_sequence_mean"],
            "held_out_accuracy_before": before,
            "held_out_accuracy_after": metrics["eval/accuracy"],
            "sampled_tokens": round(tokens),
            "sampled_tokens_per_second": tokens / (time.monotonic() - started),
        }

    def step(self, step: int, questions: Sequence[Question]) -> dict[str, float]:
        """Sample and learn from this rank's questions; the figures are of all ranks."""
        t0 = time.monotonic()
        samples, tally = sample_groups(self.engine, self.tokenizer, questions, self.config, step)
        numbers = self.world.sum(torch.tensor(tally.numbers(), dtype=torch.float64, device=self.world.device))
        metrics = Tally.metrics(numbers.tolist())
        t1 = time.monotonic()
        metrics |= self._update(step, samples, n_tokens=float(numbers[1]))
        self.engine.refresh(self.policy)
        return metrics | {"time/rollout": t1 - t0, "time/update": time.monotonic() - t1}

    def _update(self, step: int, samples: list[Sample], n_tokens: float) -> dict[str, float]:
        # A group whose samples all earned the same has no gradient: it is counted in n_tokens but not computed.
        telling = sorted((s for s in samples if s.advantage), key=lambda s: len(s.prompt) + len(s.completion))
        sums = torch.zeros(5, dtype=torch.float64, device=self.world.device)
        starts = range(0, len(telling), self.config.micro_batch_rows)
        for n, start in enumerate(starts):
            batch = collate(telling[start : start + self.config.micro_batch_rows], self.world.device)
            logp, entropy = completion_logp(self.policy, batch, self.config.temperature)
            policy_loss(logp, batch.advantages_B, batch.mask_BN, n_tokens).backward()
            # The reference costs a forward pass, so KL is measured on one micro-batch of each step: on each in turn,
            # since they are sorted by length.
            sums += self._measure(batch, logp, entropy, with_kl=n == step % len(starts))
        self.world.sum(sums)
        gap, entropy_sum, tokens, kl_sum, kl_tokens = sums.tolist()
        return {
            **{name.replace("train/", "rl/"): value for name, value in self.updater.apply(step).items()},
            "rl/sampler_logp_difference": gap / max(tokens, 1),
            "rl/entropy_mean": entropy_sum / max(tokens, 1),
            "rl/kl_sequence_mean": kl_sum / max(kl_tokens, 1),
        }

    @torch.no_grad()
    def _measure(self, batch: SampleBatch, logp: torch.Tensor, entropy: torch.Tensor, with_kl: bool) -> torch.Tensor:
        """Sums over completion tokens: the sampler's difference, entropy, tokens, KL, and tokens that KL is of."""
        n = batch.mask_BN.sum()
        gap = ((logp - batch.sampler_logp_BN).abs() * batch.mask_BN).sum()
        kl, kl_tokens = torch.zeros_like(n), torch.zeros_like(n)
        if with_kl:
            reference, _ = completion_logp(self.reference, batch, self.config.temperature)
            kl, kl_tokens = (kl_k3(logp, reference) * batch.mask_BN).sum(), n
        return torch.stack([gap, (entropy * batch.mask_BN).sum(), n, kl, kl_tokens]).double()

    def _refuse_hopeless(self, first: dict[str, float]) -> None:
        """Stop before hours are spent on a reward that says nothing."""
        if first["rl/parse_rate"] < self.config.min_parse_rate:
            raise StageError(
                f"only {first['rl/parse_rate']:.0%} of the first completions end in a well-formed answer "
                f"(rl_checkpoint.min_parse_rate is {self.config.min_parse_rate:.0%}): train SFT longer, or raise "
                f"rl_checkpoint.max_new_tokens ({self.config.max_new_tokens}; {first['rl/truncated_rate']:.0%} cut off)"
            )
        if first["rl/reward_mean"] in (0.0, 1.0):
            raise StageError(
                f"every one of the first completions earned {first['rl/reward_mean']:.0f}: there is nothing to learn "
                f"from; check the SFT checkpoint's eval report and the questions' difficulty"
            )
