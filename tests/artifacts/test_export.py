"""`aquarat export` as a person runs it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.artifacts import Artifact, ArtifactStore
from aquarat_core.cli import export, main
from aquarat_core.conversation import Conversation, assistant_message, user_message
from aquarat_core.data.conversations import write_conversations
from aquarat_core.data.mixed_documents import Document, write_mixed_documents
from aquarat_core.tasks.aqua.files import write_questions
from aquarat_core.tasks.aqua.synthetic import generate_questions
from aquarat_core.tasks.example_files import write_examples
from aquarat_core.tasks.multiple_choice import choice_example
from aquarat_core.tasks.numeric import numeric_example

from .conftest import ROOT, Publish

AQUA = generate_questions(30, seed=1, max_level=1)
CHOICE = choice_example("c", {"question": "Où? 東京", "options": ["a", "b", "c"], "correct": 1, "rationale": "So."})
NUMBER = numeric_example("n", "Half of 48?", "24", "48/2 = <<48/2=24>>24")
PAGE = Document("page-0", "Pages\u2028have <|bos|>\n lines.")
CHAT = Conversation("chat-0", [user_message("Hi"), assistant_message("Hello\u2028you")])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def store(publish: Publish, tmp_path: Path) -> str:
    """A store with `aqua_dataset`, `chat_datasets` and a checkpoint."""
    opened = ArtifactStore.open(f"file://{tmp_path}/store")
    aqua, chats = tmp_path / "aqua", tmp_path / "chats"
    aqua.mkdir()
    chats.mkdir()
    for split, questions in (("train", AQUA[:20]), ("validation", AQUA[20:25]), ("test", AQUA[25:])):
        write_questions(aqua / f"{split}.parquet", questions)
    write_examples(chats / "birds.train.parquet", [CHOICE])
    write_examples(chats / "sums.test.parquet", [NUMBER])
    write_conversations(chats / "identity.train.parquet", [CHAT])
    write_conversations(chats / "empty.test.parquet", [])
    write_mixed_documents(chats / "pages.train.parquet", [PAGE])
    publish(opened, "aqua_dataset", bytes_of(aqua) | {"dropped.json": b"[]"})
    publish(opened, "chat_datasets", bytes_of(chats) | {"sources.json": b"{}"})
    publish(opened, "sft_checkpoint", {"model.safetensors": b"sft"})
    return opened.uri


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_questions_with_their_letters(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["export", "aqua_dataset", "--store", store, "--format", "jsonl", "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["files"] == {str(out / f"{s}.jsonl"): n for s, n in (("train", 20), ("validation", 5), ("test", 5))}
    assert sorted(os.listdir(out)) == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    rows = [row for s in ("train", "validation", "test") for row in lines(out / f"{s}.jsonl")]
    assert [(r["id"], r["answer_letter"]) for r in rows] == [(q.id, q.correct) for q in AQUA]
    assert {tuple(r["letters"]) for r in rows} == {tuple("ABCDE")}
    assert all(r["messages"][-1]["content"].endswith(f"Answer: {r['answer_letter']}") for r in rows)
    assert all([m["role"] for m in r["messages"]] == ["user", "assistant"] for r in rows)


def test_any_task_and_conversations(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "chat_datasets", "--store", store]) == 0
    out = tmp_path / "chat_datasets"
    names = ("birds.train", "empty.test", "identity.train", "pages.train", "sums.test")
    assert sorted(os.listdir(out)) == [f"{name}.jsonl" for name in names]
    (choice,), (number,) = lines(out / "birds.train.jsonl"), lines(out / "sums.test.jsonl")
    assert (choice["letters"], choice["answer_letter"]) == (["A", "B", "C"], "B")
    assert choice["messages"][0]["content"].startswith("Où? 東京\n")
    assert number["answer"] == "24" and "letters" not in number
    assert {part["type"] for part in number["messages"][-1]["parts"]} == {"text", "call", "output"}
    assert lines(out / "identity.train.jsonl") == [{"id": "chat-0", "messages": CHAT.messages}]
    assert lines(out / "pages.train.jsonl") == [{"id": "page-0", "text": PAGE.text}]
    assert (out / "empty.test.jsonl").read_bytes() == b""


def test_one_source_alone(store: str, tmp_path: Path) -> None:
    assert main(["export", "chat_datasets", "--store", store, "--out", str(tmp_path / "x"), "--only", "birds"]) == 0
    assert os.listdir(tmp_path / "x") == ["birds.train.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sft_checkpoint"], "sft_checkpoint has no questions or conversations: aqua_dataset and chat_datasets have"),
        (["chat_datasets", "--only", "bird"], "has nothing of 'bird': it has birds, empty, identity, pages, sums"),
        (["chat_datasets", "--only", ""], "has nothing of ''"),
        (["rl_checkpoint"], "rl_checkpoint"),
        (["aqua_dataset", "--out", "a_file"], "a_file cannot be written: File exists"),
        (["aqua_dataset", "--out", "a_file/below"], "a_file/below cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_exported_says_why(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("kept")
    before = sorted({*os.listdir(tmp_path), "cache"})
    assert main(["export", *arguments, "--store", store]) == 2
    assert said in capsys.readouterr().err
    assert sorted({*os.listdir(tmp_path), "cache"}) == before and (tmp_path / "a_file").read_text() == "kept"


def test_a_full_disk_leaves_what_was_there(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", "aqua_dataset", "--store", store, "--out", str(out)]) == 0
    before = bytes_of(out)
    rows, files = export._rows, []

    def full(artifact: Artifact, file: str) -> Iterator[dict[str, Any]]:
        files.append(file)
        yield {"id": "of a newer export"}
        if len(files) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield from rows(artifact, file)

    monkeypatch.setattr(export, "_rows", full)
    capsys.readouterr()
    assert main(["export", "aqua_dataset", "--store", store, "--out", str(out)]) == 2
    assert f"{out} cannot be written: No space left on device. No file there was changed" in capsys.readouterr().err
    assert bytes_of(out) == before


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_no_half_file(store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys, time\n"
        "from aquarat_core.cli import export, main\n"
        "rows = export._rows\n"
        "def slow(*a):\n"
        "    for row in rows(*a):\n"
        "        yield row\n"
        "        print('row', flush=True)\n"
        "        time.sleep(0.05)\n"
        "export._rows = slow\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", program, "export", "aqua_dataset", "--store", store, "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"row\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert [name for name in os.listdir(out) if name.endswith(".jsonl")] == []
    assert main(["export", "aqua_dataset", "--store", store, "--out", str(out)]) == 0
    assert len(lines(out / "train.jsonl")) == 20
