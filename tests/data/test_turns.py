"""Files of conversations, read part by part: the same conversations, by row and all together; damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import Conversation
from aquarat_core.data import parquet
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.turns import ConversationFile, Turns
from aquarat_core.errors import DataError

ROLES = ("user", "assistant", "user")
ROWS = [
    Conversation(f"c{i}", [{"role": role, "content": f"é{i}.{k} " * (i % 5)} for k, role in enumerate(ROLES[: i % 4])])
    for i in range(500)
]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is read in many parts."""
    monkeypatch.setattr(parquet, "PART_BYTES", 1_000)
    write_conversations(tmp_path / "c.parquet", ROWS)
    return tmp_path / "c.parquet"


def test_rows_are_found_in_any_order(path: Path) -> None:
    file = ConversationFile(path)
    assert (len(file), list(file.ids())) == (500, [c.id for c in ROWS])
    for row in (3, 4, 200, 499, 0, 77, 77, 12):
        (part,) = file.turns(np.array([row]))
        assert part.messages(0) == ROWS[row].messages


@pytest.mark.parametrize("rows", [range(500), range(0, 500, 3), [], [499], range(7)])
def test_rows_come_in_parts(path: Path, rows: list[int]) -> None:
    parts = list(ConversationFile(path).turns(np.array(rows, np.int64)))
    assert [part.messages(i) for part in parts for i in range(len(part))] == [ROWS[i].messages for i in rows]
    assert len(parts) > 10 or len(rows) < 10


def test_columns_and_objects_are_the_same() -> None:
    turns = Turns.of([c.messages for c in ROWS])
    assert [turns.messages(i) for i in range(len(turns))] == [c.messages for c in ROWS]
    some = turns.take(np.array([0, 3, 499]))
    assert [some.messages(i) for i in range(3)] == [ROWS[i].messages for i in (0, 3, 499)]


def test_what_is_no_file_of_conversations_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"x\.parquet is damaged, or not a Parquet file"):
        len(ConversationFile(path))
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), path)
    with pytest.raises(DataError, match=r"x\.parquet has no column messages: it is not a table of conversations"):
        len(ConversationFile(path))
    pq.write_table(pa.table({"id": ["a"], "messages": [[{"role": "user", "content": None}]]}), path)
    with pytest.raises(DataError, match=r"does not hold a table of conversations \(a role or a text is missing"):
        list(ConversationFile(path).turns(np.arange(1)))
