"""Mixtures: what is in them, how often, and in an order that only the seed decides."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from aquarat_core.config import MixtureEntry
from aquarat_core.conversation import Conversation, Message
from aquarat_core.data.conversations import read_conversations, write_conversations
from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.question import Question, conversation
from aquarat_core.tasks.mixture import Mixture, Source, StoredConversations, TaskExamples, mix, whole
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
CHATS = {"identity": talk("identity", 10), "drills": talk("drills", 30)}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("sources")
    write_questions(folder / "train.parquet", QUESTIONS)
    for name, rows in CHATS.items():
        write_conversations(folder / f"{name}.parquet", rows)
    chats = {name: StoredConversations(folder / f"{name}.parquet") for name in CHATS}
    return {**chats, "aqua": TaskExamples(AQUA, folder.joinpath, "train")}


def conversations(mixture: Mixture) -> list[list[Message]]:
    """The conversations of all places."""
    different = [part.messages(i) for part in mixture.turns() for i in range(len(part))]
    return [different[number] for number in mixture.order]


def places(mixture: Mixture, sources: dict[str, Source]) -> list[tuple[str, str, int | None]]:
    """Source, id and seed of each place."""
    names = {id(source): name for name, source in sources.items()}
    ids = {name: [id for id, _ in source.copies(1)] for name, source in sources.items()}
    different = [
        (names[id(part.source)], ids[names[id(part.source)]][row], seed)
        for part in mixture.parts
        for row, seed in zip(part.rows.tolist(), part.copy_seeds, strict=True)
    ]
    return [different[number] for number in mixture.order]


def by_source(mixture: Mixture, sources: dict[str, Source]) -> Counter[str]:
    return Counter(name for name, _, _ in places(mixture, sources))


def test_repeat_limit_and_permutations_count(sources: dict[str, Source]) -> None:
    entries = (
        MixtureEntry(name="aqua", permutations=3),
        MixtureEntry(name="identity", repeat=4),
        MixtureEntry(name="drills", limit=7),
    )
    mixture = mix(entries, sources, seed=1)
    # 20 rationales hold in any order of options, 20 name a letter
    assert by_source(mixture, sources) == {"aqua": 20 * 3 + 20, "identity": 40, "drills": 7}
    found = places(mixture, sources)
    assert set(Counter(place for place in found if place[0] == "identity").values()) == {4}
    assert {id for name, id, _ in found if name == "drills"} == {f"drills-{i}" for i in range(7)}
    # What is repeated is read and rendered once.
    assert [len(part.rows) for part in mixture.parts] == [80, 10, 7]


def test_rows_at_the_beginning_can_be_skipped(sources: dict[str, Source]) -> None:
    """Contaminated rows are removed first and the rest is counted, as RL does when it takes its first questions."""

    def ids(*entries: MixtureEntry, without: dict[str, set[int]] | None = None) -> set[str]:
        return {name for _, name, _ in places(mix(entries, sources, 1, without), sources)}

    assert ids(MixtureEntry(name="drills", skip=7)) == {id for id, _ in sources["drills"].copies(1)} - {
        f"drills-{i}" for i in range(7)
    }
    assert ids(MixtureEntry(name="drills", skip=2, limit=3)) == {f"drills-{i}" for i in (2, 3, 4)}
    assert ids(MixtureEntry(name="drills", skip=2, limit=3), without={"drills": {0, 3}}) == {
        f"drills-{i}" for i in (4, 5, 6)
    }
    with pytest.raises(DataError, match="skips the first 10 rows of identity, which leaves none of them"):
        ids(MixtureEntry(name="identity", skip=10))


def test_the_first_copy_is_as_published_and_others_move_the_letter(sources: dict[str, Source]) -> None:
    mixture = mix((MixtureEntry(name="aqua", permutations=12),), sources, seed=1)
    copies: dict[str, list[list[Message]]] = {}
    for (_, name, seed), messages in zip(places(mixture, sources), conversations(mixture), strict=True):
        assert (messages == conversation(QUESTIONS[int(name[1:])])) or seed is not None
        copies.setdefault(name, []).append(messages)
    assert len(copies["q0"]) == 1 and len(copies["q1"]) == 12
    for q in QUESTIONS[1::2]:
        assert conversation(q) in copies[q.id]
        assert len({m[0]["content"] for m in copies[q.id]}) > 6
        for user, reply in copies[q.id]:
            letter = reply["content"][-1]
            assert f"\n{q.options[0]} = {letter}\n" in user["content"]


def test_answers_alone_are_other_rows_beside_the_solutions(sources: dict[str, Source]) -> None:
    entries = [MixtureEntry(name="aqua"), MixtureEntry(name="aqua", answer_only=True, permutations=2)]
    mixture = mix(entries, sources, seed=1)
    assert len(mixture.order) == 3 * len(QUESTIONS)  # without its rationale every row can be permuted
    replies = Counter(reply["content"] for _, reply in conversations(mixture))
    assert all(replies[conversation(q)[1]["content"]] for q in QUESTIONS)
    bare = [(user, reply["content"]) for user, reply in conversations(mixture) if "It is" not in reply["content"]]
    assert len(bare) == 2 * len(QUESTIONS)
    for user, reply in bare:
        line, answer = reply.split("\n")
        letter = answer.removeprefix("Answer: ")
        number = user["content"].split("\n")[0].removeprefix("What is ").removesuffix("?")
        assert line == f"{number} = {letter}" and f"\n{line}\n" in user["content"]
    alone = conversations(mix(entries[1:], sources, seed=1))
    assert alone == [[user, reply] for user, reply in conversations(mixture) if "It is" not in reply["content"]]


def test_answers_of_conversations_are_refused(sources: dict[str, Source]) -> None:
    with pytest.raises(DataError, match=r"asks for answers of drills alone \(answer_only\), but only tasks have them"):
        mix([MixtureEntry(name="drills", answer_only=True)], sources, seed=0)


def test_the_order_is_the_seeds_and_nothing_elses(sources: dict[str, Source]) -> None:
    entries = [MixtureEntry(name="aqua"), MixtureEntry(name="identity", repeat=2), MixtureEntry(name="drills")]
    first = places(mix(entries, sources, seed=5), sources)
    assert first == places(mix(entries[::-1], sources, seed=5), sources)
    assert first != places(mix(entries, sources, seed=6), sources)
    fewer = places(mix(entries[:2], sources, seed=5), sources)
    assert fewer == [place for place in first if place[0] != "drills"]
    assert first != sorted(first)


def test_the_order_is_that_of_the_hashes_of_source_row_and_copy(sources: dict[str, Source]) -> None:
    """The order that every version has given: a change of it would change every checkpoint."""
    entries = [MixtureEntry(name="aqua", permutations=2, repeat=2), MixtureEntry(name="identity", repeat=3)]
    copies = {q.id: 2 if i % 2 else 1 for i, q in enumerate(QUESTIONS)}
    keys = [f"aqua/{id}/{copy}" for id, n in copies.items() for copy in range(2 * n)]
    keys += [f"identity/{c.id}/{copy}" for c in CHATS["identity"] for copy in range(3)]
    keys.sort(key=lambda key: hashlib.blake2b(f"7\0{key}".encode(), digest_size=16).digest())
    found = places(mix(entries, sources, seed=7), sources)
    assert [f"{name}/{id}" for name, id, _ in found] == [key.rpartition("/")[0] for key in keys]
    moved = [key.startswith("aqua") and int(key[-1]) % copies[key.split("/")[1]] == 1 for key in keys]
    assert [seed is not None for _, _, seed in found] == moved and any(moved)


def test_sources_are_spread_over_the_order(sources: dict[str, Source]) -> None:
    mixture = mix([MixtureEntry(name="aqua"), MixtureEntry(name="drills")], sources, seed=2)
    half = Counter(name for name, _, _ in places(mixture, sources)[: len(mixture.order) // 2])
    assert 10 <= half["drills"] <= 20 and 14 <= half["aqua"] <= 26


def test_a_whole_source_is_in_its_own_order(sources: dict[str, Source]) -> None:
    assert conversations(whole(sources["drills"])) == [c.messages for c in CHATS["drills"]]
    assert conversations(whole(sources["aqua"])) == [conversation(q) for q in QUESTIONS]


def test_an_unknown_source_is_an_error_that_names_the_nearest(sources: dict[str, Source]) -> None:
    with pytest.raises(DataError, match=r"names 'drils': did you mean 'drills'\? there are aqua, drills, identity"):
        mix([MixtureEntry(name="drils")], sources, seed=0)
    with pytest.raises(DataError, match="names 'gsm8k': there are aqua, drills, identity"):
        mix([MixtureEntry(name="gsm8k")], sources, seed=0)


def test_conversations_survive_parquet(tmp_path: Path) -> None:
    write_conversations(tmp_path / "c.parquet", CHATS["drills"])
    assert read_conversations(tmp_path / "c.parquet") == CHATS["drills"]
    write_conversations(tmp_path / "none.parquet", [])
    assert read_conversations(tmp_path / "none.parquet") == []
