"""HumanEval: Python functions to complete (Chen et al. 2021, arXiv 2107.03374). It has no training split."""

from aquarat_core.conversation import Message
from aquarat_core.tasks.source import HubSource, Row, text_of


def conversation(row: Row) -> list[Message]:
    """The reply is the whole function, so that it can be run as it stands."""
    prompt, solution = text_of(row, "prompt"), text_of(row, "canonical_solution")
    return [
        {"role": "user", "content": f"Complete this Python function.\n```python\n{prompt.strip()}\n```"},
        {"role": "assistant", "content": f"```python\n{prompt}{solution.rstrip()}\n```"},
    ]


SOURCE = HubSource(
    "openai/openai_humaneval", ("openai_humaneval",), None, "test", ("prompt", "canonical_solution"), conversation
)
