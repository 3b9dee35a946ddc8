"""The objective that an update maximizes, in small functions of tensors; `compose` combines those that a config
selects.

Shapes: B completions, N completion tokens.
"""

from aquarat_core.rl.objective.compose import LossInputs, LossOutputs, objective
from aquarat_core.rl.objective.kl import kl_k1, kl_k3
from aquarat_core.rl.objective.reinforce import policy_loss

__all__ = ["LossInputs", "LossOutputs", "kl_k1", "kl_k3", "objective", "policy_loss"]
