"""Questions about spelling: right, held out by word, and graded like other numbers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from aquarat_core.conversation import Conversation
from aquarat_core.data.conversations import write_conversations
from aquarat_core.rl.preflight import check_reward
from aquarat_core.tasks.calculator import calculate
from aquarat_core.tasks.registry import load_task
from aquarat_core.tasks.spelling import HELD_OUT_SHARE, QUESTIONS, generate_spelling, is_held_out
from aquarat_core.tasks.words import WORDS
from tests.factories import tokenizer

N = 1500


def asked(row: Conversation) -> tuple[str, str]:
    """Word and letter of a question."""
    question = row.messages[0]["content"]
    letter = re.search("'([a-z])'", question)
    (word,) = set(re.findall("[a-z]+", question)) & set(WORDS) - {"letter", "times", "count"} or {"letter"}
    return word, letter[1]


@pytest.fixture(scope="module")
def train() -> list[Conversation]:
    return generate_spelling(N, seed=1)


def test_words_are_many_plain_and_different() -> None:
    assert len(set(WORDS)) == len(WORDS) > 500
    assert all(re.fullmatch("[a-z]{4,}", word) for word in WORDS)
    assert len(QUESTIONS) == len(set(QUESTIONS))


def test_the_solution_spells_the_word_and_counts_right(train: list[Conversation]) -> None:
    for row in train:
        word, letter = asked(row)
        spelled, counting, answer = row.messages[1]["content"].split("\n")
        assert spelled == f"{word} is spelled {', '.join(word)}."
        count = sum(x == letter for x in word)
        assert answer == f"#### {count}"
        so_far = re.findall(r"([a-z]) (\d+)(?=[,.])", counting)
        assert "".join(x for x, _ in so_far) == word and int(so_far[-1][1]) == count
        assert [int(n) for _, n in so_far] == [word[: i + 1].count(letter) for i in range(len(word))]


def test_with_calls_the_calculator_counts() -> None:
    for row in generate_spelling(200, seed=1, calculator_calls=True):
        word, letter = asked(row)
        call, output = [p["text"] for p in row.messages[1]["parts"] if p["type"] != "text"]
        assert call == f"'{word}'.count('{letter}')" and output == calculate(call) == str(word.count(letter))
        assert row.messages[1]["content"].endswith(f"{output}.\n#### {output}")


def test_calls_do_not_change_the_questions(train: list[Conversation]) -> None:
    calling = generate_spelling(N, seed=1, calculator_calls=True)
    assert [row.messages[0] for row in calling] == [row.messages[0] for row in train]


def test_held_out_words_are_never_trained_on(train: list[Conversation]) -> None:
    held_out = generate_spelling(N, seed=1, held_out=True)
    words = [{asked(row)[0] for row in rows} for rows in (train, held_out)]
    assert not words[0] & words[1] and all(map(is_held_out, words[1]))
    assert 0.5 < len(words[1]) * HELD_OUT_SHARE / len(WORDS) < 1.5
    assert not {row.id for row in train} & {row.id for row in held_out}


def test_no_constant_answer_is_right_most_of_the_time(train: list[Conversation]) -> None:
    answers = Counter(row.messages[1]["content"].rpartition(" ")[2] for row in train)
    assert max(answers.values()) < N / 2 and len(answers) >= 4


def test_row_i_of_a_seed_is_the_same_however_many_are_asked_for(train: list[Conversation]) -> None:
    assert generate_spelling(10, seed=1) == train[:10] != generate_spelling(10, seed=2)


@pytest.mark.parametrize("calculator_calls", [False, True])
def test_the_task_reads_the_file_and_its_reward_passes_preflight(tmp_path: Path, calculator_calls: bool) -> None:
    write_conversations(tmp_path / "spelling.test.parquet", generate_spelling(20, 1, calculator_calls, held_out=True))
    task = load_task("spelling")
    examples = task.examples(tmp_path.joinpath, "test")
    assert len(examples) == 20 and all(bool(e.target_parts) == calculator_calls for e in examples)
    for e in examples:
        assert e.reference == str(calculate(f"{e.reference}+0"))
        assert task.grade(e, e.target, True).correct and task.grade(e, f"#### {e.reference}", True).correct
        assert not task.grade(e, f"#### {int(e.reference) + 1}", True).correct
    check_reward(task, examples, tokenizer())
