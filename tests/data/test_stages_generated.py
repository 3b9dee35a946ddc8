"""The data stages on generated data: held-out questions are held out, and the same config gives the same bytes."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from aquarat_core.config import ChatDatasetsConfig
from aquarat_core.data.conversations import read_conversations
from aquarat_core.tasks.aqua.files import read_questions
from aquarat_core.tasks.aqua.question import LETTERS, parse_answer, target

pytestmark = pytest.mark.slow

AQUA = {"n_train": 3_000, "n_validation": 200, "n_test": 400}


def test_generated_questions_are_held_out(run_stage) -> None:
    done = run_stage("aqua_dataset", AQUA)
    train, validation, test = (read_questions(done.out / f"{s}.parquet") for s in ("train", "validation", "test"))
    assert [len(rows) for rows in (train, validation, test)] == [3_000, 200, 400]
    held_out = [q.question for q in validation + test]
    assert len(set(held_out)) == 600
    assert not set(held_out) & {q.question for q in train}
    assert len({q.question for q in train}) == 3_000
    families = [Counter(q.family for q in rows) for rows in (validation, test)]
    assert all(abs(families[0][f] / 200 - families[1][f] / 400) < 0.15 for f in families[1])
    assert all(parse_answer(target(q)) == q.correct for q in train + validation + test)
    for split, rows in (("train", train), ("test", test)):
        for letter in LETTERS:
            share = sum(q.correct == letter for q in rows) / len(rows)
            assert done.metrics[f"{split}_share_{letter}"] == pytest.approx(share, abs=1e-4)
            assert 0.14 < share < 0.26
    assert done.progress[-1]["done"] == done.progress[-1]["total"]
    again = run_stage("aqua_dataset", AQUA, out="again")
    assert (again.out / "train.parquet").read_bytes() == (done.out / "train.parquet").read_bytes()
    other = run_stage("aqua_dataset", AQUA | {"seed": 9}, out="other")
    assert (other.out / "train.parquet").read_bytes() != (done.out / "train.parquet").read_bytes()


def test_families_and_levels_are_kept_to(run_stage) -> None:
    config = {"n_train": 200, "n_validation": 20, "n_test": 20, "families": ["speed", "age"], "max_level": 2}
    done = run_stage("aqua_dataset", config)
    rows = read_questions(done.out / "train.parquet")
    assert {q.family for q in rows} == {"speed", "age"} and {q.level for q in rows} == {1, 2}


def test_more_questions_than_there_are_is_an_error(run_stage) -> None:
    config = {"n_train": 100, "n_validation": 500, "n_test": 500, "families": ["percent"], "max_level": 1}
    failed = run_stage("aqua_dataset", config)
    assert failed.error == "DataError" and "allow more families" in failed.message
    unknown = run_stage("aqua_dataset", {"families": ["algebra"]})
    assert unknown.error == "UsageError" and "unknown problem families algebra" in unknown.message


def test_generated_text_has_a_held_out_file(run_stage) -> None:
    done = run_stage("pretrain_text", {"n_documents": 500, "n_validation_documents": 50})
    train = pq.read_table(done.out / "train-00000.parquet").column("text").to_pylist()
    held_out = pq.read_table(done.out / "validation.parquet").column("text").to_pylist()
    assert len(train) == 500 and len(held_out) == 50 and not set(train) & set(held_out)
    assert done.metrics["train_bytes"] == sum(len(t.encode()) for t in train)
    shards = json.loads((done.out / "shards.json").read_text())
    assert [s["file"] for s in shards] == ["train-00000.parquet", "validation.parquet"]


def test_generated_conversations(run_stage) -> None:
    sources = [{"name": "identity", "n_train": 40, "n_test": 4}, {"name": "drills", "n_train": 60, "n_test": 6}]
    done = run_stage("chat_datasets", {"sources": sources, "assistant_name": "Ada"})
    rows = read_conversations(done.out / "identity.train.parquet")
    assert len(rows) == 40 and any("Ada" in m["content"] for c in rows for m in c.messages)
    test = read_conversations(done.out / "drills.test.parquet")
    assert [c.id for c in test] == [f"drills-{60 + i:06d}" for i in range(6)]
    assert done.metrics == {"identity_train": 40, "identity_test": 4, "drills_train": 60, "drills_test": 6}


def test_calls_and_spelling_are_generated_where_they_are_asked_for(run_stage) -> None:
    sources = [{"name": "spelling", "n_train": 40, "n_test": 10}, {"name": "drills", "n_train": 60, "n_test": 6}]
    for calls in (False, True):
        done = run_stage("chat_datasets", {"sources": sources, "calculator_calls": calls}, out=f"chats-{calls}")
        for name in ("spelling", "drills"):
            rows = read_conversations(done.out / f"{name}.train.parquet")
            assert any("parts" in m for c in rows for m in c.messages) == calls
        assert done.metrics["spelling_train"] == 40 and done.metrics["spelling_test"] == 10
        questions = run_stage("aqua_dataset", AQUA | {"calculator_calls": calls}, out=f"questions-{calls}")
        assert all(bool(q.rationale_parts) == calls for q in read_questions(questions.out / "train.parquet"))


def test_humaneval_is_not_trained_on() -> None:
    with pytest.raises(ValidationError, match="humaneval has no training split"):
        ChatDatasetsConfig(source="hub", sources=[{"name": "humaneval", "n_train": 5}])
