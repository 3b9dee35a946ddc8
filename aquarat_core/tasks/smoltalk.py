"""smol-smoltalk: general conversations for small models (Allal et al. 2025, arXiv 2502.02737)."""

from aquarat_core.conversation import Message
from aquarat_core.tasks.source import HubSource, Row, rows_of, text_of


def conversation(row: Row) -> list[Message] | None:
    """The row's messages; None unless user and assistant take turns, after at most one system message."""
    messages: list[Message] = [{"role": text_of(m, "role"), "content": _content(m)} for m in rows_of(row, "messages")]
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    regular = turns == ["user", "assistant"] * (len(turns) // 2)
    return messages if turns and regular and all(m["content"].strip() for m in messages) else None


def _content(message: Row) -> str:
    """The content, which may be blank: a blank one makes the conversation unusable but has the right type."""
    content = message.get("content")
    return content if isinstance(content, str) and not content.strip() else text_of(message, "content")


SOURCE = HubSource("HuggingFaceTB/smol-smoltalk", ("default",), "train", "test", ("messages",), conversation)
