"""`aquarat compare` and what it stands on: pairs of evaluations whose difference is known."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import ArtifactStore
from aquarat_core.artifacts.survey import all_artifacts
from aquarat_core.cli import main
from aquarat_core.config import EvalConfig
from aquarat_core.evaluation import statistics as st
from aquarat_core.evaluation.comparing import Answers, answers_of, flips, side_by_side
from aquarat_core.evaluation.figures import evaluate
from aquarat_core.evaluation.looks import looks_before, reports_about
from aquarat_core.evaluation.power import detectable_by_mcnemar
from aquarat_core.evaluation.records import Facts, Record, prompt_hash, write_records
from aquarat_core.evaluation.report import Evaluated
from aquarat_core.evaluation.sampling import mean_at_n
from aquarat_core.evaluation.summary import compare
from aquarat_core.tasks.aqua.question import prompt, target

CONFIG = EvalConfig(task="aqua", seed=30, max_new_tokens=96)


def record(key: int, correct: bool, question: str = "") -> Record:
    name = f"q{key:04d}"
    letter = "A" if correct else "B"
    return Record(name, question or f"Question {name}?", "A", f"Answer: {letter}", letter, correct, 3, False, "stop")


def single(right: list[bool], **changed: Any) -> Answers:
    records = [record(i, correct) for i, correct in enumerate(right)]
    whole: dict[str, Any] = {"name": "aqua/greedy", "task": "aqua", "protocol": "greedy", "split": "test"}
    return Answers(
        **{**whole, "grader": "g@1", "settings": {"max_new_tokens": 64, "seed": 1}, "records": records, **changed}
    )


def sampled(right: list[list[bool]], **changed: Any) -> Answers:
    records = [record(i, correct) for i, row in enumerate(right) for correct in row]
    return single([], protocol="sampled", records=records, **changed)


def test_a_line_of_single_answers_is_the_comparison_of_the_report() -> None:
    rng = random.Random(0)
    first = single([rng.random() < 0.4 for _ in range(300)])
    second = single([r.correct or rng.random() < 0.1 for r in first.records])
    (line,) = side_by_side([first], [second])["lines"]
    expected = compare(first.records, second.records)
    assert line["difference"] == pytest.approx(expected["difference"])
    assert (line["difference_lo"], line["difference_hi"]) == (expected["difference_lo"], expected["difference_hi"])
    assert (line["p"], line["p_corrected"]) == (expected["mcnemar_p"], expected["mcnemar_p"])
    assert (line["fell"], line["rose"]) == (expected["only_parent"], expected["only_child"])
    assert line["minimum_detectable"] == pytest.approx(expected["minimum_detectable"])
    assert line["verdict"] == expected["verdict"] == "above"
    right = sum(r.correct for r in first.records)
    assert (line["first"]["lo"], line["first"]["hi"]) == st.wilson_interval(right, 300)


def test_repeated_answers_are_compared_by_the_means_of_questions() -> None:
    rng = random.Random(1)
    ease = [rng.random() for _ in range(120)]
    ours = [[rng.random() < p for _ in range(4)] for p in ease]
    theirs = [[rng.random() < 0.8 * p for _ in range(8)] for p in ease]
    (line,) = side_by_side([sampled(ours)], [sampled(theirs)])["lines"]
    differences = [sum(b) / 8 - sum(a) / 4 for a, b in zip(ours, theirs, strict=True)]
    assert line["test"] == "permutation of means"
    assert line["p"] == st.paired_permutation_test(differences, seed=0)
    assert (line["difference_lo"], line["difference_hi"]) == st.paired_mean_interval(differences, seed=0)
    assert (line["n"], line["first"]["answers"], line["second"]["answers"]) == (120, 4, 8)
    clustered = mean_at_n(ours)
    assert (line["first"]["accuracy"], line["first"]["lo"]) == pytest.approx((clustered.value, clustered.lo))
    assert line["verdict"] == "below"
    # Samples of a question are alike: as independent answers the difference would look far more certain.
    assert line["p"] > st.mcnemar_exact(sum(map(sum, theirs)), sum(map(sum, ours)))


def test_two_equal_evaluations_do_not_differ() -> None:
    same = sampled([[True, False], [False, False], [True, True]])
    (line,) = side_by_side([same], [same])["lines"]
    assert (line["p"], line["difference"], line["verdict"]) == (1, 0, "no difference shown")


def test_many_lines_are_corrected_together() -> None:
    first = single([False] * 6 + [True] * 94)
    second = single([True] * 100)
    (alone,) = side_by_side([first], [second])["lines"]
    assert alone["p"] == pytest.approx(2 / 2**6) and alone["verdict"] == "above"
    tasks = [f"task{i}" for i in range(5)]
    lines = side_by_side([replace(first, name=t) for t in tasks], [replace(second, name=t) for t in tasks])["lines"]
    assert [line["p_corrected"] for line in lines] == pytest.approx([5 * 2 / 2**6] * 5)
    assert {line["verdict"] for line in lines} == {"no difference shown"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"grader": "g@2"}, "the graders differ: g@1 and g@2"),
        ({"settings": {"max_new_tokens": 96}}, "not asked alike: max_new_tokens is 64 in A and 96 in B"),
        ({"settings": {"max_new_tokens": 64, "calculator": True}}, "calculator is None in A and True in B"),
        (
            {"records": [record(i, True) for i in range(8)]},
            "2 question ids are in one of the two only (10 in A, 8 in B)",
        ),
        ({"records": [record(i, True, "Else?" if i else "") for i in range(10)]}, "the prompts differ: 9 of 10"),
        ({"name": "gsm8k/greedy"}, "only A has it"),
    ],
)
def test_what_was_not_asked_alike_is_not_compared(changed: dict[str, Any], reason: str) -> None:
    found = side_by_side([single([True] * 10)], [single([True] * 10, **changed)])
    assert found["lines"] == []
    assert reason in found["not_compared"][0]["reason"]


def test_common_questions_can_be_compared() -> None:
    whole, part = single([True] * 10 + [False] * 10), single([False] * 4 + [True] * 4)
    (left,) = side_by_side([whole], [part])["not_compared"]
    assert left["reason"].endswith("(20 in A, 8 in B): --common compares the 8 that are in both")
    (line,) = side_by_side([whole], [part], common=True)["lines"]
    assert (line["n"], line["asked"], line["fell"], line["rose"]) == (8, (20, 8), 4, 0)
    assert (line["first"]["accuracy"], line["second"]["accuracy"]) == (1.0, 0.5)
    other = single([], records=[record(i, True) for i in range(30, 33)])
    (left,) = side_by_side([whole], [other], common=True)["not_compared"]
    assert left["reason"] == "they have no question in common"
    (left,) = side_by_side([whole], [other])["not_compared"]
    assert "--common" not in left["reason"]
    changed = single([], records=[record(i, True, "Else?") for i in range(5)])
    (left,) = side_by_side([whole], [changed], common=True)["not_compared"]
    assert "the prompts differ: 5 of 5 questions" in left["reason"]


def test_detectable_is_at_the_level_of_the_first_of_all_lines() -> None:
    first, second = single([False] * 8 + [True] * 92), single([True] * 96 + [False] * 4)
    (alone,) = side_by_side([first], [second])["lines"]
    assert alone["minimum_detectable"] == detectable_by_mcnemar(100, 0.12)
    tasks = [f"task{i}" for i in range(5)]
    lines = side_by_side([replace(first, name=t) for t in tasks], [replace(second, name=t) for t in tasks])["lines"]
    assert {line["minimum_detectable"] for line in lines} == {detectable_by_mcnemar(100, 0.12, alpha=0.01)}


def test_nothing_is_detectable_where_nothing_could_be() -> None:
    few = single([True] * 5)
    assert side_by_side([few], [few])["lines"][0]["minimum_detectable"] is None
    # Of 20 equal answers a difference of six and more, all to one side, would be found.
    some = single([True] * 20)
    least = side_by_side([some], [some])["lines"][0]["minimum_detectable"]
    assert least is not None and 6 / 20 < least < 9 / 20
    # Five questions that moved a little are no measure of how much questions move.
    ours, theirs = sampled([[True, False]] * 40), sampled([[True, True]] * 5 + [[True, False]] * 35)
    assert side_by_side([ours], [theirs])["lines"][0]["minimum_detectable"] is None


def test_the_sides_change_places() -> None:
    rng = random.Random(4)
    ours = sampled([[rng.random() < 0.5 for _ in range(8)] for _ in range(50)])
    theirs = sampled([[rng.random() < 0.55 for _ in range(8)] for _ in range(50)])
    (there,), (back,) = side_by_side([ours], [theirs])["lines"], side_by_side([theirs], [ours])["lines"]
    assert (back["difference_lo"], back["difference_hi"]) == (-there["difference_hi"], -there["difference_lo"])
    assert back["p"] == pytest.approx(there["p"])


def test_the_seed_and_the_number_of_samples_may_differ() -> None:
    settings = {"max_new_tokens": 64, "seed": 2, "samples": 16}
    assert side_by_side([single([True] * 10)], [single([True] * 10, settings=settings)])["not_compared"] == []


def test_rotations_must_be_the_same_ones() -> None:
    def rotated(orders: str) -> Answers:
        records = [replace(record(0, order == "x"), question=f"Order {order}") for order in orders]
        return single([], protocol="rotated", records=records)

    assert len(side_by_side([rotated("xyz")], [rotated("zxy")])["lines"]) == 1
    assert side_by_side([rotated("xyz")], [rotated("xyw")])["lines"] == []


def test_flips_are_those_that_moved_most_and_then_the_first() -> None:
    ours = sampled([[True, True], [True, False], [False, False], [True, True], [False, False]])
    theirs = sampled([[True, False], [False, True], [True, True], [False, False], [False, False]])
    fell, rose = flips(ours, theirs, 5)
    assert [flip["id"] for flip in fell] == ["q0003", "q0000"]
    assert [flip["id"] for flip in rose] == ["q0002"]
    assert [x["correct"] for x in fell[0]["first"] + fell[0]["second"]] == [True, True, False, False]
    assert [len(found) for found in flips(ours, theirs, 1)] == [1, 1]


def test_a_report_of_before_there_were_several_evaluations_is_one(chain: Any) -> None:
    chain.train("sft")
    chain.evaluate("sft", chain.answers(chain.asked, 0.5), config=CONFIG)
    (found,) = answers_of(Evaluated.read(chain.reports["sft"]), {"calculator": True})
    assert (found.name, found.task, found.protocol, found.split) == ("aqua/greedy+calculator", "aqua", "greedy", "test")
    assert found.settings.keys() == {"limit", "max_new_tokens", "calculator", "permute_options", "seed"}
    assert len(found.records) == 400


# --- the command ----------------------------------------------------------------------------------------------------


def evaluated(chain: Any) -> Any:
    """SFT at 50 % and RL at 70 %, and a checkpoint without a report."""
    chain.train("mid")
    for stage, parent, accuracy in (("sft", "mid", 0.5), ("rl", "sft", 0.7)):
        chain.train(stage, parent)
        chain.evaluate(stage, chain.answers(chain.asked, accuracy, seed=len(stage)), config=CONFIG)
    return chain


@pytest.fixture(scope="module")
def two(chain_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A chain for tests that do not change it."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUARAT_CACHE", str(folder / "cache"))
        yield evaluated(chain_class(ArtifactStore.open(f"file://{folder}/store"), folder / "scratch"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    return code, *capsys.readouterr()


def test_two_checkpoints_by_name(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "sft_checkpoint", "rl_checkpoint", "--store", two.store.uri)
    line = next(line for line in out.splitlines() if line.startswith("aqua/greedy "))
    assert code == 0 and line.endswith("B is better")
    assert f"A: sft_checkpoint {two.checkpoints['sft'].sha256[:12]}" in out
    assert "Before B's report the store had 1 report on aqua (test), of 1 checkpoint." in out
    found = json.loads(run(capsys, "sft_checkpoint", "rl_checkpoint", "--store", two.store.uri, "--json")[1])
    assert "A only / B only" in out and f" {found['lines'][0]['fell']} / {found['lines'][0]['rose']} " in line
    assert "four times out of five at p < 0.05." in out


@pytest.mark.parametrize("better_first", [False, True])
def test_exit_codes_for_scripts(two: Any, capsys: pytest.CaptureFixture[str], better_first: bool) -> None:
    names = ["rl_checkpoint", "sft_checkpoint"] if better_first else ["sft_checkpoint", "rl_checkpoint"]
    code, out, _ = run(capsys, *names, "--store", two.store.uri, "--fail-if-worse")
    assert code == better_first
    assert run(capsys, *names, "--store", two.store.uri)[0] == 0
    assert ("B is worse" in out) == better_first


def test_json_holds_the_numbers_and_the_flips(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "sft_eval_report", two.reports["rl"].sha256[:10], "--store", two.store.uri,
                       "--json", "--flips", "2")  # fmt: skip
    found = json.loads(out)
    (line,) = found["lines"]
    records = [two.answers(two.asked, x, seed=n) for x, n in ((0.5, 3), (0.7, 2))]
    expected = compare(*records)
    assert (code, line["difference"], line["p"]) == (0, pytest.approx(expected["difference"]), expected["mcnemar_p"])
    assert (found["worse"], found["not_compared"]) == (False, [])
    assert len(found["only_second_right"]) == 2 and line["rose"] > 50
    assert len(found["only_first_right"]) == min(2, line["fell"])
    flip = found["only_second_right"][0]
    assert [x["correct"] for x in flip["first"] + flip["second"]] == [False, True]
    assert found["first"]["checkpoint_manifest_sha256"] == two.checkpoints["sft"].sha256


def test_flips_are_shown_in_full(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "sft_checkpoint", "rl_checkpoint", "--store", two.store.uri, "--flips", "1")
    asked = {q.id: q for q in two.asked}
    headings = [line for line in out.splitlines() if line.startswith("===")]
    assert "right in B" in headings[-1]
    question = next(q for q in asked.values() if q.id in headings[-1])
    assert prompt(question) in out and target(question) in out
    assert "--- A (wrong): answered" in out and f"--- B (right): answered {question.correct} ---" in out


def sampled_too(chain: Any, stage: str, accuracy: float) -> None:
    """A report on the main task, four samples of each of its questions, and other questions of another split."""
    records = chain.answers(chain.asked, accuracy)
    other = records[: 50 if stage == "rl" else 60]
    parts: dict[str, list[Record]] = {"aqua/greedy": records, "aqua/sampled": [], "aqua@validation/greedy": other}
    for sample in range(4):
        again = chain.answers(chain.asked, accuracy, seed=100 * len(stage) + sample)
        parts["aqua/sampled"] += [replace(r, sample=sample, prompt_sha256=prompt_hash(r.question)) for r in again]
    whole = [replace(r, evaluation=name, task="aqua") for name, rows in parts.items() for r in rows]
    facts = [
        Facts(
            name=name, task="aqua", protocol="sampled" if "sampled" in name else "greedy", questions="generated",
            split="validation" if "validation" in name else "test", settings={"max_new_tokens": 96}, grader="g@1",
            categories=list("ABCDE"), majority="A", longest=None, data_asset="aqua_dataset", data_version="d" * 64,
        )
        for name in parts
    ]  # fmt: skip
    made = [evaluate(f, [r for r in whole if r.evaluation == f["name"]]) for f in facts]
    chain.train(stage)
    report = chain.evaluate(stage, records, config=CONFIG)
    report["evaluations"] = made
    outdir, _ = chain.folders(f"{stage}_eval_report")
    (outdir / "report.json").write_text(json.dumps(report))
    write_records(outdir / "questions.parquet", whole, facts)
    chain.reports[stage] = chain.publish(
        f"{stage}_eval_report", "report", {}, (chain.checkpoints[stage], chain.aqua),
        metrics={f"{e['name']}/accuracy": e["figures"]["accuracy"] for e in made[1:]},
        config=CONFIG.model_dump(mode="json"),
    )  # fmt: skip


def test_all_evaluations_of_two_reports(chain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sampled_too(chain, "sft", 0.5)
    sampled_too(chain, "rl", 0.6)
    names = ["sft_checkpoint", "rl_checkpoint", "--store", chain.store.uri, "--json"]
    code, out, _ = run(capsys, *names, "--flips", "1")
    found = json.loads(out)
    greedy, several = found["lines"]
    assert (code, greedy["name"], greedy["test"]) == (0, "aqua/greedy", "exact McNemar")
    assert (several["name"], several["test"]) == ("aqua/sampled", "permutation of means")
    assert (several["n"], several["first"]["answers"], several["protocol"]) == (400, 4, "sampled")
    assert [greedy["p_corrected"], several["p_corrected"]] == st.holm([greedy["p"], several["p"]])
    assert greedy["verdict"] == several["verdict"] == "above"
    (left,) = found["not_compared"]
    assert left["name"] == "aqua@validation/greedy" and "10 question ids" in left["reason"]
    assert len(found["only_second_right"]) == 2 and len(found["only_second_right"][-1]["second"]) == 4
    (only,) = json.loads(run(capsys, *names, "--protocol", "sampled")[1])["lines"]
    assert only["p_corrected"] == several["p"]
    # Each of the two was published twice, first with the main task alone.
    artifacts = all_artifacts(chain.store)
    assert looks_before(chain.reports["rl"], artifacts, "aqua", "test") == (3, 2)
    assert looks_before(chain.reports["rl"], artifacts, "aqua", "validation") == (1, 1)
    text = run(capsys, *names[:-1], "--flips", "1")[1]
    assert "Not compared:\n  aqua@validation/greedy: 10 question ids" in text
    assert "four times out of five at p < 0.05/2, as for the first of as many lines" in text
    both = run(capsys, *names[:-1], "--common")[1]
    said = "aqua@validation/greedy: only the 50 questions that both were asked are compared, of 60 of A and 50 of B."
    assert said in both and "Not compared" not in both
    folders = [str(chain.reports[x].directory()) for x in ("sft", "rl")]
    for store, looks in (
        (chain.store.uri, "which has 0 reports on aqua (test)"),
        (f"file://{chain.scratch}/none", "0"),
    ):
        alike = run(capsys, *folders, "--store", store)[1]
        assert "B is in a folder and is not counted in the store, " in alike and looks in alike
    assert " of 4 right, one of them, wrong): answered" in text


def test_a_folder_is_a_report_too(two: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = two.reports["rl"].directory()
    code, out, _ = run(capsys, "sft_checkpoint", str(folder), "--store", two.store.uri)
    assert code == 0 and "B is better" in out and f"by {folder}\n" in out
    assert "B is in a folder and is not counted in the store, which has" not in out  # an old report names no data
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, error = run(capsys, "sft_checkpoint", str(empty), "--store", two.store.uri)
    assert code == 2 and f"the folder {empty} has no report.json" in error
    (tmp_path / "report.json").write_bytes((folder / "report.json").read_bytes())
    code, _, error = run(capsys, "sft_checkpoint", str(tmp_path), "--store", two.store.uri)
    assert code == 2 and "a report.json and no questions.parquet" in error


def test_by_uri_in_another_store(two: Any, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    code, out, _ = run(capsys, two.checkpoints["sft"].uri, two.reports["rl"].uri, "--store", f"file://{tmp_path}/else")
    assert code == 0 and "B is better" in out


def test_a_checkpoint_s_newest_report_counts(chain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(chain)
    older = chain.reports["rl"]
    chain.evaluate("rl", chain.answers(chain.asked, 0.2, seed=9), config=CONFIG)
    artifacts = all_artifacts(chain.store)
    found = reports_about(chain.checkpoints["rl"], artifacts.values())
    assert [a.sha256 for a in found] == [chain.reports["rl"].sha256, older.sha256]
    assert run(capsys, "sft_checkpoint", "rl_checkpoint", "--store", chain.store.uri, "--fail-if-worse")[0] == 1
    assert looks_before(chain.reports["rl"], artifacts, "aqua", "test") == (2, 2)
    assert looks_before(older, artifacts, "aqua", "test") == (1, 1)
    for task, split in (("aqua", "validation"), ("gsm8k", "test")):
        assert looks_before(chain.reports["rl"], artifacts, task, split) == (0, 0)


def test_a_checkpoint_that_is_gone_counts_as_one_of_its_own(two: Any) -> None:
    artifacts = all_artifacts(two.store)
    assert looks_before(two.reports["rl"], artifacts, "aqua", "test") == (1, 1)
    del artifacts[two.checkpoints["sft"].sha256]
    assert looks_before(two.reports["rl"], artifacts, "aqua", "test") == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aqua_dataset", "rl_checkpoint"], "aqua_dataset is a dataset: only checkpoints and eval reports"),
        (["mid_checkpoint", "rl_checkpoint"], "has no eval report on mid_checkpoint"),
        (["nothing", "rl_checkpoint"], "has no asset or manifest 'nothing'"),
        (
            ["sft_checkpoint", "rl_checkpoint", "--task", "aqa"],
            "--task aqa: did you mean 'aqua'? the reports have aqua",
        ),
        (["sft_checkpoint", "rl_checkpoint", "--protocol", "x"], "--protocol x: the reports have greedy"),
        (["file:///x", "rl_checkpoint"], "file:///x is no artifact's URI"),
        (["sft_checkpoint", "rl_checkpoint", "--flips", "-1"], "--flips must be at least 0"),
    ],
)
def test_mistakes(two: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, error = run(capsys, *arguments, "--store", two.store.uri, "--fail-if-worse")
    assert (code, out) == (2, "")
    assert said in error


def test_nothing_in_common_is_a_mistake_not_a_pass(chain: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(chain)
    chain.evaluate("rl", chain.answers(chain.asked, 0.7), config=CONFIG.model_copy(update={"max_new_tokens": 128}))
    code, _, error = run(capsys, "sft_checkpoint", "rl_checkpoint", "--store", chain.store.uri, "--fail-if-worse")
    assert code == 2
    assert "nothing to compare" in error and "max_new_tokens is 96 in A and 128 in B" in error
