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
"""Of the records of CORE, which has prompts of its own and is no protocol of a task."""
RecordedProtocol = EvalProtocol | Literal["core"]
