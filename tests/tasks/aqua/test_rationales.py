"""Answer statements at the ends and beginnings of rationales, in the shapes AQuA-RAT has them."""

import pytest

from aquarat_core.tasks.aqua.rationales import strip_answer

OPTIONS = ("3", "109 rolls", "20%", "0.4", "None of these")

ENDINGS = [
    "ANSWER:B", "Answer: B", "Answer : B", "Answer B", "answer B", "Answer is B", "Answer is B.", "The answer is B.",
    "The Answer is B", "Answer: B.", "Answer:B", "ANSWER :B", "Answer - B", "Answer = B", "answer.B", "Ans: B", "ANS:B",
    "Ans is B.", "Ans - B", "Answer: Option B", "Correct Option: B", "CORRECT OPTION:OPTION B", "correct answer B",
    "Correct answer - B", "The correct option is B.", "Option B", "Option: B", "Choice B.", "B", "(B)", "B.",
    "Answer (B)", "The answer is (B).", "Answer: B)", "Answer: B) 109 rolls", "Answer B)109 rolls",
    "ANSWER B 109 rolls", "Final Answer:\nB",
    "Hence answer will be B. 109 rolls", "So answer is B", "So the correct option is B", "So option B is correct.",
    "Therefore B is correct", "Thus, B is the correct answer", "Hence (B) is correct answer.", "B is the answer.",
    "B is the correct choice", "Hence, the correct answer will be (B)", "Answer B is correct option",
]  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings_go_and_their_letter_is_found(ending: str) -> None:
    stripped = strip_answer(f"40 * 30 = 1200\n1200 / 11 = 109.\n{ending}", OPTIONS)
    assert stripped.text == "40 * 30 = 1200\n1200 / 11 = 109."
    assert stripped.letters == ("B",)


@pytest.mark.parametrize("ending", ["Answer D", "ANS:D", "Answer: D.", "the answer is D."])
def test_an_ending_inside_the_last_line_goes(ending: str) -> None:
    assert strip_answer(f"x = 250 m. {ending}", OPTIONS).text == "x = 250 m."


@pytest.mark.parametrize(
    "rationale",
    [
        "12 - 5 = 7 C",
        "salary of B",
        "This gives us B",
        "It is 250 = D",
        "My ans is 15C4 = 1365",
        "Option C: 29340, sum = 18\nOption E: 41715, sum = 18, divisible by 3",
        "11 is the only choice which ends in a 1.",
        "The answer is a number.",
        "30 - 12 = 18",
    ],
)
def test_what_may_be_part_of_the_reasoning_stays(rationale: str) -> None:
    stripped = strip_answer(rationale, OPTIONS)
    assert (stripped.text, stripped.letters) == (rationale, ())


def test_an_answer_by_its_text_is_its_option() -> None:
    assert strip_answer("1 + 2\nANSWER: 3", OPTIONS).letters == ("A",)
    assert strip_answer("1 + 2\nAnswer: none of these.", OPTIONS).letters == ("E",)
    assert strip_answer("1 + 2\nAnswer: 4", OPTIONS).letters == ()
    assert strip_answer("1 + 2\nAnswer: 3", ("3", "3", "4", "5", "6")).letters == ()


@pytest.mark.parametrize(
    ("rationale", "text"),
    [
        ("Answer: Option A\nSpeed = 60 km/h", "Speed = 60 km/h"),
        ("Answer = A. 45 miles\n90 - 45 = 45", "90 - 45 = 45"),
        (
            "Answer: A. Exactly one, as 14 = 2 * 7 and the 7 is an odd number.",
            "Exactly one, as 14 = 2 * 7 and the 7 is an odd number.",
        ),
        ("Correct Answer: (A)\nEach is tried.", "Each is tried."),
    ],
)
def test_beginnings_go(rationale: str, text: str) -> None:
    stripped = strip_answer(rationale, OPTIONS)
    assert (stripped.text, stripped.letters) == (text, ("A",))


def test_repeated_and_conflicting_answers_are_all_reported() -> None:
    assert strip_answer("x = 3\nAnswer: A\nAnswer is A", OPTIONS).letters == ("A", "A")
    assert strip_answer("Answer: B\nx = 3\nAnswer: A", OPTIONS).letters == ("A", "B")


def test_nothing_but_an_answer_leaves_nothing() -> None:
    assert strip_answer("Answer: C", OPTIONS).text == ""
    assert strip_answer("C", OPTIONS).text == ""


def test_dangling_words_go() -> None:
    assert strip_answer("x = 3. Hence", OPTIONS).text == "x = 3."
    assert strip_answer("x = 3\nAns:", OPTIONS).text == "x = 3"


def test_a_marker_in_the_middle_is_rewritten() -> None:
    stripped = strip_answer("That gives the answer:100-95=5\nAnswer is B", OPTIONS)
    assert stripped.text == "That gives the answer = 100-95=5"
    assert stripped.rewritten and not strip_answer("x = 3\nAnswer: A", OPTIONS).rewritten
