"""Which rows of a mixture contain a held-out question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aquarat_core.config import MixtureEntry
from aquarat_core.conversation import (
    Conversation,
    assistant_message,
    call_parts,
    parts_text,
    text_part,
    user_message,
)
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.mixed_documents import Document, Texts, write_mixed_documents
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.decontamination import (
    Contaminated,
    contaminated,
    contamination,
    counts,
    held_out_questions,
    searched,
)
from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.mixture import Source, StoredConversations, StoredDocuments, TaskExamples, mix
from aquarat_core.tasks.numeric import numeric_example
from aquarat_core.tasks.splits import question_of
from tests.factories import AQUA

TRAIN_TEXT = "A train 120 m long crosses a bridge 380 m long in 25 seconds at what steady speed in km per hour?"
TEST_TEXT = (
    "Seven painters paint nine equal fences in eleven days; how many days do three painters need for two fences?"
)
OPTIONS = ("10", "20", "30", "40", "50")


def question(name: str, text: str) -> Question:
    return Question(name, text, OPTIONS, "It is so.", "A")


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    examples = {"train": [question("t0", "Who are you, and what is your name, dear assistant of mine?")]}
    examples |= {"validation": [question("v0", TRAIN_TEXT)], "test": [question("e0", TEST_TEXT)]}
    return held_out_questions({"aqua": {split: [to_example(q) for q in found] for split, found in examples.items()}})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("sources")
    asked = ["Who are you, and what is your name, dear assistant of mine?", TEST_TEXT.upper(), "Say it again.", "Hi."]
    answers = ["aquarat", "26/9 days", f"Of course: {' '.join(TRAIN_TEXT.split()[2:17])}, that is all.", "Hello."]
    talks = [
        Conversation(f"c{i}", [user_message(a), assistant_message(b)])
        for i, (a, b) in enumerate(zip(asked, answers, strict=True))
    ]
    write_conversations(folder / "chats.train.parquet", talks)
    write_questions(folder / "train.parquet", [question("q0", "What is 1 + 1?"), question("q1", f"{TRAIN_TEXT} Tell.")])
    return {
        "chats": StoredConversations(folder / "chats.train.parquet"),
        "aqua": TaskExamples(AQUA, folder.joinpath, "train"),
    }


def test_questions_near_duplicates_and_runs_of_words_are_found(held_out: HeldOut, sources: dict[str, Source]) -> None:
    numbers, listed = contaminated(held_out, sources)
    assert numbers == {"chats": {1, 2}, "aqua": {1}}
    assert listed == [
        Contaminated("chats", "c1", "aqua/test/e0", "same_text"),
        Contaminated("chats", "c2", "aqua/validation/v0", "shares_13_words"),
        Contaminated("aqua", "q1", "aqua/validation/v0", "similar"),
    ]
    limited, some = contaminated(held_out, sources, {"chats": 1, "aqua": None})
    assert limited == {"chats": frozenset(), "aqua": {1}} and some == listed[2:], "c0 is clean, and one is enough"
    assert counts(listed, ["aqua", "chats", "others"]) == {
        "contaminated": 3, "contaminated_aqua": 1, "contaminated_chats": 2, "contaminated_others": 0,
        "contaminated_by_same_text": 1, "contaminated_by_shares_13_words": 1, "contaminated_by_similar": 1,
    }  # fmt: skip


def test_a_call_hides_no_run_of_words(held_out: HeldOut, tmp_path: Path) -> None:
    begins, ends = " ".join(TRAIN_TEXT.split()[:10]), " ".join(TRAIN_TEXT.split()[10:])
    parts = [text_part(f"It is {begins} "), *call_parts("1+1", "2"), text_part(ends)]
    example = replace(to_example(question("q0", "What is 1 + 1?")), target=parts_text(parts), target_parts=tuple(parts))
    assert contamination(held_out, searched(example)) == ("aqua/validation/v0", "shares_13_words")
    assert contamination(held_out, searched(replace(example, target_parts=()))) is None, "its text has the marks"
    reply = assistant_message(parts_text(parts), parts)
    write_conversations(tmp_path / "talks.parquet", [Conversation("c0", [user_message("Tell me."), reply])])
    (row,) = StoredConversations(tmp_path / "talks.parquet").searched()
    assert contamination(held_out, row) == ("aqua/validation/v0", "shares_13_words")


def test_documents_are_searched_line_by_line_and_as_a_whole(held_out: HeldOut, tmp_path: Path) -> None:
    texts = [
        "Trains. They cross bridges at a steady speed.\nNothing else.",
        f"A forum.\n{TEST_TEXT.replace('Seven', 'Six')}\nReply: it is easy.",
        f"Of course {' '.join(TRAIN_TEXT.split()[2:17])}, and so on.",
    ]
    pages = [Document(f"train-{i:06d}", text) for i, text in enumerate(texts)]
    write_mixed_documents(tmp_path / "pages.train.parquet", pages)
    sources = {"pages": StoredDocuments(tmp_path / "pages.train.parquet")}
    numbers, listed = contaminated(held_out, sources)
    assert numbers == {"pages": {1, 2}}
    assert [(row.row, row.held_out, row.rule) for row in listed] == [
        ("train-000001", "aqua/test/e0", "similar"),
        ("train-000002", "aqua/validation/v0", "shares_13_words"),
    ]
    mixture = mix([MixtureEntry(name="pages", repeat=2)], sources, 5, numbers)
    (part,) = mixture.turns()
    assert isinstance(part, Texts) and part.texts.to_pylist() == texts[:1] and mixture.order.tolist() == [0, 0]


def test_what_is_left_out_changes_nothing_else(held_out: HeldOut, sources: dict[str, Source]) -> None:
    numbers, _ = contaminated(held_out, sources)
    entries = [MixtureEntry(name="chats", repeat=2), MixtureEntry(name="aqua", permutations=3)]

    def said(mixture_without: dict[str, frozenset[int]] | None) -> list[str]:
        mixture = mix(entries, sources, 5, mixture_without)
        rows = [part.messages(i) for part in mixture.turns() for i in range(len(part))]
        return [rows[n][0]["content"] for n in mixture.order]

    def is_clean(text: str) -> bool:
        return not (text.startswith(TRAIN_TEXT) or text in (TEST_TEXT.upper(), "Say it again."))

    assert said(numbers) == [text for text in said(None) if is_clean(text)] and len(said(None)) == 14
    limited = mix([MixtureEntry(name="chats", limit=2)], sources, 5, numbers)
    assert [row.tolist() for row in (limited.parts[0].rows,)] == [[0, 3]], "the limit counts rows that are left"


def test_instructions_neither_hide_a_question_nor_make_others_alike() -> None:
    asked = "Ann has 3 bags of 12 sweets each, eats 4 of them and gives 5 to her brother, so how many has she now?"
    other = "Bob has a rope. How many has she now?"
    examples = [numeric_example("s0", asked, "27", "3 * 12 = 36")]
    held_out = held_out_questions({"sums": {"test": examples}})
    assert question_of(to_example(question("v0", TRAIN_TEXT))) == TRAIN_TEXT, "without its options"
    rows = [numeric_example(name, text, "1", "1") for name, text in (("same", asked.upper()), ("other", other))]
    assert contamination(held_out, searched(rows[0])) == ("sums/test/s0", "same_text")
    assert contamination(held_out, searched(rows[1])) is None
