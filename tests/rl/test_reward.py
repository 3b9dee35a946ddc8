"""What a completion earns."""

from __future__ import annotations

import pytest

from aquarat_core.rl.reward import judge


@pytest.mark.parametrize(
    ("text", "ended", "letter", "reward"),
    [
        ("2 + 3 = 5.\nAnswer: C", True, "C", 1.0),
        ("Answer: C", True, "C", 1.0),
        ("Answer: B", True, "B", 0.0),
        ("Answer: C", False, None, 0.0),  # cut off: who knows what else it would have said
        ("Answer: A\nAnswer: C", True, None, 0.0),
        ("Answer: C\nAnswer: C", True, None, 0.0),
        ("Answer: C, I think", True, None, 0.0),
        ("answer: C", True, None, 0.0),
        ("C", True, None, 0.0),
        ("", True, None, 0.0),
    ],
)
def test_one_right_letter_at_the_end_and_nothing_else_is_paid(
    text: str, ended: bool, letter: str | None, reward: float
) -> None:
    verdict = judge(text, ended, "C")
    assert (verdict.letter, verdict.reward) == (letter, reward)
