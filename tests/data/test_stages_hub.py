"""The data stages against a Hub on loopback, through the real clients, with the faults a network has."""

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
import pytest

from aquarat_core.conversation import without_calls
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.mixed_documents import DocumentFile
from aquarat_core.tasks.aqua.files import read_questions
from aquarat_core.tasks.example_files import read_examples
from aquarat_core.tasks.word_problems import generate_text

pytestmark = pytest.mark.slow

THINGS = ("apples", "boats", "coins", "doors", "eggs", "forks", "gates", "hats", "inks", "jars", "kites", "lamps")


def aqua_row(n: int, **changes: Any) -> dict[str, Any]:
    thing = THINGS[n % len(THINGS)]
    return {
        "question": f"{thing} and {thing} make {n} {thing}, so {thing} {thing}?",
        "options": [f"{letter}){n + i}" for i, letter in enumerate("ABCDE")],
        "rationale": f"{n} + 2 = {n + 2}\nANSWER:C",
        "correct": "C",
    } | changes


def add_aqua(hub, long: tuple[int, ...] = (), **test_changes: Any) -> None:
    """`long` are the training rows with a rationale of two lines."""
    two_lines = {n: {"rationale": f"The number is {n}.\n{n} + 2 = {n + 2}"} for n in long}
    files = {
        "raw/train-00000-of-00001.parquet": [aqua_row(n, **two_lines.get(n, {})) for n in range(8)],
        "raw/validation-00000-of-00001.parquet": [aqua_row(n) for n in (8, 9)],
        "raw/test-00000-of-00001.parquet": [aqua_row(10), aqua_row(11, **test_changes)],
    }
    hub.add("deepmind/aqua_rat", files, {"raw": ["train", "validation", "test"]})


def add_shards(hub, *numbers: int, broken: tuple[int, ...] = ()) -> None:
    files = {f"shard_{n:05d}.parquet": [{"text": f"shard {n} text {i} " * 20} for i in range(30)] for n in numbers}
    files |= {f"shard_{n:05d}.parquet": b"PAR1" + b"\0" * 500 for n in broken}
    hub.add("karpathy/fineweb-edu-100b-shuffle", files, {})


SHARDS = {"source": "hub", "train_shards": [0, 1], "validation_shard": 7}


def test_aqua_rows_arrive_clean(hub, run_stage) -> None:
    add_aqua(hub)
    config = {"source": "hub", "n_train": 5}
    done = run_stage("aqua_dataset", config, hub.endpoint)
    train = read_questions(done.out / "train.parquet")
    assert len(train) == 5 and {q.id for q in train} < {f"train-{i:06d}" for i in range(8)}
    by_id = {q.id: q for q in train + read_questions(done.out / "validation.parquet")}
    assert by_id["validation-000001"].options == ("9", "10", "11", "12", "13")
    assert by_id["validation-000001"].rationale == "9 + 2 = 11"
    assert done.metrics["rows_train"] == 5 and done.metrics["rows_test"] == 2
    assert done.metrics["train_share_C"] == 1 and done.metrics["train_share_A"] == 0
    assert done.metrics["bytes_test"] == (done.out / "test.parquet").stat().st_size
    report = json.loads((done.out / "cleaning.json").read_text())
    assert report["counts"]["train"]["kept"] == 8 and report["source"] == "deepmind/aqua_rat"
    assert done.progress[-1]["done"] == done.progress[-1]["total"] == 12
    again = run_stage("aqua_dataset", config, hub.endpoint, out="again")
    for name in ("train.parquet", "validation.parquet", "test.parquet", "cleaning.json"):
        assert (again.out / name).read_bytes() == (done.out / name).read_bytes()


def test_rationales_are_normalized_and_questions_set_aside_where_asked(hub, run_stage) -> None:
    add_aqua(hub)
    plain = run_stage("aqua_dataset", {"source": "hub"}, hub.endpoint)
    config = {"source": "hub", "rationales": "normalized", "n_holdout": 3}
    done = run_stage("aqua_dataset", config, hub.endpoint, out="normalized")
    holdout, train = (read_questions(done.out / f"{split}.parquet") for split in ("holdout", "train"))
    assert len(holdout) == 3 and len(train) == 5 and done.metrics["rows_holdout"] == 3
    assert {q.id for q in holdout + train} == {q.id for q in read_questions(plain.out / "train.parquet")}
    assert all(q.reached for q in holdout + train)
    assert done.metrics["rationales_rows"] == 5 and done.metrics["rationales_changed_share"] == 0
    assert done.metrics["near_groups"] == 8 and done.metrics["near_groups_largest"] == 1
    report = json.loads((done.out / "cleaning.json").read_text())
    assert report["holdout"]["rows"] == 3 and report["rationales"]["unreached"]["train"] == []
    assert (done.out / "rationales.md").read_text().startswith("# Normalized rationales")
    assert not (plain.out / "rationales.md").exists() and not (plain.out / "holdout.parquet").exists()
    fewer = run_stage("aqua_dataset", config | {"n_train": 2, "seed": 9}, hub.endpoint, out="fewer")
    assert read_questions(fewer.out / "holdout.parquet") == holdout
    more = run_stage("aqua_dataset", config | {"n_holdout": 5}, hub.endpoint, out="more")
    assert "n_holdout 5 is more than half of the 8 training questions" in more.message


def test_training_rows_with_long_rationales_are_left_out_where_asked(hub, run_stage) -> None:
    two_lines = "It is the sum of both.\n11 + 2 = 13"
    add_aqua(hub, long=(1, 4, 6), rationale=two_lines)
    config = {"source": "hub", "max_rationale_chars": 9}
    done = run_stage("aqua_dataset", config, hub.endpoint)
    kept = read_questions(done.out / "train.parquet")
    assert {q.id for q in kept} == {f"train-{n:06d}" for n in (0, 2, 3, 5, 7)}
    assert done.metrics["train_dropped_long_rationale"] == 3
    assert json.loads((done.out / "cleaning.json").read_text())["counts"]["train"]["dropped_long_rationale"] == 3
    assert two_lines in {q.rationale for q in read_questions(done.out / "test.parquet")}
    none = run_stage("aqua_dataset", config | {"max_rationale_chars": 1}, hub.endpoint, out="none")
    assert "no row is left of split train" in none.message and "max_rationale_chars 1" in none.message


def test_normalized_rationales_call_the_calculator_where_asked(hub, run_stage) -> None:
    add_aqua(hub)
    config = {"source": "hub", "rationales": "normalized", "n_holdout": 3}
    plain = run_stage("aqua_dataset", config, hub.endpoint, out="plain")
    done = run_stage("aqua_dataset", config | {"calculator_calls": True}, hub.endpoint, out="calls")
    for split in ("train", "validation", "test", "holdout"):
        before, after = (read_questions(one.out / f"{split}.parquet") for one in (plain, done))
        assert [q.id for q in before] == [q.id for q in after]
        assert all(q.rationale_parts for q in after) and not any(q.rationale_parts for q in before)
        assert [without_calls(q.rationale, q.rationale_parts) for q in after] == [q.rationale for q in before]
    assert done.metrics["rationales_with_calls"] == done.metrics["rationales_calls"] == 5
    assert done.metrics["rationales_with_calls_share"] == 1 and "rationales_calls" not in plain.metrics
    counts = json.loads((done.out / "cleaning.json").read_text())["rationales"]["counts"]
    assert counts["holdout"]["calls"] == 3 and "Calls: 1" in (done.out / "rationales.md").read_text()


def test_generated_documents_are_one_more_training_shard(hub, run_stage) -> None:
    add_shards(hub, 0, 1, 7)
    plain = run_stage("pretrain_text", SHARDS, hub.endpoint)
    done = run_stage("pretrain_text", SHARDS | {"added_documents": 40, "max_level": 1}, hub.endpoint, out="added")
    assert (
        done.metrics["train_documents"] == plain.metrics["train_documents"] + 40 and done.metrics["train_shards"] == 3
    )
    for name in ("train-00000.parquet", "train-00001.parquet", "validation.parquet"):
        assert (done.out / name).read_bytes() == (plain.out / name).read_bytes()
    assert pq.read_table(done.out / "train-00002.parquet")["text"].to_pylist() == generate_text(40, 3, 1)
    files = [shard["file"] for shard in json.loads((done.out / "shards.json").read_text())]
    assert files == [f"train-{n:05d}.parquet" for n in range(3)] + ["validation.parquet"]


def test_a_bad_row_names_itself_or_is_dropped(hub, run_stage) -> None:
    add_aqua(hub, correct="F")
    failed = run_stage("aqua_dataset", {"source": "hub"}, hub.endpoint)
    assert failed.error == "DataError"
    assert failed.message.startswith("deepmind/aqua_rat, split test, row 1: the letter 'F' is not one of A-E.")
    assert "aqua_dataset.on_bad_row" in failed.message
    assert not list(failed.out.iterdir())
    done = run_stage("aqua_dataset", {"source": "hub", "on_bad_row": "drop"}, hub.endpoint)
    assert done.metrics["rows_test"] == 1 and done.metrics["test_dropped_bad_row"] == 1


def test_names_that_are_not_there(hub, run_stage) -> None:
    add_aqua(hub)
    unknown = run_stage("aqua_dataset", {"source": "hub", "repo": "deepmind/nothing"}, hub.endpoint)
    assert unknown.error == "DataError" and "deepmind/nothing" in unknown.message
    assert "there is no such data set, or it is private and HF_TOKEN is not set" in unknown.message
    subset = run_stage("aqua_dataset", {"source": "hub", "subset": "tokenized"}, hub.endpoint)
    assert subset.error == "DataError" and "subset tokenized, split train" in subset.message
    hub.add("owner/other", {"raw/train-0.parquet": [{"text": "x"}]}, {"raw": ["train"]})
    shape = run_stage("aqua_dataset", {"source": "hub", "repo": "owner/other"}, hub.endpoint)
    assert shape.error == "DataError"
    assert "no column question, options, rationale, correct (there are text)" in shape.message


def test_shards_arrive_with_the_validation_shard_apart(hub, run_stage) -> None:
    add_shards(hub, 0, 1, 7)
    done = run_stage("pretrain_text", SHARDS | {"max_documents_per_shard": 20}, hub.endpoint)
    texts = pq.read_table(done.out / "train-00001.parquet").column("text").to_pylist()
    assert texts == [f"shard 1 text {i} " * 20 for i in range(20)]
    held_out = pq.read_table(done.out / "validation.parquet").column("text").to_pylist()
    assert held_out[0].startswith("shard 7 text 0")
    shards = json.loads((done.out / "shards.json").read_text())
    assert [s["source"].rpartition("/")[2] for s in shards] == [f"shard_0000{n}.parquet" for n in (0, 1, 7)]
    assert shards[1]["text_bytes"] == sum(len(t.encode()) for t in texts)
    assert done.metrics["train_documents"] == 40 and done.metrics["validation_documents"] == 20


def test_shards_are_kept_and_only_a_new_one_is_fetched(hub, run_stage, store_uri) -> None:
    add_shards(hub, 0, 1, 2, 7)
    plain = run_stage("pretrain_text", SHARDS, hub.endpoint)
    written = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in plain.out.glob("*.parquet")}
    kept = {"SHARDS": store_uri}
    done = run_stage("pretrain_text", SHARDS, hub.endpoint, out="kept", environment=kept)
    assert done.stored == written and done.metrics == plain.metrics and not list(done.out.glob("*.parquet"))
    assert (done.out / "shards.json").read_bytes() == (plain.out / "shards.json").read_bytes()
    elsewhere = kept | {"HF_HOME": store_uri.removeprefix("file://") + "-hub"}
    before = len(hub.downloads)
    more = SHARDS | {"train_shards": [2, 0, 1]}
    added = run_stage("pretrain_text", more, hub.endpoint, out="added", environment=elsewhere)
    assert hub.downloads[before:] == ["shard_00002.parquet"]
    assert added.stored["train-00001.parquet"] == written["train-00000.parquet"]
    assert added.stored["validation.parquet"] == written["validation.parquet"]


def test_a_source_that_shrinks_after_it_was_listed_is_noticed(hub, run_stage, store_uri) -> None:
    add_shards(hub, 0, 1, 7)
    hub.shrink, kept = "shard_00001.parquet", {"SHARDS": store_uri}
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint, environment=kept)
    assert failed.error == "DataError" and "shard_00001.parquet" in failed.message
    assert "the Hub listed it with the digest" in failed.message and not failed.stored
    elsewhere = kept | {"HF_HOME": store_uri.removeprefix("file://") + "-hub"}
    before = len(hub.downloads)
    done = run_stage("pretrain_text", SHARDS, hub.endpoint, out="again", environment=elsewhere)
    assert done.metrics["train_documents"] == 45
    assert sorted(hub.downloads[before:]) == ["shard_00001.parquet", "shard_00007.parquet"]


def test_a_missing_shard_says_which_setting_to_change(hub, run_stage) -> None:
    add_shards(hub, 0, 1)
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert failed.error == "DataError"
    where = f"karpathy/fineweb-edu-100b-shuffle, shard_00007.parquet, from {hub.endpoint}"
    assert failed.message.startswith(f"{where}: there is no such file.")
    assert "pretrain_text.validation_shard" in failed.message
    assert hub.downloads == [], "all names are looked up before anything is fetched"


def test_a_hub_that_fails_a_few_times_is_asked_again(hub, run_stage) -> None:
    add_shards(hub, 0, 1, 7)
    hub.fail = 3
    done = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert done.metrics["train_documents"] == 60
    assert len(hub.downloads) == 6, "three that failed, and one for each shard"
    assert set(hub.downloads) == {f"shard_{n:05d}.parquet" for n in (0, 1, 7)}
    assert "503 Service Unavailable" in done.log and done.log.count("trying again in") == 3


def test_a_hub_that_goes_on_failing_is_given_up_and_leaves_nothing_to_trust(hub, run_stage) -> None:
    add_aqua(hub)
    hub.fail = 1_000
    failed = run_stage("aqua_dataset", {"source": "hub"}, hub.endpoint)
    assert failed.error == "DataError"
    where = f"deepmind/aqua_rat, raw/train-00000-of-00001.parquet, from {hub.endpoint}"
    assert failed.message.startswith(f"{where}: not delivered in 5 tries")
    assert "503" in failed.message and "HF_ENDPOINT" in failed.message
    assert len(hub.downloads) == 5
    hub.fail = 0
    assert run_stage("aqua_dataset", {"source": "hub"}, hub.endpoint).metrics["rows_train"] == 8


def test_a_download_cut_short_is_never_taken_for_a_whole_one(hub, run_stage) -> None:
    add_shards(hub, 0, 1, 7)
    hub.truncate = 1_000
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert failed.error == "DataError" and "shard_00000.parquet" in failed.message
    assert "not delivered in 5 tries" in failed.message
    hub.truncate = 1
    done = run_stage("pretrain_text", SHARDS, hub.endpoint)
    texts = pq.read_table(done.out / "train-00000.parquet").column("text").to_pylist()
    assert texts == [f"shard 0 text {i} " * 20 for i in range(30)]


def test_a_file_that_was_published_damaged_is_reported(hub, run_stage) -> None:
    add_shards(hub, 0, 7, broken=(1,))
    failed = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert failed.error == "DataError"
    assert "shard_00001.parquet" in failed.message and "not readable as Parquet" in failed.message
    # Shards are fetched side by side, in any order.
    fetched = Counter(hub.downloads)
    assert fetched.pop("shard_00001.parquet") == 1, "it is what the Hub names: to fetch it again cannot help"
    assert set(fetched) <= {"shard_00000.parquet", "shard_00007.parquet"} and set(fetched.values()) <= {1}


def test_a_hub_that_is_not_there(run_stage) -> None:
    failed = run_stage("pretrain_text", SHARDS, "http://127.0.0.1:9")
    assert failed.error == "DataError" and "from http://127.0.0.1:9: not delivered in 5 tries" in failed.message


def test_chat_sources_become_conversations(hub, run_stage) -> None:
    choices = {"text": ["ice", "sun", "dust"], "label": ["1", "2", "3"]}
    arc = [{"id": str(i), "question": f"Q{i}?", "choices": choices, "answerKey": k} for i, k in enumerate("2391")]
    hub.add(
        "allenai/ai2_arc",
        {f"{part}/{split}-0.parquet": arc for part in ("ARC-Easy", "ARC-Challenge") for split in ("train", "test")},
        {"ARC-Easy": ["train", "test"], "ARC-Challenge": ["train", "test"]},
    )
    gsm8k = [{"question": f"{i} + 1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(9)]
    files = {"main/train-0.parquet": gsm8k, "main/test-0.parquet": gsm8k}
    hub.add("openai/gsm8k", files, {"main": ["train", "test"]})
    sources = [{"name": "arc", "n_train": 8, "n_test": 0}, {"name": "gsm8k", "n_train": 4, "n_test": 2}]
    done = run_stage("chat_datasets", {"source": "hub", "sources": sources}, hub.endpoint)
    examples = list(read_examples(done.out / "arc.train.parquet"))
    assert sorted(e.target for e in examples) == sorted(["Answer: B", "Answer: C", "Answer: A"] * 2)
    assert {e.choices for e in examples} == {("ice", "sun", "dust")}
    assert done.metrics["arc_train"] == 6 and done.metrics["arc_dropped"] == 2 and done.metrics["arc_test"] == 0
    rows = read_conversations(done.out / "gsm8k.train.parquet")
    assert len({c.id for c in rows}) == done.metrics["gsm8k_train"] == 4
    for c in rows:
        i = int(c.id.rpartition("-")[2])
        user, reply = c.messages
        assert user == {"role": "user", "content": f"{i} + 1?"}
        assert [part["text"] for part in reply["parts"]] == ["It is ", f"{i}+1", f"{i + 1}", f"{i + 1}.\n#### {i + 1}"]
    described = json.loads((done.out / "sources.json").read_text())
    assert described["gsm8k"]["repo"] == "openai/gsm8k" and described["gsm8k"]["rows_test"] == 2


def test_a_null_in_a_chat_row_is_left_out_and_named_or_refused(hub, run_stage) -> None:
    rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}" if i != 2 else None} for i in range(4)]
    hub.add("openai/gsm8k", {"main/train-00000-of-00001.parquet": rows}, {"main": ["train"]})
    config = {"source": "hub", "sources": [{"name": "gsm8k", "n_train": 4, "n_test": 0}]}
    done = run_stage("chat_datasets", config, hub.endpoint)
    assert done.metrics["gsm8k_train"] == 3 and done.metrics["gsm8k_dropped"] == 1
    described = json.loads((done.out / "sources.json").read_text())
    assert described["gsm8k"]["bad_rows"] == [{"row": "train-000002", "reason": "answer is null"}]
    refused = run_stage("chat_datasets", config | {"on_bad_row": "error"}, hub.endpoint)
    assert refused.message.startswith("openai/gsm8k, split train, row 2: answer is null. Set chat_datasets.on_bad_row")


def test_a_text_column_of_another_type_is_refused(hub, run_stage) -> None:
    files = {f"shard_{n:05d}.parquet": [{"text": 5}] for n in (0, 1, 7)}
    hub.add("karpathy/fineweb-edu-100b-shuffle", files, {})
    refused = run_stage("pretrain_text", SHARDS, hub.endpoint)
    assert refused.error == "DataError" and "column text is int64, not text" in refused.message


def test_documents_of_the_first_files_of_a_split(hub, run_stage) -> None:
    files = {
        f"math-4/train-{n:05d}-of-00003.parquet": [{"url": f"u{i}", "text": f"page {n}.{i} <|bos|>"} for i in range(40)]
        for n in range(3)
    }
    hub.add("owner/maths", files, {"math-4": ["train"]})
    train = {"hub": "owner/maths", "subset": "math-4", "first_files": 2}
    source = {"name": "pages", "train": train, "format": "documents", "n_train": 50}
    done = run_stage("chat_datasets", {"sources": [source]}, hub.endpoint)
    found = list(DocumentFile(done.out / "pages.train.parquet").documents())
    pages = [f"page {n}.{i} <|bos|>" for n in range(2) for i in range(40)]
    assert [pages[int(d.id[-6:])] for d in found] == [d.text for d in found] and len(found) == 50
    assert {d.text[:6] for d in found} == {"page 0", "page 1"}
    assert sorted(hub.downloads) == [f"train-0000{n}-of-00003.parquet" for n in (0, 1)]
    described = json.loads((done.out / "sources.json").read_text())["pages"]["train"]
    assert described == train | {"split": "train", "revision": described["revision"]}
    wrong = run_stage("chat_datasets", {"sources": [source | {"column": "body"}]}, hub.endpoint)
    assert "no column body (there are url, text). Name a column that is there" in wrong.message
