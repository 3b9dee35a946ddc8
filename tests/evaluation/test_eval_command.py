"""`aquarat eval` on published checkpoints: where questions come from, what is printed and written, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aquarat_core.artifacts.survey import readable_artifacts
from aquarat_core.evaluation.figures import rebuild
from aquarat_core.evaluation.looks import reports_about
from aquarat_core.evaluation.records import read_records
from aquarat_core.evaluation.report import Evaluated
from tests.evaluation.bundles import TASKS, write_bundle, zipped
from tests.evaluation.shop import CODE, Run, Shop


def test_a_table_with_intervals_and_baselines(run: Run) -> None:
    code, said, _ = run("sft_checkpoint", "--max-new-tokens", "8")
    assert code == 0 and "says nothing about AQuA-RAT" in said.splitlines()[0]
    lines = [line for line in said.splitlines() if line]
    heads, row = lines[2], lines[3]
    assert all(head in heads for head in ("accuracy", "95% CI", "guessing", "best constant", "longest", "read"))
    assert row.split()[:6] == ["aqua/greedy", "10", "20.0%", "[5.7,", "51.0]", "20.0%"]


def test_every_protocol_of_a_task_as_json(run: Run) -> None:
    protocols = "greedy,sampled,letters,continuations,cued,rotated"
    code, said, _ = run("sft_checkpoint", "--protocol", protocols, "--samples", "3", "--limit", "4", "--json",
                        "--max-new-tokens", "8")  # fmt: skip
    found = json.loads(said)
    assert code == 0 and found["chat_core"] is None
    # What gives one answer to each question comes first.
    assert [e["protocol"] for e in found["evaluations"]] == [
        "greedy", "letters", "continuations", "cued", "sampled", "rotated",
    ]  # fmt: skip
    assert [e["answers"] for e in found["evaluations"]] == [4, 4, 4, 4, 12, 4]
    by_protocol = {e["protocol"]: e for e in found["evaluations"]}
    assert by_protocol["greedy"]["figures"]["accuracy"] == by_protocol["letters"]["figures"]["accuracy"]
    assert by_protocol["letters"]["figures"]["letter_mass"] > 0.9
    assert by_protocol["rotated"]["figures"]["rotation"]["kept"] == 4
    text = run("sft_checkpoint", "--protocol", protocols, "--samples", "3", "--limit", "4")[1]
    for said_too in ("pass@2", "majority@2", "Brier", "ECE", "4 keep their order"):
        assert said_too in text


def test_the_report_is_written_whole(run: Run, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, _ = run("sft_checkpoint", "--protocol", "sampled,letters", "--samples", "2", "--out", str(out))
    assert code == 0 and f"the report is in {out}" in said
    assert {p.name for p in out.iterdir()} == {"report.json", "questions.parquet", "report.md", "report.html"}
    report = json.loads((out / "report.json").read_text())
    assert report["checkpoint"]["manifest_sha256"] == shop.sft.sha256
    assert report["evaluation"]["decoding"] == "letters" and report["summary"]["n"] == 10
    assert json.loads(json.dumps(rebuild(out / "questions.parquet"))) == report["evaluations"]
    made = shop.publish("my_report", "report", out, (shop.sft,))
    assert len(Evaluated.read(made).records) == 10
    only_samples = tmp_path / "samples"
    assert run("sft_checkpoint", "--protocol", "sampled", "--limit", "2", "--out", str(only_samples))[0] == 0
    assert json.loads((only_samples / "report.json").read_text())["evaluation"]["decoding"] == "greedy"
    code, _, err = run("sft_checkpoint", "--limit", "3", "--out", str(out))
    assert code == 2 and f"{out} holds a report already (report.json): take another folder, or say --force" in err
    assert json.loads((out / "report.json").read_text()) == report
    (out / "lm_eval_results.json").write_text("{}")
    assert run("sft_checkpoint", "--limit", "3", "--out", str(out), "--force")[0] == 0
    assert json.loads((out / "report.json").read_text())["summary"]["n"] == 3
    assert not (out / "lm_eval_results.json").exists()
    (tmp_path / "file").write_text("")
    code, _, err = run("sft_checkpoint", "--out", str(tmp_path / "file"))
    assert code == 2 and "cannot be written" in err


def test_looks_at_a_split_are_told_though_not_counted(run: Run, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "This evaluation is not counted in the store, which has 0 reports on aqua (test)" in run("sft_checkpoint")[1]
    run("sft_checkpoint", "--out", str(out))
    made = shop.store.publish(
        asset="sft_eval_report", kind="report", directory=out, config={"task": "aqua", "split": "test"}, profile="test",
        code=CODE, run_id="r", seeds={}, parents=(shop.sft.as_parent(), shop.aqua.as_parent()), metrics={},
    )  # fmt: skip
    counted = "This evaluation is not counted in the store, which has 1 report on aqua (test), of 1 checkpoint."
    said = run("sft_checkpoint", "--out", str(tmp_path / "again"))[1]
    assert counted in said and counted in (tmp_path / "again" / "report.html").read_text()
    assert made.sha256 in {a.sha256 for a in reports_about(shop.sft, readable_artifacts(shop.store).values())}


def test_answers_may_be_as_long_as_in_the_newest_report(run: Run, shop: Shop, tmp_path: Path) -> None:
    """Else two evaluations of the same checkpoint would not compare."""

    def asked(*arguments: str) -> dict[str, int]:
        found = json.loads(run(*arguments, "--json")[1])["evaluations"]
        return {e["name"]: e["settings"]["max_new_tokens"] for e in found}

    shop.chat_datasets(arc_easy=6)
    assert asked("sft_checkpoint") == {"aqua/greedy": 48}  # half of the context
    run("sft_checkpoint", "--max-new-tokens", "5", "--out", str(tmp_path / "out"))
    shop.publish("sft_eval_report", "report", tmp_path / "out", (shop.sft, shop.aqua))
    assert asked("sft_checkpoint", "--protocol", "greedy,sampled", "--samples", "2", "--limit", "2") == {
        "aqua/greedy": 5, "aqua/sampled": 5,
    }  # fmt: skip
    # The report says nothing about another task.
    assert asked("sft_checkpoint", "--tasks", "aqua,arc_easy", "--limit", "2") == {
        "aqua/greedy": 5, "arc_easy/greedy": 48,
    }  # fmt: skip
    assert asked("sft_checkpoint", "--max-new-tokens", "7") == {"aqua/greedy": 7}
    run("sft_checkpoint", "--out", str(tmp_path / "second"))
    assert json.loads((tmp_path / "second" / "report.json").read_text())["evaluation"]["max_new_tokens"] == 5


def test_answers_may_be_as_long_as_in_training(run: Run, shop: Shop) -> None:
    trained = shop.store.publish(
        asset="rl_checkpoint", kind="checkpoint", directory=shop.sft.directory(), profile="test", code=CODE, run_id="r",
        config={"tasks": [{"name": "aqua"}], "max_new_tokens": 9}, seeds={}, parents=(shop.aqua.as_parent(),),
        metrics={},
    )  # fmt: skip
    found = json.loads(run(trained.sha256, "--limit", "2", "--json")[1])
    assert found["evaluations"][0]["settings"]["max_new_tokens"] == 9


def test_the_checkpoints_own_data_come_before_the_latest(run: Run, shop: Shop) -> None:
    shop.aqua_dataset(7)
    assert json.loads(run("sft_checkpoint", "--json")[1])["evaluations"][0]["n"] == 10
    named = shop.aqua_dataset(3)
    assert json.loads(run("sft_checkpoint", "--json", "--data", named.sha256[:12])[1])["evaluations"][0]["n"] == 3
    imported = shop.checkpoint("imported_checkpoint")
    assert json.loads(run("imported_checkpoint", "--json")[1])["evaluations"][0]["n"] == 3
    assert json.loads(run(imported.uri, "--json")[1])["manifest_sha256"] == imported.sha256
    assert json.loads(run(imported.sha256[:10], "--json")[1])["manifest_sha256"] == imported.sha256


def test_chat_core_of_the_tasks_at_hand(run: Run, shop: Shop) -> None:
    shop.chat_datasets(arc_easy=6, mmlu=0)
    code, said, _ = run("sft_checkpoint", "--chat-core", "--limit", "5")
    assert code == 0 and "ChatCORE-2" in said and "without arc_challenge, mmlu, gsm8k, humaneval, spelling" in said
    found = json.loads(run("sft_checkpoint", "--chat-core", "--limit", "5", "--json")[1])
    assert [e["name"] for e in found["evaluations"]] == ["arc_easy/letters", "aqua/greedy"]
    arc = found["evaluations"][0]
    assert (arc["n"], arc["baselines"]["chance"]) == (5, pytest.approx(1 / 3))
    assert found["chat_core"]["tasks"][0]["baseline"] == 0.25


def test_core_from_a_bundle_or_the_store(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    zipped(folder, tmp_path / "bundle.zip")
    code, said, err = run("sft_checkpoint", "--core", "--limit", "12", "--bundle", str(tmp_path / "bundle.zip"))
    assert code == 0, err
    assert "task of CORE" in said and "baseline (v2)" in said
    assert re.search(rf"CORE-{len(TASKS)}@12 -?0\.\d{{4}} \[-?0\.\d{{4}}, -?0\.\d{{4}}\]", said)
    code, _, err = run("sft_checkpoint", "--core")
    assert code == 2 and "has no eval_bundle: set eval_report.core in your profile" in err
    shop.publish("eval_bundle", "dataset", folder, ())
    out = tmp_path / "out"
    found = json.loads(run("sft_checkpoint", "--core", "--limit", "12", "--json", "--out", str(out))[1])
    report = json.loads((out / "report.json").read_text())
    assert found["core"] == report["core"] and len(found["core"]["tasks"]) == len(TASKS)
    # A report is about single answers to a task first.
    assert [e["name"] for e in found["evaluations"]] == ["aqua/greedy"]
    records = [r for r in read_records(out / "questions.parquet") if r.evaluation.startswith("core/")]
    assert len(records) == 12 * len(TASKS)
    right = sum(r.correct for r in records if r.evaluation == "core/copa@12") / 12
    assert right == next(t["accuracy"] for t in found["core"]["tasks"] if t["label"] == "copa")
    assert json.loads(json.dumps(rebuild(out / "questions.parquet"))) == report["evaluations"]


def test_a_task_that_a_profile_defines_comes_with_its_data(run: Run, shop: Shop) -> None:
    shop.chat_datasets({"birds": {"kind": "multiple_choice", "name": "birds", "train": "x", "n_test": 3}}, birds=3)
    found = json.loads(run("sft_checkpoint", "--tasks", "birds,aqua", "--protocol", "letters", "--json")[1])
    assert [(e["name"], e["n"]) for e in found["evaluations"]] == [("birds/letters", 3), ("aqua/letters", 10)]
    assert found["evaluations"][0]["figures"]["letters"].keys() == {"A", "B", "C"}


def test_code_of_a_data_set_is_run_only_if_it_is_trusted(run: Run, shop: Shop) -> None:
    code = "raise SystemExit('it ran')"
    shop.chat_datasets({"birds": {"kind": "module", "module": "birds.py", "code": code}}, birds=3)
    status, _, err = run("sft_checkpoint", "--tasks", "birds")
    assert status == 2 and "is graded by code that chat_datasets" in err and "say --run-code" in err
    status, _, err = run("sft_checkpoint", "--tasks", "birds", "--run-code")
    assert status == 2 and "it ran" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("aqua_dataset",), "aqua_dataset is a dataset: only checkpoints can be evaluated"),
        (("no_checkpoint",), "has no asset or manifest 'no_checkpoint'"),
        (("sft_checkpoint", "--tasks", "aqau"), "there is no task 'aqau': did you mean 'aqua'?"),
        (("sft_checkpoint", "--tasks", "mmlu"), "has no chat_datasets. Materialize chat_datasets with {name: mmlu} in"),
        (("sft_checkpoint", "--split", "validation"), "no validation questions of aqua are at hand: aqua_dataset"),
        (
            ("sft_checkpoint", "--protocol", "leters"),
            "--protocol leters: did you mean 'letters'? the protocols are greedy",
        ),
        (("sft_checkpoint", "--protocol", "greedy,letters,greedy"), "--protocol names greedy twice"),
        (("sft_checkpoint", "--tasks", "aqua,aqua"), "--tasks names aqua twice"),
        (("sft_checkpoint", "--limit", "0"), "--limit must be at least 1"),
        (("sft_checkpoint", "--protocol", "letters", "--calculator"), "--calculator: none of these protocols"),
        (("sft_checkpoint", "--protocol", "sampled", "--samples", "1"), "samples"),
        (("sft_checkpoint", "--data", "sft_checkpoint"), "sft_checkpoint holds no questions"),
        (("sft_checkpoint", "--bundle", "x.zip"), "--bundle is for --core"),
        (("sft_checkpoint", "--core", "--bundle", "no.zip"), "the bundle no.zip cannot be read"),
        (("sft_checkpoint", "--core", "--limit", "10"), "--limit must be at least 11 with --core: up to 10 questions"),
        (("file:///nowhere/at/all",), "is no artifact's URI: it ends in /manifests/<hash>.json"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and complaint in err and "Traceback" not in err


def test_a_checkpoint_without_its_tokenizer(run: Run, shop: Shop) -> None:
    shop.checkpoint("bare_checkpoint", shop.aqua, without="tokenizer.json")
    code, _, err = run("bare_checkpoint")
    assert code == 2 and "was published without its tokenizer (tokenizer.json)" in err


def test_answers_of_which_none_can_be_read_are_said_on_top(run: Run) -> None:
    code, said, _ = run("sft_checkpoint", "--max-new-tokens", "2")
    assert code == 0 and said.splitlines()[1].startswith("aqua/greedy: None of the 10 answers could be read")
    no_room = run("sft_checkpoint")[1].splitlines()[1]
    assert no_room.startswith("aqua/greedy: 10 of 10 questions leave no room for max_new_tokens 48 in the model's")


def test_a_task_without_options_has_no_letters(run: Run, shop: Shop) -> None:
    shop.chat_datasets({"sums": {"kind": "numeric", "name": "sums"}}, sums=2)
    code, _, err = run("sft_checkpoint", "--tasks", "sums", "--protocol", "letters")
    assert code == 2 and "sums cannot be evaluated under protocol 'letters': it supports greedy, sampled" in err
