"""Letters in published rows: prefixes of options, statements of answers, and rows made to hurt."""

import subprocess
import sys
from pathlib import Path

import pytest

from aquarat_core.errors import DataError
from aquarat_core.tasks.aqua.cleaning import clean
from aquarat_core.tasks.aqua.letters import letter_left, named
from aquarat_core.tasks.aqua.rationales import strip_answer
from aquarat_core.tasks.option_order import letter_free

BASE = {
    "question": "How far is it?",
    "options": ["A)1", "B)2", "C)3", "D)4", "E)5"],
    "rationale": "1 + 1 = 2.",
    "correct": "B",
}
ROOT = Path(__file__).parents[3]
STATEMENTS = [
    "Hence answer is a.", "answer is a", "ans : a", "Ans: (a)", "answer: a", "so option a is right",
    "The answer is, A.", "ANSWER:( A )", "ANSWER :(Option A)", "Answer: **A**", "Answer: $A$", "\\boxed{A}",
    "$\\boxed{A}$", "=> A", "Answer => A", "[A]", "Answer:A,", "Answer\uff1aA", "Hence, (A)", "Thus A",
    "Therefore a is correct", "So (a) is right.",
]  # fmt: skip


@pytest.mark.parametrize("said", STATEMENTS)
def test_every_way_to_state_the_answer_goes_and_is_compared_with_the_key(said: str) -> None:
    stripped = strip_answer(f"200 / 24 = 8.33.\n{said}", ["6", "8", "9", "10", "12"])
    assert (stripped.text, stripped.letters) == ("200 / 24 = 8.33.", ("A",))
    cleaned = clean({"train": [BASE | {"rationale": f"1 + 1 = 2.\n{said}"}]}, "owner/name")
    assert cleaned.splits["train"] == []
    assert cleaned.counts["train"]["dropped_letter_contradicts_rationale"] == 1


@pytest.mark.parametrize(
    "said",
    [
        "Answer\uff1a\uff21",
        "\uff21\uff4e\uff53\uff57\uff45\uff52: A",
        "So option \uff08\uff41\uff09 is right",
        "\uff21",
    ],
)
def test_wide_letters_are_letters(said: str) -> None:
    row = BASE | {"rationale": f"1 \uff0b 1 \uff1d 2.\n{said}", "correct": "A"}
    kept = clean({"train": [row]}, "owner/name").splits["train"]
    assert [q.rationale for q in kept] == ["1 + 1 = 2."]
    wide = [option.translate({ord(x): ord(x) + 0xFEE0 for x in "ABCDE)12345"}) for option in BASE["options"]]
    assert clean({"test": [BASE | {"options": wide}]}, "owner/name").splits["test"][0].options == tuple("12345")


@pytest.mark.parametrize("said", ["B) 60 square metres", "(B) 60 square metres.", "B 60 Square Metres"])
def test_a_last_line_that_repeats_the_option_goes(said: str) -> None:
    stripped = strip_answer(f"A = w * h = 60\n{said}", ["6", "60 square metres", "9", "10", "12"], "How large is it?")
    assert (stripped.text, stripped.letters) == ("A = w * h = 60", ("B",))


@pytest.mark.parametrize(
    ("rationale", "text"),
    [
        ("Option(B) is correct\nP = 5/26", "P = 5/26"),
        ("(b) is the correct answer.\nP = 5/26", "P = 5/26"),
        ("Therefore, B is right\nP = 5/26", "P = 5/26"),
        ("Option B is correct", ""),
        (
            "Answer B) 9600 yards need 1200 lbs, and 3600 yards need 450 lbs",
            "9600 yards need 1200 lbs, and 3600 yards need 450 lbs",
        ),
        ("B\nThis is an alternating series.", "This is an alternating series."),
        ("B 360\nThis is an alternating series.", "This is an alternating series."),
        ("B) 360- because the pattern adds 12.", "360- because the pattern adds 12."),
        ("B 360. As many as players.", "360. As many as players."),
    ],
)
def test_a_first_line_that_gives_the_answer_goes(rationale: str, text: str) -> None:
    stripped = strip_answer(rationale, ["prime number", "360", "9", "1", "12"], "How many?")
    assert (stripped.text, stripped.letters) == (text, ("B",))


@pytest.mark.parametrize(
    "rationale",
    [
        "A Prime number has two divisors.",
        "A. prime number: no\nB. 360: no\nC. 9: yes",
        "B 3600 is more",
        "B = 360",
        "8! = 40320\nE. 12 is a factor\nD. 1 is one",
        "Hence a is right angled",
        "A is correct to two places\nx = 3.14",
    ],
)
def test_what_is_no_answer_stays(rationale: str) -> None:
    stripped = strip_answer(rationale, ["prime number", "360", "9", "1", "12"], "How many?")
    assert (stripped.text, stripped.letters) == (rationale, ())


LEFT = [
    "I think the answer on this one should be C too, as x > 0.", "Put these into the answer choices, only C is whole.",
    "From the answers you see it: I will go with C (pending better).",
    "Looking at them you can pick C which is near half.",
    "Put the options in:\nC fits: 1/1 = 1/2 + 1/2.", "It is about 1/4 (answer C). We say about.",
    "Here C is the odd one out.",
    "1 + 1 = 2\nC\nas we saw.", "Test answer choice C first, for it is round.",
]  # fmt: skip


@pytest.mark.parametrize("rationale", LEFT)
def test_an_answer_in_the_middle_is_seen(rationale: str) -> None:
    assert letter_left(rationale, set())
    assert not letter_left(rationale, {"C"})


@pytest.mark.parametrize(
    "rationale",
    [
        "P(A wins, B wins, C loses) = 1/8", "D = 100 + 150 = 250", "My ans is 15C4 = 1365", "Vowels: E O",
        "A number fits.",
        "Total = n(A) + n(B) - Both", "Each team from A and B plays",
        "the answer is none", "Let the cost be A. Then it is 1.4A",
    ],
)  # fmt: skip
def test_letters_that_are_names_are_none_left(rationale: str) -> None:
    assert not letter_left(rationale, set())


@pytest.mark.parametrize(
    "part", ["\n", " ", "(", "\nA) 1", "A 1\n", "pick the ", "answer choices only ", "A. ", " A man."]
)
def test_any_text_is_searched_in_linear_time(part: str) -> None:
    """In time that grows with the square this would take hours."""
    text = part * (400_000 // len(part)) + "x"
    assert strip_answer(text, ["1", "2", "3", "4", "5"], "How many?").text is not None
    assert letter_left(text, named(text)) in (True, False)


def test_an_article_is_no_name() -> None:
    assert named("A train is 5 m long. A man sees it.") == set()
    assert named("A train passes A.") == {"A"} and named("A and a friend walk.") == {"A"}
    assert named("A sells a cow to B.") == {"A", "B"}


def test_a_last_capital_is_an_answer_unless_the_text_uses_it_as_a_name() -> None:
    assert strip_answer("12 - 5 = 7 = C", BASE["options"], "How many?").letters == ("C",)
    assert strip_answer("It is the salary of B", BASE["options"], "Who has more, A or B?").letters == ()


def test_a_letter_that_no_rule_takes_away_keeps_the_row_out_of_training() -> None:
    row = BASE | {"rationale": "As we saw, the answer is (b) for x = 2, which is what was asked for here in the end."}
    cleaned = clean({"train": [row], "test": [row | {"question": "Another one?"}]}, "owner/name")
    assert cleaned.counts["train"]["dropped_letter_left"] == 1
    assert cleaned.letters_left() == {"test": 1.0, "train": 0.0}


@pytest.mark.parametrize("rationale", ["answer is a", "the ans: (b) fits, as 2 + 2 = 4"])
def test_a_small_letter_after_answer_holds_the_order(rationale: str) -> None:
    assert not letter_free(rationale, 5)


@pytest.mark.parametrize("form", ["{} ) 0.6", "{}. 0.6", "({}) 0.6", "[{}] 0.6", "{}: 0.6", "{})0.6"])
@pytest.mark.parametrize("letters", ["ABCDE", "abcde"])
def test_prefixes_of_every_form_go(form: str, letters: str) -> None:
    options = [form.format(letter) + str(i) for i, letter in enumerate(letters)]
    cleaned = clean({"test": [BASE | {"options": options}]}, "owner/name")
    assert cleaned.splits["test"][0].options == ("0.60", "0.61", "0.62", "0.63", "0.64")
    assert cleaned.counts["test"]["option_prefix_missing"] == 0


def test_content_that_looks_like_a_prefix_stays() -> None:
    options = ["A)(A) only", "B)(B) only", "C)Both (A) and (B)", "D)(D) only", "E)None"]
    kept = clean({"test": [BASE | {"options": options}]}, "owner/name").splits["test"][0].options
    assert kept == ("(A) only", "(B) only", "Both (A) and (B)", "(D) only", "None")
    options = ["a. m.", "12", "13", "14", "15"]
    assert clean({"test": [BASE | {"options": options}]}, "owner/name").splits["test"][0].options[0] == "a. m."


def test_options_with_the_letters_of_other_places_leave_training() -> None:
    row = BASE | {"options": ["B)2", "A)1", "C)3", "D)4", "E)5"]}
    assert clean({"train": [row]}, "owner/name").counts["train"]["dropped_option_letter_misplaced"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": "12345"}, "the options are a str instead of a list"),
        ({"options": dict.fromkeys("ABCDE", "1")}, "the options are a dict instead of a list"),
        ({"options": ["A)1", "B)2", "C)3", "D)4", 5]}, "an option is an integer instead of a text"),
        ({"rationale": 7.0}, "the rationale is a float instead of a text"),
        ({"rationale": ["1 + 1"]}, "the rationale is a list instead of a text"),
        ({"rationale": "so " * 10_000}, "the rationale has 30,000 characters, more than 20,000"),
        ({"question": "a" + "\u0301" * 5_000}, "the question has more than 30 combining marks in a row"),
        ({"question": b"far?"}, "the question is a bytes instead of a text"),
        ({"question": "far \ud800?"}, "the question is not valid Unicode"),
    ],
)
def test_a_row_of_another_shape_is_named_and_left_out(change: dict, said: str) -> None:
    with pytest.raises(DataError, match="split train, row 1: "):
        clean({"train": [BASE, BASE | change]}, "owner/name")
    cleaned = clean({"train": [BASE, BASE | change]}, "owner/name", on_bad_row="drop")
    assert [(bad.row, bad.reason) for bad in cleaned.bad_rows] == [("train-000001", said)]
    assert cleaned.counts["train"]["dropped_bad_row"] == 1


PIECES = [
    "so ", "the answer is A", ".", "(", "A is right ", "\nAnswer: A", "\\boxed{", "answer", " ", "\n", "a) ", "B",
    "e\u0301", "\u0301", "=> ", "hence, ", "Option ", "\nA) 1", "answer choices ", "pick ",
    "is correct ", "\nB\n", "\uff21", "ans : ", "\uff1a", "$", "**", "x = 3", "\U0001f600", "\x00",
]  # fmt: skip
FUZZ = """
import random, sys
sys.path.insert(0, {root!r})
from tests.tasks.aqua.test_letters import BASE, PIECES
from aquarat_core.tasks.aqua.cleaning import clean
rng = random.Random(0)
for n in range(300):
    if n < len(PIECES):
        text = (PIECES[n] * 20_000)[:19_999] + "x"
    else:
        chosen = rng.sample(PIECES, rng.randint(1, 4))
        text = "".join(p * rng.randint(1, 2_000) for p in chosen)
    values = [text, None, 5, [text], text[: rng.randint(0, 2_000)]]
    row = dict(BASE)
    row["rationale"] = text
    row[rng.choice(list(row))] = rng.choice(values)
    cleaned = clean({{"train": [row], "test": [row]}}, "owner/name", on_bad_row="drop")
    for split in ("train", "test"):
        counts = cleaned.counts[split]
        gone = sum(v for k, v in counts.items() if k.startswith("dropped_"))
        assert counts["kept"] + gone == counts["rows"] == 1, counts
print("done")
"""


def test_no_row_stops_the_cleaning() -> None:
    """300 rows of repeated pieces in a process with a limit of CPU time; each took minutes when a rule backtracked."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (120, 120))\n{FUZZ.format(root=str(ROOT))}"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "done\n", done.stderr[-2_000:]
