"""Conversations as Parquet, with calls of tools and without."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import Conversation, assistant_message, call_parts, parts_text, text_part, user_message
from aquarat_core.data.conversations import SCHEMA, WITH_PARTS, read_conversations, write_conversations
from aquarat_core.errors import DataError

PLAIN = Conversation("a", [user_message("Hi"), assistant_message("Hello")])
PARTS = [text_part("2+2 = "), *call_parts("2+2", "4"), text_part("4.")]
CALLING = Conversation("b", [user_message("2+2?"), assistant_message(parts_text(PARTS), PARTS)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for name, rows in {"none": [], "plain": [PLAIN], "calling": [CALLING], "both": [PLAIN, CALLING, PLAIN]}.items():
        write_conversations(tmp_path / name, rows)
        assert read_conversations(tmp_path / name) == rows


def test_parts_are_a_column_only_where_there_are_some(tmp_path: Path) -> None:
    write_conversations(tmp_path / "plain", [PLAIN])
    write_conversations(tmp_path / "both", [PLAIN, CALLING])
    assert pq.read_schema(tmp_path / "plain").names == SCHEMA.names == ["id", "messages"]
    assert pq.read_schema(tmp_path / "both").names == WITH_PARTS.names
    messages = pq.read_table(tmp_path / "both")["messages"].to_pylist()
    assert messages[1] == [{"role": m["role"], "content": m["content"]} for m in CALLING.messages]


def test_a_file_without_parts_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    write_conversations(tmp_path / "new", [PLAIN])
    columns = {"id": ["a"], "messages": [PLAIN.messages]}
    pq.write_table(pa.Table.from_pydict(columns, schema=SCHEMA), tmp_path / "old")
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()


def test_what_is_no_table_of_conversations_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "parts": [["x"]]}), tmp_path / "other")
    with pytest.raises(DataError, match="has no column messages: it is not a table of conversations"):
        read_conversations(tmp_path / "other")
    columns = {"id": ["a"], "messages": [PLAIN.messages], "parts": [[[]]]}
    pq.write_table(pa.Table.from_pydict(columns, schema=WITH_PARTS), tmp_path / "short")
    with pytest.raises(DataError, match="short: a has 2 messages but parts of 1"):
        read_conversations(tmp_path / "short")
