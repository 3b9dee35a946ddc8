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
from aquarat_core.evaluation.letters import letter_ids, letter_logits
from aquarat_core.model.transformer import Transformer, attend
from aquarat_core.model.typed_torch import entropy_terms
from aquarat_core.runtime.distributed import World
from aquarat_core.tasks.task import A, Example, Task
from aquarat_core.text.chat import render
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
        room, L = reference.config.sequence_len, len(self.letters)
        lettered = [e for e in examples if L and len(e.choices) == L and task.is_permutable(e)]
        gold = [self.letters.index(e.reference) for e in lettered]
        rendered = [(g, *_before_letter(e, tokenizer, self.ids[g])) for g, e in zip(gold, lettered, strict=True)]
        mine = world.shard([(g, context) for g, context, found in rendered if found and len(context) <= room])
        self.contexts, self.gold = [context for _, context in mine], [g for g, _ in mine]
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


def _before_letter(example: Example[object], tokenizer: Tokenizer, letter_id: int) -> tuple[list[int], bool]:
    """The conversation's ids up to the one before the letter, and whether the letter is where it is expected."""
    whole, _ = render(tokenizer, example.conversation())
    *context, letter, _ = whole  # the last one is the end token
    return context, letter == letter_id


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
    found: list[Tensor] = []
    for start in range(0, len(contexts), ROWS):
        part = contexts[start : start + ROWS]
        watching = _Watching(torch.tensor([len(c) for c in part], device=model.cos.device))
        model.hidden(pad(part).to(model.cos.device), watching)
        found.append(torch.stack(watching.entropies))
    return torch.cat(found, dim=1)


class _Watching:
    """A cache that computes causal attention as in training and records the attention of each row's last query."""

    is_prefill = False

    def __init__(self, lengths_B: Tensor) -> None:
        self.lengths_B = lengths_B
        self.entropies: list[Tensor] = []

    def positions(self, n: int) -> Tensor:
        return torch.arange(n, device=self.lengths_B.device)[None]

    def ids_before(self, n: int) -> tuple[Tensor, Tensor]:
        ids = self.lengths_B.new_zeros((len(self.lengths_B), n))
        return ids, torch.zeros_like(ids, dtype=torch.bool)

    def advance(self, ids_BT: Tensor) -> None:
        pass

    def write(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        self.k_BKTD, self.v_BKTD = k_BKTD, v_BKTD

    def attend(self, layer: int, q_BHTD: Tensor, window: int) -> Tensor:
        B, H, T, D = q_BHTD.shape
        last_BHD = q_BHTD[torch.arange(B, device=q_BHTD.device), :, self.lengths_B - 1].float()
        k_BHTD = self.k_BKTD.float().repeat_interleave(H // self.k_BKTD.size(1), dim=1)
        scores_BHT = (k_BHTD @ last_BHD[..., None]).squeeze(3) * D**-0.5
        before_BT = self.lengths_B[:, None] - 1 - torch.arange(T, device=q_BHTD.device)
        unseen_BT = (before_BT < 0) | (before_BT >= window)
        a_BHT = torch.softmax(scores_BHT.masked_fill(unseen_BT[:, None], -torch.inf), dim=2)
        entropy_B = entropy_terms(a_BHT).sum(dim=2).mean(dim=1)
        self.entropies.append(entropy_B / self.lengths_B.clamp(min=2, max=window).float().log())
        return attend(q_BHTD, self.k_BKTD, self.v_BKTD, window)
