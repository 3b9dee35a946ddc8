"""`aquarat ask` on a published checkpoint."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts import ArtifactStore, CodeVersion
from aquarat_core.cli import main
from aquarat_core.model.checkpoint import save_checkpoint
from aquarat_core.tasks.aqua.question import parse_answer, prompt
from tests.factories import guesser, reading_questions, reading_tokenizer

Ask = Callable[..., tuple[int, str, str]]
QUESTION = prompt(reading_questions(1)[0])


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Asks the guesser; exit code, standard output and standard error."""
    monkeypatch.setenv("AQUARAT_CACHE", str(tmp_path / "cache"))
    made, uri = tmp_path / "made", f"file://{tmp_path}/store"
    made.mkdir()
    reading_tokenizer().save(made / "tokenizer.json")
    (made / "out").mkdir()
    save_checkpoint(made / "out", guesser(), made / "tokenizer.json")
    store, code = ArtifactStore.open(uri), CodeVersion(version="1" * 64, commit=None, dirty=False)
    for asset, kind in (("sft_checkpoint", "checkpoint"), ("tokenizer", "tokenizer")):
        store.publish(
            asset=asset, kind=kind, directory=made / "out", config={}, profile="test", code=code, run_id="r",
            parents=[], metrics={}, seeds={},
        )  # fmt: skip

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["ask", *arguments, "--store", uri])
        return code, *capsys.readouterr()

    return run


def test_it_answers_in_the_form_that_it_learned(ask: Ask) -> None:
    code, said, _ = ask("sft_checkpoint", QUESTION, "--max-new-tokens", "8")
    assert code == 0 and parse_answer(said.strip()) in "ABCDE"


def test_samples_are_drawn_anew_and_a_seed_repeats_them(ask: Ask) -> None:
    def drawn(*more: str) -> list[str]:
        _, out, _ = ask("sft_checkpoint", QUESTION, "--samples", "12", "--max-new-tokens", "8", "--json", *more)
        return [answer["text"] for answer in json.loads(out)["answers"]]

    first = drawn()
    assert len(first) == 12 and len(set(first)) > 1
    assert drawn() == first != drawn("--seed", "1")
    assert len(set(drawn("--temperature", "0"))) == 1


def test_plain_text_goes_on_from_standard_input(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Answer:"))
    code, said, _ = ask("sft_checkpoint", "-", "--plain", "--max-new-tokens", "1")
    assert code == 0 and said.endswith("[cut off by --max-new-tokens]\n")


def test_the_end_of_a_turn_ends_plain_text_too(ask: Ask) -> None:
    code, said, _ = ask("sft_checkpoint", "Answer:", "--plain", "--max-new-tokens", "3", "--json")
    (answer,) = json.loads(said)["answers"]
    assert code == 0 and answer["ended"] and answer["text"].strip() in "ABCDE"


def test_an_answer_ends_before_a_text_that_stops_it(ask: Ask) -> None:
    arguments = ("sft_checkpoint", QUESTION, "--max-new-tokens", "8", "--json")
    _, whole, _ = ask(*arguments)
    (said,) = json.loads(whole)["answers"]
    assert said["text"].startswith("Answer:") and said["ended"]
    code, out, _ = ask(*arguments, "--stop", "no such text", "--stop", "wer:")
    (stopped,) = json.loads(out)["answers"]
    assert code == 0 and stopped["text"] == "Ans" and stopped["ended"] and stopped["tokens"] < said["tokens"]


def test_special_tokens_are_printed_only_if_asked_for(ask: Ask) -> None:
    how = ("sft_checkpoint", QUESTION, "--samples", "12", "--temperature", "1000", "--max-new-tokens", "30", "--json")
    _, out, _ = ask(*how)
    _, shown, _ = ask(*how, "--special-tokens")
    said, whole = (json.loads(text)["answers"] for text in (out, shown))
    assert [one["tokens"] for one in said] == [one["tokens"] for one in whole]
    assert any("<|user_end|>" in one["text"] for one in whole) and not any("<|" in one["text"] for one in said)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("tokenizer", "hi"), "tokenizer is a tokenizer: only checkpoints can be asked"),
        (("sft_checkpoint", "hi", "--samples", "0"), "must be at least 1"),
        (("sft_checkpoint", "hi", "--temperature", "-1"), "temperature -1.0 is below 0"),
        (("sft_checkpoint", "hi", "--temperature", "nan"), "temperature nan must be 0 (greedy) or from"),
        (("sft_checkpoint", "hi " * 90), "shorten the text or lower max_new_tokens"),
        (("sft_checkpoint", "hi", "--stop", ""), "a stop text is empty"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(ask: Ask, arguments: tuple[str, ...], complaint: str) -> None:
    code, out, err = ask(*arguments)
    assert code == 2 and out == "" and complaint in err and err.count("\n") == 1
