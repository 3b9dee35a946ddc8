"""GSM8K as a task: the parser of numbers on hostile texts, parsers that the same table must fail, and the protocol."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import Conversation, assistant_message, user_message
from aquarat_core.data.conversations import write_conversations
from aquarat_core.errors import DataError, StageError
from aquarat_core.rl.preflight import check_reward
from aquarat_core.tasks.gsm8k import Gsm8kTask, conversation, number_text, parse_number, to_example
from aquarat_core.tasks.registry import load_task
from aquarat_core.tasks.task import Example, Grade
from aquarat_core.text.chat import render, render_prompt
from tests.factories import tokenizer

TASK = Gsm8kTask()
SOLUTION = "She sold 48/2 = 24 clips in May.\nIn all she sold 48+24 = 72.\n#### 72"


def row(i: int = 0, solution: str = SOLUTION) -> Conversation:
    return Conversation(
        f"train-{i:06d}", [user_message(f"How many clips are {i} and 72?"), assistant_message(solution)]
    )


EXAMPLE = to_example(row())

VALID = [
    ("#### 72", "72"),
    (SOLUTION, "72"),
    ("#### 72\n \n", "72"),
    ("#### 72.0", "72"),
    ("#### 72.00  ", "72"),
    ("#### 0", "0"),
    ("#### -0", "0"),
    ("#### -5", "-5"),
    ("#### 0.50", "0.5"),
    ("#### 1,200", "1200"),
    ("#### 109,200,000", "109200000"),
    ("#### 1200", "1200"),
    ("It costs $5 each, #1 in its class.\n#### 72", "72"),
]
INVALID = [
    "", " \n", "72", "The answer is 72", "Answer: 72", "####", "#### ",
    # another spelling of the marker
    "####72", "### 72", "##### 72", "## 72", " #### 72", "\t#### 72", "so #### 72", "#### \n72", "####\u00a072",
    "\uff03\uff03\uff03\uff03 72", "**#### 72**", "- #### 72", "#### **72**", "#### \\boxed{72}", "#### = 72",
    # units, signs, percent, fractions, words
    "#### $72", "#### 72$", "#### 72 dollars", "#### 72%", "#### 72.", "#### 72,", "#### +72", "#### 144/2",
    "#### 7.2e1", "#### 72 clips", "#### seventy-two", "#### x = 72", "#### (72)", "#### 0x48", "#### 70+2",
    "#### .5", "#### 5.", "#### \u2212 72", "#### - 72", "#### --72", "#### 1/2", "#### 72\u200b",
    "#### inf", "#### nan", "#### 072",
    # commas anywhere else
    "#### 7,2", "#### 1,20", "#### 1200,000", "#### 0,072", "#### ,072", "#### 1,200,", "#### 1.200,5", "#### 1 200",
    # digits of other scripts
    "#### \u0667\u0662", "#### \uff17\uff12",
    # more than one answer, the first, the last or both of them right
    "#### 72\n#### 73", "#### 73\n#### 72", "#### 72\n#### 72", "#### 71\n#### 72\n#### 73", "#### 72 or 73",
    "#### 72 #### 72", "## Step 1\n#### 72", "####\n#### 72",
    # text after it, and what a text only cites
    "#### 72\nThat is all.", "#### 72\n.", "#### 72 because 48+24 = 72", "End with #### and a number.",
    "#### 72<|assistant_end|>", "#### " + "9" * 40,
]  # fmt: skip
TABLE = [*VALID, *((text, None) for text in INVALID)]


@pytest.mark.parametrize(("text", "number"), TABLE)
def test_parse_number(text: str, number: str | None) -> None:
    parsed = parse_number(text)
    assert (None if parsed is None else number_text(parsed)) == number


def test_the_table_is_large_and_without_repeats() -> None:
    assert len({text for text, _ in TABLE}) == len(TABLE) > 80


def first_match(text: str) -> Decimal | None:
    match = re.search(r"#### (-?[0-9.,]*[0-9])", text)
    return Decimal(match[1].replace(",", "")) if match else None


def last_match(text: str) -> Decimal | None:
    found = re.findall(r"#### (-?[0-9][0-9,]*(?:\.[0-9]+)?)", text)
    return Decimal(found[-1].replace(",", "")) if found else None


def last_number(text: str) -> Decimal | None:
    found = re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text.replace(",", ""))
    return Decimal(found[-1]) if found else None


def unit_stripped(text: str) -> Decimal | None:
    match = re.fullmatch(r"####\s*\$?(-?[0-9,]+(?:\.[0-9]+)?)\s*(?:%|[a-z]+)?", text.rstrip().rpartition("\n")[2])
    return Decimal(match[1].replace(",", "") or "0") if match else None


def no_marker_count(text: str) -> Decimal | None:
    match = re.fullmatch(r"#### (-?[0-9]+)", text.rstrip().rpartition("\n")[2])
    return Decimal(match[1]) if match else None


FAULTY = [first_match, last_match, last_number, unit_stripped, no_marker_count]
Parser = Callable[[str], Decimal | None]


@pytest.mark.parametrize("faulty", FAULTY)
def test_the_table_fails_a_faulty_parser(faulty: Parser) -> None:
    assert [text for text, number in TABLE if str(faulty(text)) != str(number)]


@pytest.mark.parametrize("faulty", FAULTY)
def test_a_faulty_parser_is_never_trained_on(faulty: Parser) -> None:
    def reward(example: Example[Decimal], completion: str, ended: bool) -> Grade:
        number = faulty(completion) if ended else None
        return Grade(float(number == example.answer), number == example.answer, None)

    asked = [to_example(row(i)) for i in range(5)]
    check_reward(TASK, asked, tokenizer())
    with pytest.raises(StageError, match="but must pay none: the parser finds answers where there are none"):
        check_reward(TASK, asked, tokenizer(), reward)


@pytest.mark.parametrize(
    ("text", "ended", "answer", "reward"),
    [
        (SOLUTION, True, "72", 1.0),
        ("#### 72.0", True, "72", 1.0),
        ("#### 73", True, "73", 0.0),
        ("#### 72", False, None, 0.0),
        ("#### 71\n#### 72", True, None, 0.0),
        ("72", True, None, 0.0),
    ],
)
def test_an_equal_number_at_the_end_and_nothing_else_is_paid(
    text: str, ended: bool, answer: str | None, reward: float
) -> None:
    grade = TASK.grade(EXAMPLE, text, ended)
    assert (grade.answer, grade.reward, grade.correct) == (answer, reward, reward == 1.0)
    assert grade.notes == {"ambiguous": float("\n####" in text and text != SOLUTION)}


def test_worthless_completions_earn_nothing_and_a_target_earns_all() -> None:
    assert EXAMPLE.target is not None and TASK.grade(EXAMPLE, EXAMPLE.target, True).reward == 1.0
    for what, attempt in TASK.worthless(EXAMPLE).items():
        assert TASK.grade(EXAMPLE, attempt.text, attempt.ended).reward == 0.0, what
    assert TASK.grade(EXAMPLE, TASK.answer_text(EXAMPLE.reference), True).correct


def test_examples_come_from_the_file_that_chat_datasets_writes(tmp_path: Path) -> None:
    published = {
        "question": " How many? ",
        "answer": "48/2 = <<48/2=24>>24.\n24+1,000 = <<24+1000=1024>>1,024.\n#### 1,024",
    }
    write_conversations(tmp_path / "gsm8k.train.parquet", [Conversation("train-000007", conversation(published))])
    (example,) = load_task("gsm8k").examples(tmp_path.joinpath, "train")
    assert (example.id, example.prompt, example.reference) == ("train-000007", "How many?", "1024")
    assert (example.answer, example.choices) == (Decimal(1024), ())
    assert example.conversation()[-1] == conversation(published)[-1]
    assert [p["text"] for p in example.target_parts if p["type"] != "text"] == ["48/2", "24", "24+1000", "1024"]


def test_a_target_with_calls_is_graded_as_a_completion_that_makes_them() -> None:
    tok = tokenizer()
    published = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24.\n#### 24"}
    example = to_example(Conversation("a", conversation(published)))
    ids, _ = render(tok, example.conversation())
    completion = tok.decode(ids[len(render_prompt(tok, example.messages)) : -1])
    assert completion == example.target and "<|python_start|>48/2<|python_end|>" in completion
    assert TASK.grade(example, completion, True).correct
    check_reward(TASK, [example], tok)


CALL, OUTPUT = "<|python_start|>70+2<|python_end|>", "<|output_start|>72<|output_end|>"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (f"70+2 = {CALL}{OUTPUT}72\n#### 72", "72"),
        (f"{CALL}<|output_start|><|output_end|>\n#### 72", "72"),
        # a call instead of a number, and answers within calls
        (f"{CALL}{OUTPUT}", None),
        (f"#### {CALL}{OUTPUT}", None),
        (f"#### {CALL}{OUTPUT}72", None),
        (f"#### 72{CALL}{OUTPUT}", None),
        ("<|python_start|>#### 72<|python_end|>\n#### 72", None),
        ("<|python_start|>\n#### 72", "72"),
        ("<|output_start|>\n#### 72\n<|output_end|>", None),
    ],
)
def test_numbers_are_read_beside_calls_and_not_in_them(text: str, number: str | None) -> None:
    parsed = parse_number(text)
    assert (None if parsed is None else number_text(parsed)) == number


def test_open_answers_are_not_permuted_and_never_guessed() -> None:
    assert TASK.shown(EXAMPLE, 5) is EXAMPLE and not TASK.is_permutable(EXAMPLE)
    assert (TASK.chance(EXAMPLE), TASK.categories) == (0.0, ())


@pytest.mark.parametrize("solution", ["It is 72.", "#### 72\n#### 73", "#### many"])
def test_a_solution_without_its_answer_is_no_example(solution: str) -> None:
    with pytest.raises(
        DataError, match="train-000003 is not a GSM8K problem: its solution does not end in a line '#### '"
    ):
        to_example(row(3, solution))


def test_every_published_answer_is_read(shared: Path) -> None:
    files = sorted((shared / "hub/openai/gsm8k/main").glob("*.parquet"))
    if not files:
        pytest.skip("there is no copy of GSM8K beside the checkout")
    for file in files:
        for i, published in enumerate(pq.read_table(file).to_pylist()):
            said = published["answer"].rpartition("#### ")[2].replace(",", "")
            assert to_example(Conversation(f"{i}", conversation(published))).reference == said
