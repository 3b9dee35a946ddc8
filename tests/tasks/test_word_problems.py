"""The generated problems: right answers, five distinct options, no favoured letter, no held-out problem told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import Part, parts_text
from aquarat_core.tasks.aqua.files import read_questions, write_questions
from aquarat_core.tasks.aqua.question import LETTERS, Question, option_lines, target
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.aqua.task import AquaTask, to_example
from aquarat_core.tasks.option_order import letter_free
from aquarat_core.tasks.word_problems import FAMILIES, generate_drills, generate_text, is_held_out

EQUATION = re.compile(r"(\d+)(?: ([-+*/]) |% of )(\d+) = (\d+)\.")
N = 3000


@pytest.fixture(scope="module")
def train() -> list[Question]:
    return generate_questions(N, seed=1)


@pytest.fixture(scope="module")
def held_out() -> list[Question]:
    return generate_questions(N, seed=2, held_out=True)


def value(a: str, operator: str | None, b: str) -> Fraction:
    x, y = Fraction(a), Fraction(b)
    match operator:
        case "+":
            return x + y
        case "-":
            return x - y
        case "*":
            return x * y
        case "/":
            return x / y
        case _:
            return x * y / 100


def solved(q: Question) -> int:
    """The answer worked out from the question's own words."""
    n = [int(x) for x in re.findall(r"\d+", q.question)]
    text = q.question
    if "gives away" in text:
        return n[0] + n[1] - n[2]
    if "boxes of" in text:
        return n[0] + n[1] * n[2]
    if text.startswith("What is the average"):
        return sum(n) // 3
    if text.startswith("What is"):
        return n[0] * n[1] // 100
    if "falls by" in text:
        return n[0] * (100 - n[1]) // 100
    if "in the ratio" in text:
        return n[0] * n[1] // (n[1] + n[2])
    if text.startswith("A train"):
        return n[0] // n[1]
    if text.startswith("A car"):
        return n[0] * n[1]
    if "build a wall" in text:
        return n[0] * n[1] // n[2]
    assert "years older" in text, f"what kind of question is this? {text}"
    return sum(n)


def number(option: str) -> int:
    return int(re.match(r"\d+", option)[0])


def test_the_right_option_is_the_answer(train: list[Question], held_out: list[Question]) -> None:
    for q in train + held_out:
        assert number(q.options[q.gold]) == solved(q), q


def test_rationales_give_the_answer_by_equations_that_hold_or_by_itself(train: list[Question]) -> None:
    n_worked = 0
    for q in train:
        answer = number(q.options[q.gold])
        assert letter_free(q.rationale, 5)
        if q.rationale == f"It is {answer}.":
            continue
        equations = EQUATION.findall(q.rationale)
        assert EQUATION.sub("", q.rationale).strip() == "", f"not an equation: {q.rationale}"
        for a, operator, b, result in equations:
            assert value(a, operator, b) == int(result), q.rationale
        assert int(equations[-1][-1]) == answer
        n_worked += 1
    assert N / 4 < n_worked <= N


def test_options_are_five_distinct_positive_numbers(train: list[Question]) -> None:
    for q in train:
        values = [number(o) for o in q.options]
        assert len(set(values)) == 5 and min(values) > 0, q
        assert q.options == tuple(map(str, values))


def chi_square(counts: Counter, n: int, kinds: int) -> float:
    return sum((counts[k] - n / kinds) ** 2 / (n / kinds) for k in counts)


def test_letters_and_families_are_uniform(train: list[Question], held_out: list[Question]) -> None:
    for questions in (train, held_out):
        assert chi_square(Counter(q.correct for q in questions), N, 5) < 25.0  # chi-square of 4 at p = 5e-5
    assert {q.family for q in train} == set(FAMILIES)
    assert {q.level for q in train} == {1, 2, 3}
    for letter in LETTERS:
        assert Counter(q.correct for q in train)[letter] > N / 6


def test_guessing_by_size_earns_little(train: list[Question]) -> None:
    ranks = Counter(sorted(map(number, q.options)).index(number(q.options[q.gold])) for q in train)
    assert max(ranks.values()) < N * 0.28, ranks


def test_held_out_problems_are_told_nowhere(train: list[Question], held_out: list[Question]) -> None:
    secret = {q.question for q in held_out}
    assert len(secret) > N / 4
    assert not secret & {q.question for q in train}
    assert all(is_held_out(question) for question in secret)
    documents = generate_text(2000, seed=5) + [m["content"] for c in generate_drills(2000, seed=6) for m in c]
    told = "\n".join(documents).splitlines()
    assert not secret & set(told)
    # The same check finds what is told: training problems do come back in the texts.
    assert len({q.question for q in train} & set(told)) > 20


def test_text_is_problems_solved_and_facts_that_hold() -> None:
    documents = generate_text(600, seed=3)
    problems = [d for d in documents if "\nIt is " in d]
    assert 0.15 < len(problems) / 600 < 0.7
    for d in documents:
        for a, operator, b, result in EQUATION.findall(d):
            assert value(a, operator, b) == int(result), d
    for d in problems:
        question, rationale, answer = d.split("\n")
        steps = EQUATION.findall(rationale)
        assert number(answer.removeprefix("It is ")) == int(steps[-1][-1])
        q = Question("", question, (), rationale, "A")
        assert solved(q) == int(steps[-1][-1])


def looked_up(text: str) -> int:
    """How many of the text's options are found again by their value; every one must be found right."""
    values = [line.partition(" = ")[0] for line in text.split("\n")[:5]]
    assert text.startswith(option_lines(values)) and len(set(values)) == 5, text
    found = re.findall(r"^(\d+.*) = ([A-E])\nAnswer: ([A-E])$", text, re.MULTILINE)
    assert all(LETTERS[values.index(value)] == letter == again for value, letter, again in found), text
    return len(found)


def test_option_sheets_are_read_off_right() -> None:
    sheets = [d for d in generate_text(600, seed=3) if "Answer: " in d]
    assert len(sheets) > 60
    assert all(looked_up(sheet) >= 5 for sheet in sheets)


def test_drills_are_a_plain_answer_or_a_letter_read_off() -> None:
    letters = Counter()
    for user, assistant in generate_drills(1000, seed=4):
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        asked, said = user["content"], assistant["content"]
        if asked.startswith("Which option is"):
            value, letter, _ = re.fullmatch(r"(\d+.*) = ([A-E])\nAnswer: ([A-E])", said).groups()
            first, _, options = asked.partition("\n")
            assert first == f"Which option is {value}?" and looked_up(f"{options}\n{said}") == 1
            letters[letter] += 1
        else:
            answer = said.split("\n")[1].removeprefix("It is ")
            assert number(answer) == solved(Question("", asked, (), "", "A")) and "Answer:" not in said
    assert 400 < letters.total() < 600
    assert len(letters) == 5 and chi_square(letters, letters.total(), 5) < 25.0


def without_calls(parts: Sequence[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def test_calls_are_an_option_and_change_nothing_else() -> None:
    plain, calling = (generate_drills(300, seed=6, calculator_calls=calls) for calls in (False, True))
    n_calling = 0
    for (asked, said), (asked_too, calls) in zip(plain, calling, strict=True):
        assert asked == asked_too and "parts" not in said
        if "parts" not in calls:
            assert calls == said
            continue
        n_calling += 1
        assert without_calls(calls["parts"]) == said["content"] and parts_text(calls["parts"]) == calls["content"]
    assert n_calling == sum("It is" in said["content"] for _, said in plain) > 100


def test_questions_with_calls_are_the_same_questions(tmp_path: Path) -> None:
    plain, calling = (generate_questions(200, seed=4, calculator_calls=calls) for calls in (False, True))
    for q, calls in zip(plain, calling, strict=True):
        example = to_example(calls)
        assert replace(calls, rationale=q.rationale, rationale_parts=()) == q
        assert example.target == parts_text(example.target_parts) == target(calls)
        assert without_calls(example.target_parts) == target(q) and to_example(q).target_parts == ()
        equations = EQUATION.findall(q.rationale)
        outputs = [part["text"] for part in example.target_parts if part["type"] == "output"]
        assert outputs == [result for *_, result in equations]
        assert AquaTask().grade(example, example.target, True).correct
        assert AquaTask().is_permutable(example)
        shown = AquaTask().shown(example, 3)
        assert shown.target == parts_text(shown.target_parts)
    for rows in (plain, calling):
        write_questions(tmp_path / "questions.parquet", rows)
        assert read_questions(tmp_path / "questions.parquet") == rows
        columns = pq.read_schema(tmp_path / "questions.parquet").names
        assert ("rationale_parts" in columns) == (rows is calling)


@pytest.mark.parametrize("make", [generate_questions, generate_text, generate_drills])
def test_row_i_of_a_seed_is_the_same_however_many_are_asked_for(make) -> None:
    assert make(40, seed=7)[:10] == make(10, seed=7)
    assert make(10, seed=7) != make(10, seed=8)


def test_families_and_level_are_those_asked_for() -> None:
    questions = generate_questions(300, seed=1, families=("speed", "age"), max_level=1)
    assert {q.family for q in questions} == {"speed", "age"} and {q.level for q in questions} == {1}
    ages = [q for q in questions if q.family == "age"]
    assert max(int(x) for q in ages for x in re.findall(r"is (\d+)", q.question)) == 6


def test_an_unknown_family_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="unknown problem families algebra: choose from arithmetic, percent, "):
        generate_questions(1, seed=1, families=("age", "algebra"))
