"""What pages say of several evaluations, of the previous report, and of what training took."""

from __future__ import annotations

from typing import Any

import pytest

from aquarat_core.artifacts.environment import PRICE
from aquarat_core.evaluation import chain_report
from aquarat_core.evaluation.chat_core import chat_core
from aquarat_core.evaluation.document import Details, Document, Heading, Paragraph, Sample, Table
from aquarat_core.evaluation.examples import examples_section
from aquarat_core.evaluation.figures import evaluate
from aquarat_core.evaluation.predecessor import since_last
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.sections import chat_core_section, details_section, overview_section
from aquarat_core.evaluation.wording import facts_text, percent
from tests.evaluation.conftest import Chain
from tests.evaluation.test_figures import WAYS, evaluation, facts, record, scored

RIGHT = [record(i, "ABCDE"[i % 5], "ABCDE"[i % 5]) for i in range(30)]
WRONG = [record(i, "ABCDE"[i % 5], "A") for i in range(30, 60)]
GREEDY = evaluate(facts(), [*RIGHT, *WRONG])
LETTERS = evaluate(facts("letters", categories=["A", "B"]), [scored(i, "AB"[i % 2], [0.6, 0.2]) for i in range(40)])
SAMPLED = evaluate(
    facts("sampled"), [record(i, "A", "AB"[n % 2], sample=n, protocol="sampled") for i in range(10) for n in range(4)]
)
ROTATED = evaluate(
    facts("rotated", categories=["A", "B", "C"]),
    [record(i, "ABC"[(i + s) % 3], "A", sample=s) for i in range(9) for s in range(3)] + [record(9, "B", "B")],
)


def table_of(blocks: list[Any]) -> Table:
    (table,) = (b for b in blocks if isinstance(b, Table))
    return table


def test_one_evaluation_needs_no_table_of_all() -> None:
    assert overview_section([GREEDY]) == []


def test_the_table_has_every_evaluation_with_what_it_must_be_read_with() -> None:
    blocks = overview_section([GREEDY, LETTERS, SAMPLED, ROTATED])
    table = table_of(blocks)
    assert {len(row) for row in table.rows} == {len(table.header)}
    by_name = {row[0]: row for row in table.rows}
    assert by_name["aqua/greedy"][1:5] == ("60", "60.0%", "[47.4, 71.4]", "20.0%")
    assert by_name["aqua/sampled"][1] == "10 x 4" and by_name["aqua/rotated"][1] == "10 x 2.8"
    (tested,) = (b.text for b in blocks if isinstance(b, Paragraph))
    assert "Holm's correction for 4" in tested and "aqua/greedy" in tested and "aqua/letters" not in tested
    assert by_name["aqua/greedy"][-3:] == ("100.0% [94.0, 100.0]", "0.0% [0.0, 6.0]", "0.0% [0.0, 6.0]")
    older: Any = [{k: v for k, v in GREEDY.items() if k != "rate_intervals"}, LETTERS]
    assert table_of(overview_section(older)).rows[0][-3:] == ("100.0%", "0.0%", "0.0%")


def test_what_is_not_tested_against_guessing_is_named() -> None:
    none = evaluate(facts(name="gsm8k/greedy", categories=[]), [record(i, "5", "5", chance=0.0) for i in range(5)])
    (tested,) = (b.text for b in overview_section([GREEDY, SAMPLED, none]) if isinstance(b, Paragraph))
    assert "for 2 tests" in tested and tested.endswith("Not tested, because no guess is right: gsm8k/greedy.")


def test_each_protocol_adds_what_only_it_finds() -> None:
    blocks = details_section([GREEDY, LETTERS, SAMPLED, ROTATED])
    headings = [b.text for b in blocks if isinstance(b, Heading)]
    assert headings == [
        "aqua/letters: calibration", "aqua/sampled: several samples", "aqua/rotated: order of the options",
    ]  # fmt: skip
    text = Document("t", "s", tuple(blocks)).to_markdown()
    assert "80.0% of the next token's probability is on the letters" in text
    assert "is above what right confidences would show" in text  # 75 % sure, and right on half of them
    samples = next(b for b in blocks if isinstance(b, Table) and b.header[0] == "k")
    assert [row[0] for row in samples.rows] == ["1", "2", "4"]
    assert samples.rows[0][3:] == ("-", "-") and samples.rows[1][2] == "36.0%"
    assert "0.0% \\[0.0, 29.9\\] got the same option in every order" in text
    assert "1 more keep their order" in text and "27, 0, 0 times" in text
    assert "by a permutation test of whole questions" in text and "Cochran's Q 18.0, p = 0.00012" in text
    assert "the accuracy is +0.0 points" in text and "permutation test p = 0.83: no difference shown" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0%"), (1.0, "100.0%"), (0.9995, "99.95%"), (0.99999, "99.999%"), (0.0004, "0.04%"), (0.9994, "99.9%"),
     (1 - 1e-9, "> 99.9999%"), (1e-9, "< 0.0001%"), (1 - 2**-53, "100.0%"), (0.8644, "86.4%")],
)  # fmt: skip
def test_a_share_looks_like_all_or_none_only_if_it_is(share: float, text: str) -> None:
    assert percent(share) == text


def test_facts_have_four_digits() -> None:
    found = {"b": 1.2345678901, "a": 12, "c": 1.5e-7, "d": 123456.789, "e": "text", "f": True}
    assert facts_text(found) == "a 12; b 1.235; c 1.5e-07; d 123457; e text; f True"


def test_chat_core_says_what_is_missing_from_it() -> None:
    some = [WAYS[0], WAYS[7]]
    blocks = chat_core_section(chat_core(some, [evaluation(w, 50, 100) for w in some]))
    text = Document("t", "s", tuple(blocks)).to_markdown()
    assert "## ChatCORE-2" in text and "Not asked: arc\\_challenge, mmlu, gsm8k" in text.replace("arc_c", "arc\\_c")
    assert chat_core_section(None) == []


def test_ten_right_and_ten_wrong_answers_of_each_evaluation() -> None:
    letters = [scored(i, "AB"[i % 2], [0.6, 0.2]) for i in range(4)]
    blocks = examples_section({"aqua/greedy": [*RIGHT, *WRONG], "aqua/letters": letters}, seed=30)
    assert isinstance(blocks[0], Heading) and blocks[0].text == "10 right and 10 wrong answers, drawn at random"
    shown = [b for b in blocks if isinstance(b, Sample)]
    assert [s.verdict for s in shown] == ["right"] * 10 + ["wrong"] * 10
    assert blocks == examples_section({"aqua/greedy": [*WRONG, *RIGHT], "aqua/letters": letters}, seed=30)
    folded = blocks[-1]
    assert isinstance(folded, Details) and folded.title.startswith("aqua/letters: 2 right and 2 wrong")
    assert folded.samples[0].completion == "A    -0.511\nB    -1.609"
    page = Document("t", "s", tuple(blocks))
    assert "<details><summary>aqua/letters" in page.to_html()
    assert "question 3" in page.to_html() and "-1.609" not in page.to_markdown()


def test_a_page_says_what_changed_since_the_previous_report(chain: Chain) -> None:
    chain.train("sft")
    before = Evaluated(chain.evaluate("sft", chain.answers(chain.asked, 0.4)), chain.answers(chain.asked, 0.4))
    chain.train("sft", weights="better")
    now = Evaluated(chain.evaluate("sft", chain.answers(chain.asked, 0.7)), chain.answers(chain.asked, 0.7))
    assert since_last(now, None) == []
    said = " ".join(b.text for b in since_last(now, before) if isinstance(b, Paragraph))
    old = before.report["checkpoint"]["data_version"][:12]
    assert f"on another sft_checkpoint ({old})" in said and "this report improved on the previous report" in said
    with_more = [Evaluated({**r.report, "evaluations": [GREEDY, LETTERS]}, r.records) for r in (now, before)]
    table = table_of(since_last(*with_more))
    assert table.rows[0] == ("aqua/greedy", "60.0% [47.4, 71.4]", "60.0% [47.4, 71.4]", "yes")


def test_the_chain_ends_with_what_it_took(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRICE, "20.5")
    chain.train("base")
    chain.evaluate("base", chain.answers(chain.asked, 0.3))
    chain.train("mid", "base")
    chain.evaluate("mid", chain.answers(chain.asked, 0.4), "base")
    checkpoint = chain.publish(
        "base_checkpoint", "checkpoint", {}, (),
        {"tokens": 1_228_800, "seconds": 7200.0, "model_flops_per_second": 1e14, "ranks": 8},
    )  # fmt: skip
    cost = chain_report.cost_of(checkpoint)
    assert (cost["tokens"], cost["flops"], cost["seconds"], cost["ranks"]) == (1_228_800.0, 7.2e17, 7200.0, 8.0)
    assert cost["dollars"] == 41.0
    stages = [
        chain_report.StageResult(c, chain.reports[s], Evaluated.read(chain.reports[s]), ())
        for s, c in chain.checkpoints.items()
    ]
    report = chain_report.build(stages)
    for row in report["stages"]:
        row["evaluations"] = [GREEDY, LETTERS]
    report["stages"][0]["cost"] = cost
    text = chain_report.to_document(report, {}).to_markdown()
    took = text[text.index("## What it took") :]
    assert "| base\\_checkpoint | 1,228,800 | 7.20e+17 | 2 | 16 | 41.00 |" in took.replace("base_c", "base\\_c")
    side_by_side = text[text.index("## All evaluations") : text.index("## What it took")]
    assert side_by_side.count("60.0% \\[47.4, 71.4\\]") == len(stages)
