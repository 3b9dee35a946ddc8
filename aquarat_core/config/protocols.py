"""The names of the ways in which a model can be evaluated (docs/evaluation.md)."""

from typing import Literal

EvalProtocol = Literal["greedy", "sampled", "letters", "continuations", "cued", "rotated"]
GREEDY: EvalProtocol = "greedy"
GENERATING: frozenset[EvalProtocol] = frozenset({"greedy", "sampled", "cued", "rotated"})
"""Those under which the model writes."""
OF_CHOICES: frozenset[EvalProtocol] = frozenset({"letters", "continuations", "cued", "rotated"})
"""Those that need options answered by letter."""
SINGLE: frozenset[EvalProtocol] = frozenset({"greedy", "letters", "continuations", "cued"})
"""Those that give one answer to each question."""
CORE: Literal["core"] = "core"
"""The tasks of CORE, which has prompts of its own."""
HARNESS: Literal["harness"] = "harness"
"""Tasks of lm-evaluation-harness, each asked as that program asks it."""
RecordedProtocol = EvalProtocol | Literal["core", "harness"]
"""The protocol of a record; the last two are no protocols of our tasks."""
