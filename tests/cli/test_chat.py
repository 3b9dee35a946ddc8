"""`aquarat chat` as a person uses it in a terminal, and as a program does in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aquarat_core.artifacts import Artifact
from aquarat_core.tasks.aqua.question import prompt
from tests.cli.conftest import Terminal
from tests.factories import calling_model, guesser, random_model, reading_questions, reading_tokenizer, tokenizer

pytestmark = pytest.mark.timeout(300)
QUESTION = prompt(reading_questions(1)[0])
CONTINUED = QUESTION.replace("\n", "\\\n")

Publish = Callable[..., Artifact]


def chat(*arguments: str, typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aquarat_core.cli", "chat", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True)


def test_a_pipe_has_one_message_a_line_and_only_answers_come_out(checkpoint: Publish, tmp_path: Path) -> None:
    made = checkpoint("sft_checkpoint", guesser(), reading_tokenizer())
    saved = tmp_path / "saved.json"
    limit = ("--max-new-tokens", "8")
    done = chat("sft_checkpoint", *limit, typed=f"{CONTINUED}\n\n/temperature 1\n/retry\n/save {saved}\n/quit\nno\n")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("Answer: ") and second.startswith("Answer: ")
    facts = json.loads(saved.read_text())
    assert [m["role"] for m in facts["messages"]] == ["user", "assistant"] and facts["messages"][1]["content"] == second
    assert facts["messages"][0]["content"] == QUESTION
    assert (facts["model"], facts["temperature"]) == (made.uri, 1.0)
    refused = chat("sft_checkpoint", typed=f"/save {saved}\n")
    assert refused.returncode == 2 and "exists already" in refused.stderr

    answers = chat("sft_checkpoint", *limit, "--json", typed=f"{CONTINUED}\n").stdout
    (answer,) = map(json.loads, answers.splitlines())
    assert answer["text"] == first and answer["letter"] == first[-1] and not answer["stopped"]


def test_the_oldest_exchanges_make_room(checkpoint: Publish) -> None:
    checkpoint("sft_checkpoint", guesser(), reading_tokenizer())
    done = chat("sft_checkpoint", "--max-new-tokens", "8", typed="Say A\n" * 12)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 12
    assert "no longer fits the model's context: the oldest 1 of" in done.stderr
    long = chat("sft_checkpoint", typed="x " * 500)
    assert long.returncode == 2 and "is more than the model's context of 96: shorten it" in long.stderr


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["sft_checkpoint"], "/rety\n", "there is no command /rety; did you mean '/retry'? /help lists them"),
        (["sft_checkpoint"], "/undo\n", "there is nothing to take back"),
        (["sft_checkpoint"], "/temperature hot\n", "a temperature is a number from 0 up, not 'hot'"),
        (["sft_checkpoint", "--max-new-tokens", "0"], "", "--max-new-tokens must be at least 1"),
        (["nothing"], "", "has no asset or manifest 'nothing'"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it(checkpoint: Publish, arguments: list[str], typed: str, said: str) -> None:
    checkpoint("sft_checkpoint", guesser(), reading_tokenizer())
    done = chat(*arguments, typed=typed)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_calls_of_the_calculator_are_reported(checkpoint: Publish) -> None:
    checkpoint("rl_checkpoint", calling_model(), tokenizer())
    sampled = ("--json", "--temperature", "1", "--max-new-tokens", "150")
    answers = [json.loads(chat("rl_checkpoint", *sampled, "--seed", seed, typed="1\n").stdout) for seed in "12"]
    calls = [call for answer in answers for call in answer["calls"]]
    assert calls and all(set(call) == {"expression", "result"} for call in calls)


def test_a_person_stops_an_answer_and_stays(
    checkpoint: Publish, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    checkpoint("rl_checkpoint", random_model(tokenizer().vocab_size, sequence_len=4096), tokenizer())
    screen = terminal("chat", "rl_checkpoint", "--max-new-tokens", "4000", "--temperature", "1", "--system", "Be brief")
    screen.until("Ctrl-D leaves")
    screen.until("> ")
    screen.type("Hello")
    screen.until("Hello\r\n")
    screen.until_anything()
    screen.press_until("\x03", "[stopped]")
    screen.until("> ")
    screen.type("/undo")
    screen.until("[taken back: Hello]")
    screen.type("/nothing")
    screen.until("there is no command /nothing")
    screen.type("/help")
    screen.until("/temperature NUMBER")
    screen.until("Pasted lines are one message.")
    screen.until("> ")
    screen.press_until("\x03", "Ctrl-D leaves")
    screen.until("> ")
    assert screen.end("\x04") == 0
    history = (tmp_path / "cache" / "chat_history").read_text().splitlines()
    assert history == ["Hello", "/undo", "/nothing", "/help"]


def test_a_person_sees_the_letter(checkpoint: Publish, terminal: Callable[..., Terminal]) -> None:
    checkpoint("sft_checkpoint", guesser(), reading_tokenizer())
    screen = terminal("chat", "sft_checkpoint")
    screen.until("> ")
    for line in CONTINUED.splitlines():
        screen.type(line)
    said = screen.until("[answer ")
    assert "Answer: " in said.splitlines()[-2]
    screen.type("/quit")
    assert screen.end() == 0
