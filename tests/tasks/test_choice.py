"""The answer parser on a table of adversarial texts, and parsers with known faults that the same table must fail."""

import re

import pytest

from aquarat_core.tasks.aqua.question import LETTERS, Question, parse_answer, prompt, target
from aquarat_core.tasks.choice import count_markers

QUESTION = Question("q", "What is 2 + 2?", ("1", "2", "3", "4", "5"), "2 + 2 = 4.", "D")

VALID = [
    ("Answer: A", "A"),
    ("Answer: E", "E"),
    ("2 + 2 = 4.\nAnswer: D", "D"),
    ("2 + 2 = 4.\n\nAnswer: D\n", "D"),
    ("A man walks 5 km.\nAnswer: C", "C"),
    ("Let B be the speed. B = 3.\r\nAnswer: C\r\n", "C"),
    ("The answer is not A, so it is B.\nAnswer: B  \n \n", "B"),
    ("Do not answer early.\nAnswer: E", "E"),
]

INVALID = [
    # no marker at all
    "",
    " \n ",
    "A",
    "B.",
    "A man walks 5 km",
    "First, a train leaves at noon",
    "The answer is B",
    "The answer is B.",
    "I choose option C",
    # what the English article, or the first letter of a word, would be paid for
    "The answer: cannot be determined",
    "Answer - Do the sum",
    "Answer: All of the above",
    "Answer: because",
    "answer - cannot say",
    "Answer: a",
    "Answer: A man",
    "Answer: Every",
    "Answer: Be careful",
    # several markers, agreeing or not
    "Answer: A Answer: B",
    "Answer: A Answer: B Answer: C Answer: D Answer: E",
    "Answer: A\nAnswer: B",
    "Answer: B\nAnswer: B",
    "Answer: B? no.\nAnswer: C",
    "answer: B\nAnswer: C",
    "ANSWER : B\nAnswer: C",
    "Answer: 42\nAnswer: D",
    "Answer\uff1aA\nAnswer: D",
    # several letters, or none
    "Answer: A or B",
    "Answer: A, B",
    "Answer: AB",
    "Answer: A B",
    "Answer: A/B",
    "Answer: ABCDE",
    "Answer:",
    "Answer: ",
    "Answer: F",
    "Answer: Z",
    "Answer: 42",
    "Answer: 4",
    "#### 4",
    "2 + 2 = 4\n#### 4",
    # another spelling
    "answer: B",
    "ANSWER: B",
    "Answer: b",
    "Answer:B",
    "Answer : B",
    "Answer:  B",
    "Answer:\tB",
    "Answer:\nB",
    "Answer is B",
    "Answer: (B)",
    "Answer: B)",
    "Answer: B.",
    "Answer: **B**",
    "**Answer: B**",
    "**Answer:** B",
    "Answer: Option B",
    "Answer: \\boxed{B}",
    "- Answer: B",
    " Answer: B",
    "\tAnswer: B",
    "Final Answer: B",
    "So Answer: B",
    # look-alikes: Cyrillic A, Greek B, full-width B, full-width colon, no-break space, zero-width space, combining mark
    "Answer: \u0410",
    "Answer: \u0392",
    "Answer: \uff22",
    "Answer\uff1a B",
    "Answer:\u00a0B",
    "Answer: \u200bB",
    "Answer: B\u200b",
    "Answer: B\u0301",
    "\u0410nswer: B",
    "text\u2028Answer: B",
    "text\x0bAnswer: B",
    "text\rAnswer: B",
    # text after it
    "Answer: B because 2 + 2 = 4",
    "Answer: B\nThat is all.",
    "Answer: B\n.",
    "Answer: B\n\nA) 1",
    "Answer: D) 4",
    "Answer: D 4",
    "Answer: B<|assistant_end|>",
    "Answer: B<|bos|>",
    "<|assistant_start|>Answer: B",
    # echoes
    prompt(QUESTION),
    prompt(QUESTION) + "\n" + target(QUESTION),
    'End with "Answer: " and one letter.',
    'End with "Answer: " and one letter.\nAnswer: B',
    "A) 1\nB) 2\nC) 3\nD) 4\nE) 5",
    # cut short
    "2 + 2 = 4.\nAnswer",
    "2 + 2 = 4.\nAns",
    "2 + 2 =",
]

TABLE = [*VALID, *((text, None) for text in INVALID)]


@pytest.mark.parametrize(("text", "letter"), TABLE)
def test_parse_answer(text: str, letter: str | None) -> None:
    assert parse_answer(text) == letter


def test_the_table_is_large_and_without_repeats() -> None:
    assert len({text for text, _ in TABLE}) == len(TABLE) > 90


def first_match(text: str) -> str | None:
    match = re.search(r"Answer: ([A-E])\b", text)
    return match and match[1]


def last_match(text: str) -> str | None:
    found = re.findall(r"^Answer: ([A-E])$", text, re.MULTILINE)
    return found[-1] if found else None


def case_insensitive(text: str) -> str | None:
    match = re.fullmatch(r"answer: ([a-e])", text.strip().rpartition("\n")[2], re.IGNORECASE)
    return match[1].upper() if match and count_markers(text) == 1 else None


def article(text: str) -> str | None:
    marked = re.search(r"answer\s*[:\-]\s*([A-E])", text, re.IGNORECASE)
    match = marked or re.search(r"\b([A-E])\b", text, re.IGNORECASE)
    return match and match[1].upper()


def gsm8k_number(text: str) -> str | None:
    match = re.search(r"#### (-?[0-9.,]+)", text)
    return match and match[1]


def no_marker_count(text: str) -> str | None:
    match = re.fullmatch(r"Answer: ([A-E])", text.rstrip().rpartition("\n")[2])
    return match and match[1]


@pytest.mark.parametrize("faulty", [first_match, last_match, case_insensitive, article, gsm8k_number, no_marker_count])
def test_the_table_fails_a_faulty_parser(faulty) -> None:
    assert [text for text, letter in TABLE if faulty(text) != letter]


def test_a_target_answers_its_own_letter_only() -> None:
    for letter in LETTERS:
        for rationale in ("", "2 + 2 = 4.", "A and B walk.\nB is faster."):
            q = Question("q", "?", ("1", "2", "3", "4", "5"), rationale, letter)
            assert parse_answer(target(q)) == letter


def test_text_after_an_answer_never_makes_another_answer() -> None:
    whole = target(QUESTION)
    added = [text for text, _ in TABLE if text.strip()]
    assert {parse_answer(f"{whole}\n{text}") for text in added} == {None}
    assert {parse_answer(f"{whole} {text}") for text in added} == {None}


def test_a_target_cut_anywhere_before_its_letter_is_no_answer() -> None:
    whole = target(QUESTION)
    assert {parse_answer(whole[:n]) for n in range(len(whole))} == {None}
