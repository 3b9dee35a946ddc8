"""pretrain_text and chat_datasets on a user's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aquarat_core.config import ChatDatasetsConfig, PretrainTextConfig
from aquarat_core.config.local_files import local_files
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.mixed_documents import Document, DocumentFile, holds_documents
from aquarat_core.errors import DataError
from aquarat_core.stages import chat_datasets, own_text, pretrain_text
from aquarat_core.stages.base import Scalar, StageContext
from aquarat_core.tasks.own_chats import own_conversation

Run = Callable[[Any], dict[str, Scalar]]
TEXTS = [f"document {n} says {n * n}" for n in range(400)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the stage of a config in this process; its files are in `out` and `records`."""
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))

    def stage(config: Any) -> dict[str, Scalar]:
        out, records = tmp_path / "out", tmp_path / "records"
        for folder in (out, records):
            folder.mkdir(exist_ok=True)
            for old in folder.iterdir():
                old.unlink()
        context = StageContext(spec=None, config=config, inputs={}, outdir=out, extras_dir=records)  # type: ignore[arg-type]
        return (pretrain_text if isinstance(config, PretrainTextConfig) else chat_datasets).run(context)

    return stage


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts_of(path: Path) -> list[str]:
    return pq.read_table(path).column("text").to_pylist()


def shards(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "shards.json").read_text())


def text_config(train: Any, **fields: Any) -> PretrainTextConfig:
    return PretrainTextConfig(source="files", train=train, **fields)


def test_text_is_held_out_by_its_hash(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"text": text} for text in [*TEXTS, *TEXTS[:50], " "]])
    done = run(text_config(train, validation_share=0.1))
    kept, held_out = (
        texts_of(tmp_path / "out" / "train-00000.parquet"),
        texts_of(tmp_path / "out" / "validation.parquet"),
    )
    assert sorted(kept + held_out) == sorted([*TEXTS, *TEXTS[:50]]) and not set(kept) & set(held_out)
    assert 20 <= len(set(held_out)) <= 65  # 40 expected; five standard deviations are 30
    assert [shard["file"] for shard in shards(tmp_path / "out")] == ["train-00000.parquet", "validation.parquet"]
    assert done["blank_documents"] == 1 and done["train_documents"] == len(kept)
    assert done["train_bytes"] == sum(len(text.encode()) for text in kept)
    # Another order, and a new text more, move nothing to the other side.
    again = jsonl(tmp_path / "t.jsonl", [{"text": text} for text in ["new", *reversed(TEXTS)]])
    run(text_config(again, validation_share=0.1))
    assert set(texts_of(tmp_path / "out" / "validation.parquet")) - {"new"} == set(held_out)


def test_own_validation_text_is_not_trained_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_text, "SHARD_BYTES", 2_000)
    validation = tmp_path / "v.txt"
    validation.write_text("\n\n".join(TEXTS[:10]) + "\n")
    train = jsonl(tmp_path / "t.jsonl", [{"body": text, "other": 1} for text in TEXTS])
    config = text_config(train, validation=str(validation), column="body", documents="paragraph")
    done = run(config)
    written = shards(tmp_path / "out")
    names = [shard["file"] for shard in written]
    assert (
        names == [*(f"train-{i:05d}.parquet" for i in range(len(names) - 1)), "validation.parquet"] and len(names) > 3
    )
    assert all(2_000 <= shard["text_bytes"] < 2_100 for shard in written[:-2])
    assert [text for name in names[:-1] for text in texts_of(tmp_path / "out" / name)] == TEXTS[10:]
    assert texts_of(tmp_path / "out" / "validation.parquet") == TEXTS[:10]
    assert done["duplicate_documents"] == 10 and done["train_shards"] == len(names) - 1
    assert str(config.train).endswith(str(done["train_sha256"]))
    read = json.loads((tmp_path / "records" / "sources.json").read_text())
    assert read["train"]["files"] == [
        {"name": "t.jsonl", "bytes": Path(train).stat().st_size, "sha256": done["train_sha256"]}
    ]
    assert str(tmp_path) not in (tmp_path / "out" / "shards.json").read_text()


def test_bad_documents_are_dropped_or_named(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"text": "a" * n} for n in range(1, 200)] + [{"text": 5}, {"title": "a"}])
    done = run(text_config(train))
    assert done["dropped_documents"] == 2 and done["blank_documents"] == 0
    with pytest.raises(DataError, match=r"t.jsonl, line 200 .*text is an integer instead of a text"):
        run(text_config(train, on_bad_row="error"))
    with pytest.raises(DataError, match=r"no document with text.*201 bad rows.*it has no body \(there are text\)"):
        run(text_config(train, column="body", validation=train))
    few = jsonl(tmp_path / "few.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"validation_share of 1e-09.*Raise pretrain_text.validation_share"):
        run(text_config(few, validation_share=1e-9))


def test_the_context_of_a_config_matters() -> None:
    with pytest.raises(ValueError, match="only read with source 'files'"):
        PretrainTextConfig(train="gs://b/t.jsonl")


def talk(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": f"answer {n}"}]


def chat_config(**fields: Any) -> ChatDatasetsConfig:
    source = {"name": "mine", **fields}
    return ChatDatasetsConfig.model_validate({"sources": [source, {"name": "drills", "n_train": 2, "n_test": 1}]})


def test_own_conversations_in_both_forms(run: Run, tmp_path: Path) -> None:
    shared = [{"from": "system", "value": "be"}, {"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    rows = [{"messages": talk(n)} for n in range(1_500)]
    train = jsonl(tmp_path / "t.jsonl", [{"conversations": shared}, *rows, {"messages": talk(1)[:1]}])
    test = jsonl(tmp_path / "v.jsonl", rows[:3])
    done = run(chat_config(train=train, test=test))
    found = read_conversations(tmp_path / "out" / "mine.train.parquet")
    assert [c.messages for c in found[1:]] == [talk(n) for n in range(1_500)]
    assert [m["role"] for m in found[0].messages] == ["system", "user", "assistant"]
    assert found[0].id == "train-000000" and done["mine_train"] == 1_501 and done["mine_test"] == 3
    assert done["mine_dropped"] == 1 and len(str(done["mine_train_sha256"])) == 64
    described = json.loads((tmp_path / "out" / "sources.json").read_text())["mine"]
    assert described["bad_rows"] == [
        {"split": "train", "row": "t.jsonl, line 1502", "reason": described["bad_rows"][0]["reason"]}
    ]
    assert described["train"]["files"][0]["sha256"] == done["mine_train_sha256"]
    assert read_conversations(tmp_path / "out" / "drills.train.parquet")


def test_a_sample_of_own_conversations_is_seeded(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"messages": talk(n)} for n in range(300)])

    def ids(seed: int) -> list[str]:
        run(chat_config(train=train, n_train=30).model_copy(update={"seed": seed}))
        return [c.id for c in read_conversations(tmp_path / "out" / "mine.train.parquet")]

    first = ids(1)
    assert len(first) == 30 and first == sorted(first) == ids(1) and first != ids(2)
    assert read_conversations(tmp_path / "out" / "mine.test.parquet") == []


def test_documents_are_a_source_like_any_other(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts stay as they are, with white space and names of special tokens; what is no text is named."""
    odd = "  <|bos|>What is <|assistant_end|>?\n\n"
    bad = [{"body": " \n"}, {"body": 5}, {"body": None}, {"text": "a"}]
    train = jsonl(tmp_path / "t.jsonl", [*({"body": text} for text in [odd, *TEXTS]), *bad])
    test = jsonl(tmp_path / "v.jsonl", [{"body": "é"}])
    done = run(chat_config(train=train, test=test, format="documents", column="body", n_train=1_000))
    found = list(DocumentFile(tmp_path / "out" / "mine.train.parquet").documents())
    assert [d.text for d in found] == [odd, *TEXTS] and found[7].id == "train-000007"
    assert done["mine_train"] == 401 and done["mine_dropped"] == 4
    assert done["mine_train_bytes"] == sum(len(d.text.encode()) for d in found) and done["mine_test_bytes"] == 2
    described = json.loads((tmp_path / "out" / "sources.json").read_text())["mine"]
    assert described["rows_train"] == 401 and described["text_bytes_train"] == done["mine_train_bytes"]
    assert {row["row"]: row["reason"] for row in described["bad_rows"]} == {
        "t.jsonl, line 402": "body is blank",
        "t.jsonl, line 403": "body is an integer instead of a text",
        "t.jsonl, line 404": "body is null",
        "t.jsonl, line 405": "it has no body (there are text)",
    }
    assert "n_train of mine is 1,000, but there are only 401" in capsys.readouterr().err
    refusing = chat_config(train=train, format="documents", column="body").model_copy(update={"on_bad_row": "error"})
    with pytest.raises(DataError, match=r"t\.jsonl, line 402 .*body is blank\. Set chat_datasets\.on_bad_row"):
        run(refusing)


def test_a_sample_of_documents_is_seeded(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])

    def sampled(seed: int) -> list[Document]:
        run(chat_config(train=train, format="documents", n_train=30).model_copy(update={"seed": seed}))
        return list(DocumentFile(tmp_path / "out" / "mine.train.parquet").documents())

    first = sampled(1)
    assert len(first) == 30 and first == sampled(1) != sampled(2)
    assert [d.text for d in first] == [TEXTS[int(d.id[-6:])] for d in first] and first == sorted(first, key=str)
    # A source of documents without a test split has an empty file of documents.
    assert holds_documents(tmp_path / "out" / "mine.test.parquet")


def test_documents_in_parquet(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    torn = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": torn}), path)
    done = run(chat_config(train=str(path), format="documents"))
    assert done["mine_train"] == 1
    (bad,) = json.loads((tmp_path / "out" / "sources.json").read_text())["mine"]["bad_rows"]
    assert bad["reason"] == "text is not valid UTF-8"
    with pytest.raises(DataError, match=r"no column body \(there are text\)\. Name a column that is there, under"):
        run(chat_config(train=str(path), format="documents", column="body"))


def test_a_binary_column_is_no_text(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": pa.array([b"good"], pa.binary())}), path)
    for config in (chat_config(train=str(path), format="documents"), text_config(str(path))):
        with pytest.raises(DataError, match=r"t.parquet: column text is binary, not text\. Name a column"):
            run(config)


def test_a_wrong_column_is_told_in_the_same_words_for_each_format(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    for path in (str(tmp_path / "t.csv"), jsonl(tmp_path / "t.jsonl", [{"text": "a"}])):
        with pytest.raises(DataError, match=r"no.* body \(there are text\)\)?\. Name a column that is there, under"):
            run(chat_config(train=path, format="documents", column="body"))


@pytest.mark.parametrize("added", ["README.txt", "sub/notes.txt"])
def test_a_text_file_beside_rows_with_columns_is_skipped(run: Run, tmp_path: Path, added: str) -> None:
    folder = tmp_path / "chats"
    (folder / "sub").mkdir(parents=True)
    jsonl(folder / "1.jsonl", [{"messages": talk(n)} for n in range(3)])
    without = chat_config(train=str(folder))
    (folder / added).write_text("About these files.\n")
    config = chat_config(train=str(folder))
    assert config == without and run(config)["mine_train"] == 3
    # Text is what pretraining reads of such a folder.
    assert text_config(str(folder)).train != config.sources[0].train


def test_a_folder_of_text_alone_has_no_rows_with_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"has no file that ends in \.jsonl, \.ndjson, \.parquet, \.csv$") as refused:
        local_files(str(tmp_path), text=False)
    assert ".txt" not in str(refused.value)
    with pytest.raises(ValueError, match="has no file that ends in"):
        chat_config(train=str(tmp_path))


def test_no_document_left_is_an_error(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"no document is left of 1 \(the first, t.jsonl, line 1: it has no body"):
        run(chat_config(train=train, format="documents", column="body"))


def test_no_conversation_left_is_an_error(run: Run, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "t.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"no conversation is left of 1 \(the first, t.jsonl, line 1: it has neither"):
        run(chat_config(train=train))


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "messages is empty"),
        (["user"], "ends with the user"),
        (["assistant"], r"messages\[0\] is from the assistant, but it is the turn of the user"),
        (["user", "user", "assistant"], r"messages\[1\] is from the user, but it is the turn of the assistant"),
        (["user", "system", "assistant"], r"messages\[1\] is from the system"),
        (["system"], "ends with the system"),
        (["system", "assistant"], r"messages\[1\] is from the assistant"),
        (["user", "tool"], r"messages\[1\]: role is 'tool'"),
        (["user", "gpt"], r"messages\[1\]: role is 'gpt'"),
        (["user", ""], r"messages\[1\]: role is blank"),
    ],
)
def test_turns_that_cannot_be_used(turns: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        own_conversation({"messages": [{"role": role, "content": "words"} for role in turns]}, "auto")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "user", "content": " "}]}, r"messages\[0\]: content is blank"),
        ({"messages": [{"role": "user"}]}, "content is null"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content is a list instead of a text"),
        ({"messages": "hello"}, "messages is a str instead of a list"),
        ({"messages": ["hello"]}, "contains values other than rows"),
        ({"messages": [], "conversations": []}, "both of the columns"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "from is 'function_call'"),
    ],
)
def test_rows_that_are_no_conversation(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        own_conversation(row, "auto")
