"""Mixtures: what is in them, how often, and in an order that only the seed decides."""

from collections import Counter

import pytest

from aquarat_core.config import MixtureEntry
from aquarat_core.conversation import Conversation
from aquarat_core.data.conversations import read_conversations, write_conversations
from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.question import Question, conversation
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.mixture import mix
from tests.factories import AQUA


def talk(name: str, n: int) -> list[Conversation]:
    return [
        Conversation(
            f"{name}-{i}",
            [{"role": "user", "content": f"{name} {i}?"}, {"role": "assistant", "content": f"{name} {i}."}],
        )
        for i in range(n)
    ]


QUESTIONS = [
    Question(f"q{i}", f"What is {i}?", tuple(str(i + k) for k in range(5)), rationale, "A")
    for i, rationale in enumerate(["It is A.", "It is plain."] * 20)
]
EXAMPLES = [to_example(q) for q in QUESTIONS]
SOURCES = {"identity": talk("identity", 10), "drills": talk("drills", 30)}


def by_source(rows: list[Conversation]) -> Counter[str]:
    return Counter(c.id.split("/")[0] for c in rows)


def test_repeat_limit_and_permutations_count() -> None:
    entries = (
        MixtureEntry(name="aqua", permutations=3),
        MixtureEntry(name="identity", repeat=4),
        MixtureEntry(name="drills", limit=7),
    )
    rows = mix(entries, AQUA, EXAMPLES, SOURCES, seed=1)
    # 20 rationales hold in any order of options, 20 name a letter
    assert by_source(rows) == {"aqua": 20 * 3 + 20, "identity": 40, "drills": 7}
    assert len({c.id for c in rows}) == len(rows)
    assert {c.messages[0]["content"] for c in rows if c.id.startswith("drills")} == {f"drills {i}?" for i in range(7)}


def test_the_first_copy_is_as_published_and_others_move_the_letter() -> None:
    rows = mix((MixtureEntry(name="aqua", permutations=12),), AQUA, EXAMPLES, {}, seed=1)
    copies = {c.id: c.messages for c in rows}
    assert all(copies[f"aqua/{q.id}/0"] == conversation(q) for q in QUESTIONS)
    assert "aqua/q0/1" not in copies
    for q in QUESTIONS[1::2]:
        shown = [copies[f"aqua/{q.id}/{k}"] for k in range(12)]
        assert len({m[0]["content"] for m in shown}) > 6
        for user, reply in shown:
            letter = reply["content"][-1]
            assert f"\n{q.options[0]} = {letter}\n" in user["content"]


def test_the_order_is_the_seeds_and_nothing_elses() -> None:
    entries = [MixtureEntry(name="aqua"), MixtureEntry(name="identity", repeat=2), MixtureEntry(name="drills")]
    first = [c.id for c in mix(entries, AQUA, EXAMPLES, SOURCES, seed=5)]
    assert first == [c.id for c in mix(entries[::-1], AQUA, EXAMPLES[::-1], SOURCES, seed=5)]
    assert first != [c.id for c in mix(entries, AQUA, EXAMPLES, SOURCES, seed=6)]
    fewer = [c.id for c in mix(entries[:2], AQUA, EXAMPLES, SOURCES, seed=5)]
    assert fewer == [i for i in first if not i.startswith("drills")]
    assert first != sorted(first)


def test_sources_are_spread_over_the_order() -> None:
    rows = mix([MixtureEntry(name="aqua"), MixtureEntry(name="drills")], AQUA, EXAMPLES, SOURCES, seed=2)
    half = by_source(rows[: len(rows) // 2])
    assert 10 <= half["drills"] <= 20 and 14 <= half["aqua"] <= 26


def test_an_unknown_source_is_an_error() -> None:
    with pytest.raises(DataError, match="names 'gsm8k'; there are aqua, drills, identity"):
        mix([MixtureEntry(name="gsm8k")], AQUA, EXAMPLES, SOURCES, seed=0)


def test_conversations_survive_parquet(tmp_path) -> None:
    write_conversations(tmp_path / "c.parquet", SOURCES["drills"])
    assert read_conversations(tmp_path / "c.parquet") == SOURCES["drills"]
    write_conversations(tmp_path / "none.parquet", [])
    assert read_conversations(tmp_path / "none.parquet") == []
