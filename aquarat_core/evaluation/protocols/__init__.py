"""How a checkpoint is asked: one file for each way, over any task that supports it.

- `generating`: greedy answers and samples, graded by their task
- `scoring`: the likelihood of the letters, of the options' texts, and of the letters after the model's own solution
- `rotating`: greedy answers under every cyclic order of the options
- `evaluator`: a checkpoint on the ranks of a stage, by which all of them are reached, and bits per byte
"""

from aquarat_core.evaluation.protocols.evaluator import Evaluator, evaluator
from aquarat_core.evaluation.protocols.generating import accuracy, answer, fitting

__all__ = ["Evaluator", "accuracy", "answer", "evaluator", "fitting"]
