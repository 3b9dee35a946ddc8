"""Each rule on a rationale made for it, and what no rule may touch."""

import re
from collections.abc import Sequence

import pytest

from aquarat_core.conversation import without_calls
from aquarat_core.tasks.aqua.normalizing import RULES, normalize
from aquarat_core.tasks.aqua.question import Question, parse_answer, target
from aquarat_core.tasks.aqua.rationale_report import normalize_rationales
from aquarat_core.tasks.aqua.reaching import Reach, reach

OPTIONS = ("12", "15", "20", "25", "None of these")


@pytest.mark.parametrize(
    ("given", "expected", "rules"),
    [
        ("5 \u00c3\u2014 3 = 15", "5 * 3 = 15", ("encoding", "signs")),
        ("20 \u00e2\u20ac\u201c 5 = 15", "20 - 5 = 15", ("encoding", "signs")),
        ("3x = 45 \u00e8 x = 15", "3x = 45\nx = 15", ("encoding", "lines_split")),
        ("30 \u00f7 2 = 15", "30 / 2 = 15", ("signs",)),
        (r"\frac{1}{2} \times 30 = 15", "1/2 * 30 = 15", ("signs",)),
        (r"\frac{a + b}{2} = 15", "(a + b)/2 = 15", ("signs",)),
        ("5 x 3 = 15", "5 * 3 = 15", ("signs",)),
        ("18 \u2013 3 = 15", "18 - 3 = 15", ("signs",)),
        ("Explanation :\n3 + 12 = 15", "3 + 12 = 15", ("labels",)),
        ("Solution: 3 + 12 = 15", "3 + 12 = 15", ("labels",)),
        ("Find x.\nSolution:\n-----\nx = 15\nHope it helps!", "Find x.\nx = 15", ("labels",)),
        ("3x = 45\n=> x = 15", "3x = 45\nx = 15", ("marks",)),
        ("3x = 45\n\\ x = 15 ==>", "3x = 45\nx = 15", ("marks",)),
        ("x\n= 30/2\n= 15", "x = 30/2 = 15", ("lines_joined",)),
        ("30/2 =\n15", "30/2 = 15", ("lines_joined",)),
        ("He has 12 left. Then 12 + 3 = 15.", "He has 12 left.\nThen 12 + 3 = 15.", ("lines_split",)),
        ("3x = 45 => x = 15", "3x = 45\nx = 15", ("lines_split",)),
        ("x=30/2 =15", "x = 30/2 = 15", ("spacing",)),
        ("x = 15\nx = 15", "x = 15", ("repeated_line",)),
        ("15\n30/2 = 15", "30/2 = 15", ("answer_first",)),
    ],
)
def test_rules(given: str, expected: str, rules: tuple[str, ...]) -> None:
    found = normalize(given, OPTIONS, 1)
    assert (found.text, found.rules) == (expected, rules)
    assert normalize(expected, OPTIONS, 1).text == expected
    assert found.reach == "last_line"


def test_every_rule_is_tried_above() -> None:
    (mark,) = [m for m in test_rules.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {rule for _, _, rules in mark.args[1] for rule in rules} == set(RULES)


@pytest.mark.parametrize(
    "kept",
    [
        "2x(3 + 1) = 16",  # a variable
        "He paid Rs. 15 to Mr. Smith, i.e. No. 15 of them.",  # periods that end no sentence
        "x => 15",  # may mean "at least"
        "x >= 15 and y <= 3 and z != 4",
        "cos \u2013 as he said \u2013 is 15",  # dashes of prose
        "12\n15 is one of the options",  # the first line is another option
        "a\u00e8 is Italian, caf\u00e9 is not 15",
        "Explanations of this differ: 15",
        "15",
    ],
)
def test_what_is_not_certain_stays(kept: str) -> None:
    found = normalize(kept, OPTIONS, 1)
    assert (found.text, found.rules) == (kept, ())


@pytest.mark.parametrize(
    ("rationale", "options", "right", "where"),
    [
        ("so 2 * 1000 = 2000", ("$2,000.00", "$5"), 0, "last_line"),
        ("= Rs.500", ("Rs. 500", "Rs. 50"), 0, "last_line"),
        ("= 5000", ("Rs. 500", "Rs. 50"), 0, "nowhere"),
        ("A gets 20\nB gets 30", ("20, 30", "30, 40"), 0, "last_line"),
        ("A gets 20\nB gets 31", ("20, 30", "30, 40"), 0, "nowhere"),
        ("the numbers are 27 and 36", ("27,36", "26,37"), 0, "last_line"),
        ("= 120000", ("1,20,000", "12,000"), 0, "last_line"),
        ("7 \u00bd sec", ("7 1/2 sec", "8 sec"), 0, "last_line"),
        ("240 is the sum\nNote: 1 is not prime", ("240", "241"), 0, "earlier"),
        ("a length of 150", ("150m", "200m"), 0, "last_line"),
        ("so it is 3x", ("3y", "3x"), 0, "nowhere"),
        ("(x + 1)! = (x+1) (x+2)", ("(x+1)(x+2)", "x"), 0, "last_line"),
        ("P and Q should serve", ("P and Q", "P and R"), 0, "last_line"),
        ("he is a cousin", ("Cousin", "Uncle"), 0, "last_line"),
        ("the cousins", ("Cousin", "Uncle"), 0, "nowhere"),
        ("there are 4 of them", ("Four", "Three"), 0, "last_line"),
        ("6! * 3! = 4320", ("1440", "720", "None of these"), 2, "last_line"),
        ("6! * 2! = 1440", ("1440", "720", "None of these"), 2, "nowhere"),
        ("", ("1", "2"), 0, "nowhere"),
    ],
)
def test_reach(rationale: str, options: tuple[str, ...], right: int, where: Reach) -> None:
    assert reach(rationale, options, right) == where


def question(name: str, rationale: str, correct: str = "B") -> Question:
    return Question(name, f"{name}?", OPTIONS, rationale, correct)


def digits(questions: Sequence[Question]) -> list[str]:
    return [number for q in questions for number in re.findall(r"\d+", q.rationale)]


def test_counts_marks_and_the_page() -> None:
    rows = [
        question("q0", "3 + 12 = 15"),
        question("q1", "x=15"),
        question("q2", "I guess.\nYou too"),
        question("q3", "15!"),
    ]
    held = [question("h0", "nothing\n=> at all")]
    found = normalize_rationales({"train": rows, "validation": held}, drop_unreached=True)
    assert [(q.id, q.reached) for q in found.splits["train"]] == [("q0", True), ("q1", True), ("q3", True)]
    assert [(q.id, q.reached) for q in found.splits["validation"]] == [("h0", False)], "never loses a row"
    counts = found.counts["train"]
    assert counts["rows"] == 4 and counts["changed"] == counts["spacing"] == 1 and counts["signs"] == 0
    assert (counts["reached_on_last_line"], counts["unreached"], counts["dropped_unreached"]) == (3, 1, 1)
    assert found.counts["validation"]["marks"] == 1 and "dropped_unreached" not in found.counts["validation"]
    assert found.unreached == {"train": ["q2"], "validation": ["h0"]}
    assert found.changed_share("train") == 0.25
    page = found.page()
    assert "| left out of training, because no line has it | 1 | 0 |" in page
    assert page.index("x=15") < page.index("becomes") < page.index("x = 15") < page.index("You too")
    assert digits(rows[:2] + rows[3:]) == digits(found.splits["train"])
    kept = normalize_rationales({"train": rows}, drop_unreached=False).splits["train"]
    assert [q.reached for q in kept] == [True, True, False, True]
    assert all(parse_answer(target(q)) == q.correct for q in kept)


def test_calls_are_counted_beside_the_rules_and_shown() -> None:
    rows = [question("q0", "10 + 5=15 and 3 * 5 = 15"), question("q1", "x = 15"), question("q2", "45/3 = 15")]
    given = {"train": rows, "validation": [question("h0", "30/2 = 15")]}
    plain = normalize_rationales(given, drop_unreached=True)
    found = normalize_rationales(given, drop_unreached=True, calculator_calls=True)
    assert "calls" not in plain.counts["train"] and "calculator" not in plain.page()
    assert found.counts["train"] == plain.counts["train"] | {"with_calls": 2, "calls": 3}
    assert found.counts["validation"]["calls"] == 1 and found.counts["train"]["changed"] == 1
    assert found.calls_share("train") == 2 / 3 and plain.calls_share("train") == 0
    for q, called in zip(plain.splits["train"], found.splits["train"], strict=True):
        assert without_calls(called.rationale, called.rationale_parts) == q.rationale
        assert called.reached == q.reached and parse_answer(target(called)) == q.correct
    page = found.page()
    assert "| calls of the calculator | 3 | 1 |" in page
    assert "## 2 changed training rows" in page and "Rules: spacing; Calls: 2" in page and "\nCalls: 1" in page
    assert "45/3 = <|python_start|>45/3<|python_end|><|output_start|>15<|output_end|>15" in page


def test_a_rationale_with_a_fence_cannot_leave_its_own() -> None:
    page = normalize_rationales({"train": [question("q0", "``` x=15\n# title")]}, drop_unreached=False).page()
    assert "````text\n``` x=15\n# title\n````" in page
