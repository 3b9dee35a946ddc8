"""A task of the user's own, read by chat_datasets: its files, its bad rows, what is held out, what leaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from aquarat_core.config import load_profile
from aquarat_core.errors import StageError, UserError
from aquarat_core.stages import chat_datasets
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.stages.task_inputs import task_input
from aquarat_core.tasks.example_files import read_examples
from aquarat_core.tasks.own_code import TaskCodeError
from tests.stages.conftest import Bench
from tests.tasks.test_own_code import GOOD

WORDS = ("apples", "bricks", "coins", "doors", "eggs", "figs", "goats", "hats", "inks", "jars")


def row(i: int, **changes: Any) -> dict[str, Any]:
    """Questions that share too few words to be alike."""
    question = f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100 % 10]} number {i}: which?"
    return {"stem": question, "choices": [f"{i} m", f"{i + 1} m", f"{i + 2} m"], "key": "ABC"[i % 3]} | changes


CHOICE = {"name": "birds", "kind": "multiple_choice", "n_validation": 3, "n_test": 4, "train": "train.jsonl",
          "columns": {"question": "stem", "options": "choices", "answer": "key"}}  # fmt: skip
NUMBER = {"name": "sums", "kind": "numeric", "n_validation": 2, "n_test": 2, "train": "train.jsonl"}
MODULE = {"name": "near", "module": "near.py", "n_validation": 2, "n_test": 2, "train": "train.jsonl"}
SUMS = [{"q": f"{WORDS[i % 10]} and {i}?", "a": i} for i in range(12)]


def jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))


def made(bench: Bench, folder: Path, task: dict[str, Any]) -> tuple[StageContext, dict[str, Scalar]]:
    """chat_datasets of a profile with the task, whose files are in `folder`."""
    (folder / "mine.yaml").write_text(yaml.safe_dump({"extends": "demo", "task": task}))
    profile = load_profile(str(folder / "mine.yaml"))
    ctx = bench.context("chat_datasets", {})
    sources = profile.chat_datasets.sources[:1]
    ctx.config = profile.section("chat_datasets").model_copy(update={"sources": sources})
    return ctx, chat_datasets.run(ctx)


def refused(bench: Bench, folder: Path, task: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        made(bench, folder, task)
    return str(caught.value)


def test_rows_become_examples_and_some_are_held_out(bench: Bench, tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [row(i) for i in range(30)])
    ctx, summary = made(bench, tmp_path, CHOICE)
    assert (summary["birds_train"], summary["birds_validation"], summary["birds_test"]) == (23, 3, 4)
    splits = {s: list(read_examples(ctx.outdir / f"birds.{s}.parquet")) for s in ("train", "validation", "test")}
    questions = [e.answer["question"] for found in splits.values() for e in found]
    assert sorted(questions) == sorted(row(i)["stem"] for i in range(30))
    assert all(e.answer["options"][e.answer["correct"]] == e.choices["ABC".index(e.reference)] for e in splits["test"])
    described = json.loads((ctx.outdir / "sources.json").read_text())["birds"]
    assert (described["kind"], described["letters"], described["rows_train"]) == ("multiple_choice", 3, 23)
    assert described["read"]["train"]["name"] == "train.jsonl"


def test_each_split_may_be_a_file_of_another_format(bench: Bench, tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [row(i) for i in range(5)])
    pq.write_table(pa.Table.from_pylist([row(i) for i in range(5, 9)]), tmp_path / "validation.parquet")
    (tmp_path / "test.csv").write_text('stem,choices,key\nWhich is blue?,"[""sky"", ""grass""]",sky\n')
    _, summary = made(bench, tmp_path, {**CHOICE, "validation": "validation.parquet", "test": "test.csv"})
    assert [summary[f"birds_{split}"] for split in ("train", "validation", "test")] == [5, 3, 1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(3, key="D"), "the answer 'D' does not match any option"),
        (row(3, choices=["one"]), "1 options: a question must have 2 to 26"),
        (row(3, choices=["3 m", "3 m"]), "two options are the same"),
        (row(3, choices=[3, 4, None]), "an option is None"),
        (row(3, choices=[str(i) for i in range(27)]), "27 options"),
        (row(3, stem=" "), "question is blank"),
        (row(3, stem=5), "question is an integer instead of a text"),
        ({"stem": "?", "key": "A"}, "there is no column 'choices' (columns.options); there are stem, key"),
        (row(3, id=True), "the id is True"),
        (row(3, id="x" * 1000), None),
        (row(3, choices={"label": None, "text": ["a", "b"]}), "label and text of the options should be lists"),
        ("{", "is not valid JSON"),
        ('{"stem": NaN}', "NaN is not a JSON number"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_file_and_line_or_left_out(
    bench: Bench, tmp_path: Path, bad: Any, said: str | None
) -> None:
    jsonl(tmp_path / "train.jsonl", [row(0), row(1), bad, *[row(i) for i in range(4, 20)]])
    if said is None:
        made(bench, tmp_path, CHOICE)
        return
    text = refused(bench, tmp_path, CHOICE)
    assert text.startswith("train.jsonl, line 3 (of task birds): ")
    assert said in text and "tasks.birds.on_bad_row to 'drop'" in text
    ctx, summary = made(bench, tmp_path, {**CHOICE, "on_bad_row": "drop"})
    assert (summary["birds_dropped"], summary["birds_train"]) == (1, 11)
    (named,) = json.loads((ctx.outdir / "sources.json").read_text())["birds"]["bad_rows"]
    assert named["row"] == "train.jsonl, line 3" and said in named["reason"]


def test_a_solution_that_is_graded_as_wrong_is_a_bad_row(bench: Bench, tmp_path: Path) -> None:
    rows = [row(i, rationale=f"It is {i}.") for i in range(20)]
    jsonl(tmp_path / "train.jsonl", [*rows, row(21, key="A", rationale="So.", choices=["Answer: B", "2"])])
    assert "train.jsonl, line 21 (of task birds): its solution is not graded as right" in refused(
        bench, tmp_path, CHOICE
    )


def test_messages_stay_short_whatever_a_row_holds(bench: Bench, tmp_path: Path) -> None:
    for task, bad in (
        (CHOICE, row(0, key=["x" * 100_000])),
        (CHOICE, row(0, choices=["x" * 100_000, ["y" * 100_000]])),
        (CHOICE, {"x" * 100_000: 1}),
        (NUMBER, {"question": "?", "answer": "9" * 100_000}),
        (NUMBER, {"question": "?", "answer": ["9" * 100_000]}),
    ):
        jsonl(tmp_path / "train.jsonl", [bad])
        assert len(refused(bench, tmp_path, task)) < 800


def test_ids_are_there_once(bench: Bench, tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [row(i, id=i % 7) for i in range(20)])
    assert "train.jsonl, line 8 (of task birds): the id '0' is not unique" in refused(bench, tmp_path, CHOICE)


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        ([], {}, "no row of train can be used. Repair the data set"),
        ([row(i, key="Z") for i in range(9)], {"on_bad_row": "drop"},
         "no row of train can be used (the first bad one is train.jsonl, line 1: the answer 'Z' does not match"),
        ([row(i) for i in range(7)], {}, "of 7 good rows, n_validation 3 and n_test 4 leave none to train on"),
        ([row(i) for i in range(9)], {"validation": "train.jsonl", "test": "train.jsonl"},
         "all 9 training questions that are not held out are also in a held-out split"),
        ([row(i) for i in range(20)], {"validation": "empty.jsonl"}, "no row of validation can be used"),
        ([row(i) for i in range(20)], {"columns": {**CHOICE["columns"], "rationale": "explanaton"}},
         "no row has the column 'explanaton' (tasks.birds.columns.rationale); there are choices, key, stem"),
    ],
)  # fmt: skip
def test_a_split_without_rows_says_why(
    bench: Bench, tmp_path: Path, rows: list[Any], changes: dict[str, Any], said: str
) -> None:
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "empty.jsonl", [])
    assert said in refused(bench, tmp_path, {**CHOICE, **changes})


def test_a_training_question_that_is_held_out_too_is_left_out(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl(tmp_path / "train.jsonl", [row(i) for i in range(8)])
    jsonl(tmp_path / "test.jsonl", [row(i) for i in range(6, 10)])
    ctx, summary = made(bench, tmp_path, {**CHOICE, "test": "test.jsonl", "n_validation": 1})
    assert (summary["birds_train"], summary["birds_validation"], summary["birds_test"]) == (5, 1, 4)
    assert "training questions are left out, because they are also in a held-out split" in capsys.readouterr().err
    leaks = json.loads((ctx.outdir / "sources.json").read_text())["birds"]["leaks"]
    assert leaks["same"] == 2 and {x["rule"] for x in leaks["named"]} == {"same_text"}


def test_numbers_of_a_csv_file_are_exact(bench: Bench, tmp_path: Path) -> None:
    lines = [f"What is {n}?,{n}" for n in ("0.0000001", "-5", '"1,200"', "3.50", "7", "8", "9", "10")]
    (tmp_path / "train.csv").write_text(
        "\n".join(["question,answer", *(line.replace('"1,200"?', "x?") for line in lines)])
    )
    ctx, _ = made(bench, tmp_path, {**NUMBER, "train": "train.csv"})
    found = {
        e.reference for s in ("train", "validation", "test") for e in read_examples(ctx.outdir / f"sums.{s}.parquet")
    }
    assert found == {"0.0000001", "-5", "1200", "3.5", "7", "8", "9", "10"}


def test_a_module_reads_rows_and_its_examples_are_what_was_stored(bench: Bench, tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", SUMS)
    (tmp_path / "near.py").write_text(GOOD)
    ctx, summary = made(bench, tmp_path, MODULE)
    assert (summary["near_train"], summary["near_dropped"]) == (8, 0)
    dataset = bench.publish("chat_datasets", ctx.outdir)
    rl = load_profile(str(tmp_path / "mine.yaml")).section("rl_checkpoint")
    ctx.config, ctx.inputs = rl, {"chat_datasets": dataset}
    found = task_input(ctx, "near")
    (first, *_) = found.examples("train")
    assert found.task.grade(first, str(first.answer), True).correct
    with pytest.raises(StageError, match="has no task other: it was made before the task was added to the profile"):
        ctx.config = rl.model_copy(update={"definitions": {"other": rl.definitions["near"]}})
        task_input(ctx, "other")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("        try:\n", "        if example.answer == 7:\n            return float('nan')\n        try:\n",
         "near.py: grade gave train-000007 the reward nan"),
        ("        try:\n", "        return 'one'\n        try:\n", "near.py: grade returned 'one'"),
        ("        try:\n", "        example.answer.append(1)\n        try:\n", "grade failed for train-000000"),
        ("        try:\n", "        raise SystemExit(3)\n        try:\n", "line 26: SystemExit: 3"),
        ("        try:\n", "        import random\n        return Grade(random.random(), False, None)\n        try:\n",
         "for the same completion"),
        ("float(off < Limits().closest)", "'yes'", "the note near 'yes', which is not a finite number"),
        ("off == 0,", "None,", "None as correct but should give True or False"),
        ("        if \"q\" not", "        if row['a'] == 7:\n            raise KeyError('x')\n        if \"q\" not",
         "example failed: line 22: KeyError: 'x'"),
        ("str(row[\"a\"]), row[\"a\"], ", "5, row[\"a\"], ", "target '5', which is not a text"),
        ("(user_message(row[\"q\"]),)", "row[\"q\"]", "messages that are not {role, content}"),
        ("row[\"a\"], str(row[\"a\"]))", "{1: row[\"a\"]}, str(row[\"a\"]))", "an answer that JSON would change"),
        ("Example(name,", "Example('same',", "the id 'same' is not unique"),
        ("return {\"wrong", "return [\"wrong\"]\n        return {\"wrong", "worthless returned ['wrong']"),
        ("    def answer_text", "    def chance(self, example):\n        return 1.5\n\n    def answer_text",
         "chance returned 1.5"),
        ("    def answer_text", "    def shown(self, example, seed):\n        return None\n\n    def answer_text",
         "shown returned None"),
        ("        return answer\n", "        return 5\n", "answer_text returned 5"),
        ("notes = (\"near\",)", "notes = \"near\"", "notes is 'near' but should be a tuple of different texts"),
        ("notes = (\"near\",)", "notes = (\"near\",)\n    categories = (\"yes\", \"no\")",
         "the reference '0', which `categories` does not name"),
        ("notes = (\"near\",)", "notes = (\"near\",)\n    categories = 5", "categories is 5"),
        ("from aquarat_core.errors", "from .sibling", "does not import: line 5: ImportError"),
        ("from aquarat_core.errors", "from sibling", "does not import: line 5: ModuleNotFoundError"),
        ("class Estimate", "if False:\n  class Estimate", None),
        ("@dataclass(frozen=True)\n", "import sys\nsys.exit(1)\n", "does not import: line 10: SystemExit: 1"),
    ],
)  # fmt: skip
def test_what_a_module_does_wrong_is_said_before_anything_trains(
    bench: Bench, tmp_path: Path, old: str, new: str, said: str | None
) -> None:
    assert old in GOOD
    jsonl(tmp_path / "train.jsonl", SUMS)
    code = GOOD.replace(old, new, 1)
    if said is None:
        head, body = GOOD.split("class Estimate", 1)
        code = f"{head}from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n" + "".join(
            f"    {line}\n" for line in f"class Estimate{body}".splitlines()
        )
        said = "defines 0 classes that inherit from Task"
    (tmp_path / "near.py").write_text(code)
    text = refused(bench, tmp_path, MODULE)
    assert "task near" in text
    assert said in text


def test_a_module_cannot_spoil_the_examples_it_is_given(bench: Bench, tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", SUMS)
    code = GOOD.replace('row["a"], str(row["a"]))', '{"a": row["a"]}, str(row["a"]))')
    code = code.replace("        try:\n", "        right = example.answer.pop('a')\n        try:\n", 1)
    code = code.replace("- example.answer)", "- right)").replace("example.answer + 7", "example.answer.pop('a') + 7")
    (tmp_path / "near.py").write_text(code)
    ctx, _ = made(bench, tmp_path, MODULE)
    assert {e.reference for e in read_examples(ctx.outdir / "near.train.parquet")} <= {str(i) for i in range(12)}
    assert all("a" in e.answer for e in read_examples(ctx.outdir / "near.train.parquet"))


def test_targets_that_a_module_does_not_pay_are_counted(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl(tmp_path / "train.jsonl", SUMS)
    (tmp_path / "near.py").write_text(GOOD.replace("off == 0,", "False,").replace("max(0.0, 1.0 - off)", "0.5"))
    made(bench, tmp_path, MODULE)
    assert "warning: tasks.near: grade gives 12 of 12 targets a reward below 1" in capsys.readouterr().err


def test_a_bad_module_leaves_bad_rows_to_no_rule(bench: Bench, tmp_path: Path) -> None:
    """`on_bad_row: drop` is about rows: code that fails stops the stage."""
    jsonl(tmp_path / "train.jsonl", SUMS)
    (tmp_path / "near.py").write_text(GOOD.replace("        try:\n", "        1 / 0\n        try:\n", 1))
    with pytest.raises(TaskCodeError, match="ZeroDivisionError"):
        made(bench, tmp_path, {**MODULE, "on_bad_row": "drop"})
    (tmp_path / "near.py").write_text(GOOD)
    jsonl(tmp_path / "train.jsonl", [*SUMS, {"a": 4}])
    _, summary = made(bench, tmp_path, {**MODULE, "on_bad_row": "drop"})
    assert summary["near_dropped"] == 1
