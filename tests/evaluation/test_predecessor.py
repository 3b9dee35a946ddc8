"""A report compared with the previous one."""

from __future__ import annotations

import pytest

from aquarat_core.config import EvalConfig
from aquarat_core.evaluation.predecessor import ParseRate, compare_with_last, parse_collapse
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.summary import none_parsed, summarize
from tests.evaluation.conftest import Chain


@pytest.mark.parametrize(
    ("now", "last", "trained", "said"),
    [
        ((0.0, 254), None, False, None),  # a base model's first report
        ((0.0, 254), (0.0, 254), False, None),
        ((0.0, 254), (0.9, 254), False, "Only 0.0% [0.0, 1.5] of 254 answers can be read, after 90"),
        ((0.0, 254), None, True, "None of 254 answers can be read, although the model was trained"),
        ((0.0, 254), (0.0, 254), True, "None of 254 answers can be read"),
        ((0.46, 254), (0.95, 254), True, "Only 46.0% [40.0, 52.2] of 254 answers can be read"),
        ((0.5, 254), (0.95, 254), True, None),  # more than half of it
        ((0.94, 254), (0.95, 254), True, None),
        ((1 / 5, 5), (3 / 5, 5), True, None),  # within noise
        ((0.02, 254), (0.05, 254), False, None),  # less than half, and within noise
        ((0.9, 254), (0.1, 254), True, None),
    ],
)
def test_what_is_a_collapse(
    now: tuple[float, int], last: tuple[float, int] | None, trained: bool, said: str | None
) -> None:
    found = parse_collapse(ParseRate(*now), ParseRate(*last) if last else None, trained)
    assert (found is None) == (said is None), found
    assert said is None or (found or "").startswith(said)


def test_only_the_same_questions_asked_in_the_same_way_are_compared(chain: Chain) -> None:
    chain.train("sft")

    def evaluated(accuracy: float, seed: int = 0, asked: int = 400, config: EvalConfig = chain.CONFIG) -> Evaluated:
        records = chain.answers(chain.asked[:asked], accuracy, seed=seed)
        return Evaluated(chain.evaluate("sft", records, config=config), records)

    good = evaluated(0.6)
    worse = compare_with_last(evaluated(0.4), good)
    assert not isinstance(worse, str) and worse["verdict"] == "below"
    assert worse["wording"].startswith("this report is worse than the previous report: -")
    same = compare_with_last(evaluated(0.6, seed=1), good)
    assert not isinstance(same, str) and same["verdict"] == "no difference shown"
    assert compare_with_last(evaluated(0.1, asked=300), good) == (
        "100 question ids are in one evaluation only (400 and 300 questions)"
    )
    other = EvalConfig(seed=30, max_new_tokens=32)
    assert compare_with_last(evaluated(0.1, config=other), good) == (
        "the evaluations differ: max_new_tokens was 96, is 32"
    )


def test_a_page_without_a_readable_answer_says_so_before_any_number(chain: Chain) -> None:
    chain.train("mid")
    records = chain.answers(chain.asked, 0.5, parse_rate=0.0)
    summary = summarize(records, "A", 0.2, "ABCDE")
    sentence = none_parsed(summary)
    assert sentence is not None and sentence.startswith("None of the 400 answers could be read")
    assert none_parsed(summarize(chain.answers(chain.asked, 0.5), "A", 0.2, "ABCDE")) is None
    chain.evaluate("mid", records)
    page = chain.reports["mid"].record("report.md").read_text()
    assert 0 < page.index(sentence) < page.index("0.0%")
