"""What an update maximises, each part a small function of tensors; `compose` puts together what the config asks for.

Shapes: B completions, N completion tokens.
"""

from aquarat_core.rl.objective.compose import LossInputs, LossOutputs, objective
from aquarat_core.rl.objective.kl import kl_k1, kl_k3
from aquarat_core.rl.objective.reinforce import policy_loss

__all__ = ["LossInputs", "LossOutputs", "kl_k1", "kl_k3", "objective", "policy_loss"]
