"""Probes what the model does at the answer's position, on a fixed batch of held-out questions with gold rationales.

Everything is measured at one position, the last before the letter, which is found on token ids. Probes run their own
forward pass without gradients, so they neither slow the training pass nor depend on how it is computed.

Only letter answers are probed, so a task without `categories` has no probes.

Shapes: B examples, L letters, H query heads, K key/value heads, T tokens, D head size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from aquarat_core.data.rows import pad
from aquarat_core.evaluation.interpret.batch import letter_context
from aquarat_core.evaluation.interpret.watching import attention_from, watch
from aquarat_core.evaluation.letters import letter_ids, letter_logits
from aquarat_core.model.transformer import Transformer
from aquarat_core.model.typed_torch import entropy_terms
from aquarat_core.runtime.distributed import World
from aquarat_core.tasks.task import A, Example, Task
from aquarat_core.text.tokenizer import Tokenizer

ROWS = 32
"""Examples in one pass."""


class Probes:
    """A fixed batch of examples, each cut off before its letter, and the reference's letter logits there."""

    def __init__(
        self,
        task: Task[A],
        examples: Sequence[Example[A]],
        tokenizer: Tokenizer,
        reference: Transformer,
        world: World,
    ) -> None:
        self.world, self.letters = world, task.categories
        self.ids = letter_ids(tokenizer, task) if self.letters else []
        room = reference.config.sequence_len
        made = [letter_context(task, e, tokenizer, self.ids) for e in examples] if self.ids else []
        mine = world.shard([c for c in made if c is not None and len(c.ids) <= room])
        self.contexts, self.gold = [c.ids for c in mine], [c.gold for c in mine]
        self.seconds = 0.0
        self.reference_BL = letter_logits(reference, self.contexts, self.ids, ROWS) if mine else None

    def metrics(self, policy: Transformer) -> dict[str, float]:
        """Means over the probed examples of all ranks:

        - `rl/kl_letter_mean`: KL(policy || start) in nats over the letters;
        - `rl/letter_margin_mean`: the policy's largest letter logit minus its second largest;
        - `rl/letter_entropy_mean`: in nats, ln L for a policy that knows nothing;
        - `rl/letter_acc`: share of examples whose most probable letter is right;
        - `attn/entropy_layer_N` and their mean: entropy of the attention from that position to the tokens before it,
          averaged over heads, as a share of its maximum ln t.
        """
        started = time.monotonic()
        sums = torch.zeros(5 + policy.config.depth, dtype=torch.float64, device=self.world.device)
        if self.reference_BL is not None:
            logits_BL = letter_logits(policy, self.contexts, self.ids, ROWS)
            gold_B = torch.tensor(self.gold, device=logits_BL.device)
            per_question = torch.stack(
                [
                    torch.ones_like(logits_BL[:, 0]),
                    letter_kl(logits_BL, self.reference_BL),
                    letter_margin(logits_BL),
                    letter_kl(logits_BL, torch.zeros_like(logits_BL)),
                    (logits_BL.argmax(dim=1) == gold_B).float(),
                ]
            )
            entropies = attention_entropies(policy, self.contexts)
            sums = torch.cat([per_question.double().sum(dim=1), entropies.double().sum(dim=1)])
        n, kl, margin, from_uniform, right, *attention = self.world.totals(sums)
        self.seconds += time.monotonic() - started
        if not n:
            return {}
        layers = {f"attn/entropy_layer_{i}": x / n for i, x in enumerate(attention)}
        return {
            "rl/kl_letter_mean": kl / n,
            "rl/letter_margin_mean": margin / n,
            "rl/letter_entropy_mean": math.log(len(self.letters)) - from_uniform / n,
            "rl/letter_acc": right / n,
            "attn/entropy_mean": sum(layers.values()) / len(layers),
            **layers,
        }


def letter_kl(logits_BL: Tensor, reference_BL: Tensor) -> Tensor:
    """KL [B] in nats between the softmax over the letters and the reference's."""
    logp, logq = torch.log_softmax(logits_BL, dim=1), torch.log_softmax(reference_BL, dim=1)
    return (logp.exp() * (logp - logq)).sum(dim=1)


def letter_margin(logits_BL: Tensor) -> Tensor:
    """The largest logit [B] minus the second largest."""
    top = logits_BL.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@torch.no_grad()
def attention_entropies(model: Transformer, contexts: Sequence[Sequence[int]]) -> Tensor:
    """[layers, B]: entropy of the last token's attention, averaged over heads, as a share of ln t (0 for t = 1)."""
    parts = [contexts[start : start + ROWS] for start in range(0, len(contexts), ROWS)]
    return torch.cat([_entropies(model, part) for part in parts], dim=1)


def _entropies(model: Transformer, contexts: Sequence[Sequence[int]]) -> Tensor:
    lengths_B = torch.tensor([len(c) for c in contexts], device=model.cos.device)
    entropies: list[Tensor] = []

    def look(_layer: int, q_BHTD: Tensor, k_BKTD: Tensor, window: int) -> None:
        a_BHT = attention_from(q_BHTD, k_BKTD, lengths_B - 1, window)
        entropy_B = entropy_terms(a_BHT).sum(dim=2).mean(dim=1)
        entropies.append(entropy_B / lengths_B.clamp(min=2, max=window).float().log())

    watch(model, pad(contexts).to(model.cos.device), look)
    return torch.stack(entropies)
