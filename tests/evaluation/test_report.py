"""Reports on a real little chain in a real store: what they say, what they refuse to say, and that they are safe."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.config import EvalConfig
from aquarat_core.errors import DataError
from aquarat_core.evaluation import chain_report
from aquarat_core.evaluation.figures import evaluate
from aquarat_core.evaluation.plots import checkpoint_metrics
from aquarat_core.evaluation.records import Record, read_records
from aquarat_core.evaluation.report import Evaluated, grader_version
from aquarat_core.evaluation.statistics import holm, mcnemar_exact, wilson_interval
from aquarat_core.tasks.aqua.task import AquaTask
from aquarat_core.tasks.origin import questions_of
from tests.evaluation.conftest import Chain
from tests.evaluation.test_figures import facts

pytestmark = pytest.mark.slow


def page(chain, stage: str, kind: str = "html") -> str:
    return (chain.scratch / f"{stage}_eval_report-records" / f"report.{kind}").read_text()


@pytest.fixture
def sft_and_rl(chain):
    chain.train("sft")
    chain.evaluate("sft", chain.answers(chain.asked, 0.33, 0.97, seed=1))
    chain.train("rl", "sft")
    chain.rl_report = chain.evaluate("rl", chain.answers(chain.asked, 0.6, 0.99, seed=2), "sft")
    return chain


def test_report_json_says_what_was_evaluated(sft_and_rl) -> None:
    chain, report = sft_and_rl, sft_and_rl.rl_report
    checkpoint = chain.checkpoints["rl"]
    assert report == json.loads(chain.reports["rl"].path("report.json").read_text())
    assert report["checkpoint"]["manifest_sha256"] == checkpoint.sha256
    assert report["checkpoint"]["data_version"] == checkpoint.data_version
    assert report["checkpoint"]["code"] == chain.CODE.model_dump()
    assert report["checkpoint"]["seeds"] == {"seed": 10}
    assert [p["asset"] for p in report["checkpoint"]["parents"]] == ["sft_checkpoint", "aqua_dataset"]
    assert report["evaluation"]["parser"] == grader_version(AquaTask())
    assert re.fullmatch(r"aquarat_core\.tasks\.choice@[0-9a-f]{12}", grader_version(AquaTask()))
    assert (report["evaluation"]["seed"], report["evaluation"]["split"]) == (30, "test")
    assert report["data"][0]["data_version"] == chain.aqua.data_version
    assert report["bits_per_byte"] is None


@pytest.mark.parametrize(("source", "questions"), [("hub", "AQuA-RAT"), ("synthetic", "generated word problems")])
def test_every_page_says_what_the_questions_are(tmp_path, monkeypatch, source: str, questions: str) -> None:
    """In the title, in the JSON and, where they are generated, in a warning before any number."""
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    chain = Chain(ArtifactStore.open(f"file://{tmp_path}/store"), tmp_path / "scratch", source=source)
    chain.train("rl")
    report = chain.evaluate("rl", chain.answers(chain.asked, 0.6, seed=2))
    assert report["evaluation"]["questions"] == questions
    assert questions_of(chain.reports["rl"]) == questions_of(chain.checkpoints["rl"]) == questions
    for kind in ("html", "md"):
        text = page(chain, "rl", kind).replace("\\", "")
        assert f"rl_checkpoint on {questions} (test)" in text
        assert ("A score on them says nothing about AQuA-RAT" in text) == (source == "synthetic")
        if source == "synthetic":
            assert text.index("says nothing about AQuA-RAT") < text.index("95% CI")
            assert "on AQuA" not in text


def test_the_comparison_counts_the_published_records(sft_and_rl) -> None:
    before, after = (read_records(sft_and_rl.reports[s].path("questions.parquet")) for s in ("sft", "rl"))
    result = sft_and_rl.rl_report["comparison"]["result"]
    pairs = list(zip((r.correct for r in before), (r.correct for r in after), strict=True))
    assert result["only_child"] == pairs.count((False, True)) > 50
    assert result["only_parent"] == pairs.count((True, False))
    assert result["wording"].startswith("rl_checkpoint improved on sft_checkpoint: +")


def test_accuracy_is_never_alone_on_the_page(sft_and_rl) -> None:
    s = sft_and_rl.rl_report["summary"]
    for text in (page(sft_and_rl, "rl"), page(sft_and_rl, "rl", "md").replace("\\", "")):
        assert f"{100 * s['accuracy']:.1f}%" in text
        assert f"95% CI [{100 * s['accuracy_lo']:.1f}, {100 * s['accuracy_hi']:.1f}]" in text
        assert f"Always answering {s['constant_letter']['letter']}" in text
        assert f"{100 * s['constant_letter']['accuracy']:.1f}%" in text
        assert "guessing: 20.0%" in text
        assert f"Entropy of the answered letters: {s['letter_entropy_bits']:.2f} bits" in text
        assert sft_and_rl.checkpoints["rl"].sha256 in text
        assert "with uncommitted changes" in text
        lo, hi = wilson_interval(round(s["parse_rate"] * s["n"]), s["n"])
        assert f"95% CI [{100 * lo:.1f}, {100 * hi:.1f}]; " in text


def test_a_retrained_parent_makes_no_comparison(sft_and_rl) -> None:
    chain = sft_and_rl
    trained_from = chain.checkpoints["sft"].data_version[:12]
    retrained = chain.train("sft", weights="other").data_version[:12]
    chain.evaluate("sft", chain.answers(chain.asked, 0.5))
    comparison = chain.evaluate("rl", chain.answers(chain.asked, 0.6, seed=2), "sft")["comparison"]
    assert comparison["result"] is None
    assert comparison["reason"] == (
        f"sft_eval_report is about sft_checkpoint {retrained}, but rl_checkpoint was trained from {trained_from}: "
        "materialize the stages between them again"
    )
    assert "No comparison with a parent stage: sft_eval_report is about" in page(chain, "rl")


def test_a_bit_identical_rerun_of_the_parent_is_still_the_parent(sft_and_rl) -> None:
    chain = sft_and_rl
    first = chain.checkpoints["sft"]
    again = chain.train("sft", run_id="run-2")
    assert again.sha256 != first.sha256
    chain.evaluate("sft", chain.answers(chain.asked, 0.33, seed=1))
    report = chain.evaluate("rl", chain.answers(chain.asked, 0.6, seed=2), "sft")
    assert report["comparison"]["result"]["n"] == 400


def test_other_questions_or_another_protocol_make_no_comparison(sft_and_rl) -> None:
    chain = sft_and_rl
    fewer = chain.evaluate("rl", chain.answers(chain.asked[:300], 0.6), "sft")["comparison"]
    assert fewer["reason"] == "100 question ids are in one evaluation only (400 and 300 questions)"
    longer = EvalConfig(seed=31, max_new_tokens=128)
    other = chain.evaluate("rl", chain.answers(chain.asked, 0.6), "sft", config=longer)["comparison"]
    assert other["reason"] == "the evaluations differ: max_new_tokens was 96, is 128; seed was 30, is 31"
    chain.train("rl")
    stranger = chain.evaluate("rl", chain.answers(chain.asked, 0.6), "sft")["comparison"]
    assert stranger["reason"] == "rl_checkpoint was not trained from sft_checkpoint"


def test_a_report_of_another_format_is_refused(sft_and_rl) -> None:
    chain = sft_and_rl
    path = chain.scratch / "sft_eval_report-files" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(DataError, match="sft_eval_report has report format 99, not 1: make it again"):
        Evaluated.read(chain.republish("sft"))


class Page(HTMLParser):
    """Collects tags and every address a page could load something from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data", "srcset", "action")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in ("meta", "br", "img"):
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br", "img"):
            assert self.open_tags.pop() == tag


def test_the_page_is_whole_loads_nothing_and_runs_nothing(chain) -> None:
    chain.train("base")
    chain.evaluate("base", chain.answers(chain.asked, 0.1, parse_rate=0.0))
    text = page(chain, "base")
    assert "&lt;script&gt;alert(&#x27;hi&#x27;)&lt;/script&gt;" in text
    parsed = Page(text)
    assert parsed.open_tags == []
    assert "script" not in parsed.tags
    assert all(address.startswith("#") for address in parsed.addresses)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"url\((?!#)|@import", text)
    assert "1.2345" in text  # bits per byte


def test_markdown_keeps_model_output_in_its_fence(chain) -> None:
    chain.train("base")
    chain.evaluate("base", chain.answers(chain.asked, 0.1, parse_rate=0.0))
    text = page(chain, "base", "md")
    assert f"````text\n{chain.NASTY}\n````" in text  # the output holds three backticks, so the fence has four
    assert text.count("data:image/png;base64,") == 2
    assert len(text) < 60_000


@pytest.fixture
def whole(chain):
    before = None
    for stage, accuracy in (("base", 0.1), ("mid", 0.27), ("sft", 0.33), ("rl", 0.6)):
        chain.train(stage, before)
        chain.evaluate(stage, chain.answers(chain.asked, accuracy, seed=len(stage)), before)
        before = stage
    return chain


def results(chain) -> list[chain_report.StageResult]:
    pairs = [(checkpoint, chain.reports[s]) for s, checkpoint in chain.checkpoints.items()]
    return [chain_report.StageResult(c, e, Evaluated.read(e), checkpoint_metrics(c)) for c, e in pairs]


def test_the_chain_report_holds_every_stage_its_test_and_its_ancestry(whole) -> None:
    stages = results(whole)
    report = chain_report.build(stages)
    names = [row["checkpoint"]["asset"] for row in report["stages"]]
    assert names == ["base_checkpoint", "mid_checkpoint", "sft_checkpoint", "rl_checkpoint"]
    assert report["stages"][0]["comparison"]["reason"] == "this is the first checkpoint of the chain"
    for row, before in zip(report["stages"][1:], report["stages"], strict=False):
        result = row["comparison"]["result"]
        assert row["comparison"]["parent"] == before["checkpoint"]["asset"]
        assert result["difference"] == pytest.approx(row["summary"]["accuracy"] - before["summary"]["accuracy"])
    lineage = [(x["asset"], x["manifest_sha256"]) for x in report["lineage"]]
    expected = {("aqua_dataset", whole.aqua.sha256)}
    expected |= {(a.asset, a.sha256) for a in (*whole.checkpoints.values(), *whole.reports.values())}
    assert set(lineage) == expected and len(lineage) == 9
    assert [asset for asset, _ in lineage if asset in names] == names  # parents first
    assert report["warnings"] == []

    document = chain_report.to_document(report, {s.checkpoint.asset: s.curves for s in stages})
    html, markdown = document.to_html(), document.to_markdown()
    assert Page(html).open_tags == []
    for row in report["stages"]:
        assert f"{100 * row['summary']['accuracy']:.1f}%" in html
        assert row["checkpoint"]["manifest_sha256"][:12] in html
    assert "From base to RL on AQuA-RAT: the whole chain" in html
    generated: Any = {**report, "stages": [{**row, "questions": "generated word problems"} for row in report["stages"]]}
    html_of_generated = chain_report.to_document(generated, {}).to_html()
    assert "From base to RL on generated word problems" in html_of_generated
    assert html_of_generated.index("says nothing about AQuA-RAT") < html_of_generated.index("95% CI")
    assert "rl: Reward and accuracy" in html and "base: Loss" in html
    assert markdown.count("data:image/png;base64,") == 2
    assert len(markdown) < 100_000


def test_the_chain_corrects_its_tests_for_their_number(chain) -> None:
    """SFT is better than mid by a test alone, and not by one of two."""
    before = None
    for stage, right in (("base", 180), ("mid", 200), ("sft", 212)):
        chain.train(stage, before)
        # Twelve questions rise and three fall from mid to SFT: p = 0.035.
        records = [replace(r, correct=i < right) for i, r in enumerate(chain.answers(chain.asked, 0.5))]
        if stage == "sft":
            records = [replace(r, correct=i >= 3 and i < 212) for i, r in enumerate(records)]
        chain.evaluate(stage, records, before)
        before = stage
    stages = results(chain)
    report = chain_report.build(stages)
    mid, sft = report["stages"][1:]
    assert sft["comparison"]["result"]["mcnemar_p"] == mcnemar_exact(3, 12) < 0.05 < 2 * mcnemar_exact(3, 12)
    assert [mid["p_corrected"], sft["p_corrected"]] == holm([mcnemar_exact(0, 20), mcnemar_exact(3, 12)])
    assert report["stages"][0]["p_corrected"] is None


def test_the_chain_says_that_a_stage_is_below_the_constant_answer(whole) -> None:
    report = chain_report.build(results(whole))
    text = chain_report.to_document(report, {}).to_markdown()
    base = next(line for line in text.splitlines() if line.startswith("| base_checkpoint | 400 |"))
    assert report["stages"][0]["summary"]["against_constant"] == "below" and "| below, p = " in base
    assert "p is corrected for the 3 tests of this table" in text
    assert "with Holm's correction for 3 tests" in text


def test_the_chain_tests_all_evaluations_of_neighbors(whole) -> None:
    stages = results(whole)
    sampled = [
        side(stages[i], {"aqua/greedy": stages[i].evaluated.records, "aqua/letters": whole.answers(whole.asked, x)})
        for i, x in ((2, 0.2), (3, 0.5))
    ]
    report = chain_report.build([*stages[:2], *sampled])
    first, second = report["stages"][2]["lines"], report["stages"][3]["lines"]
    assert first == [] and [line["name"] for line in second] == ["aqua/letters"]
    assert second[0]["n"] == 400 and second[0]["verdict"] == "above"
    text = chain_report.to_document(report, {}).to_markdown()
    table = text[text.index("## Each stage against the one before, by evaluation") :]
    assert "corrected for the 1 test of this table" in table
    row = next(line for line in table.splitlines() if line.startswith("| aqua/letters |"))
    assert "rl_checkpoint against sft_checkpoint | 400 |" in row and row.endswith("| better |")
    overview = text[text.index("## All evaluations") :]
    assert re.search(r"^\| aqua/letters \| 400 \| - \| - \| \d", overview, re.MULTILINE)


def side(stage: chain_report.StageResult, by_name: dict[str, list[Record]]) -> chain_report.StageResult:
    """The stage with several evaluations."""
    made = [evaluate(facts(protocol=name.rpartition("/")[2]), rows) | {"name": name} for name, rows in by_name.items()]
    report: Any = {**stage.evaluated.report, "evaluations": made}
    return replace(stage, evaluated=Evaluated(report, stage.evaluated.records, by_name))


def test_a_chain_made_in_pieces_is_said_to_be(whole) -> None:
    first = whole.checkpoints["sft"].data_version[:12]
    second = whole.train("sft", "mid", weights="again").data_version[:12]
    whole.evaluate("sft", whole.answers(whole.asked, 0.3), "mid")
    report = chain_report.build(results(whole))
    assert report["stages"][-1]["comparison"]["result"] is None
    assert "rl_checkpoint was trained from" in report["stages"][-1]["comparison"]["reason"]
    versions = ", ".join(sorted((first, second)))
    warning = f"sft_checkpoint took part in 2 versions ({versions}): materialize what depends on it again"
    assert warning in report["warnings"]


def test_a_checkpoint_that_left_many_conversations_out_is_named(whole) -> None:
    found = [
        whole.publish(f"{stage}_checkpoint", "checkpoint", {}, metrics=metrics)
        for stage, metrics in (("base", {}), ("mid", {"too_long_share": 0.05}), ("sft", {"too_long_share": 0.6}))
    ]
    assert chain_report.left_out(found) == [
        "sft_checkpoint was trained without 60% of its conversations, which are longer than its context: to keep their "
        "first turns set sft_checkpoint.too_long: trim"
    ]


def test_an_evaluation_of_another_checkpoint_is_refused(whole) -> None:
    whole.train("rl", "sft", weights="newer")
    with pytest.raises(DataError, match=r"rl_eval_report is about rl_checkpoint .* materialize rl_eval_report again"):
        chain_report.build(results(whole))
