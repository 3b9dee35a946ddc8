"""smol-smoltalk: general conversations for small models (Allal et al. 2025, arXiv 2502.02737)."""

from aquarat_core.tasks.aqua import Message
from aquarat_core.tasks.source import HubSource, Row


def conversation(row: Row) -> list[Message] | None:
    """The row's messages; None unless user and assistant take turns, after at most one system message."""
    messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    regular = turns == ["user", "assistant"] * (len(turns) // 2)
    return messages if turns and regular and all(m["content"].strip() for m in messages) else None


SOURCE = HubSource("HuggingFaceTB/smol-smoltalk", ("default",), "train", "test", ("messages",), conversation)
