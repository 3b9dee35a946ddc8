"""lm-evaluation-harness itself asks our models: as our own protocols do, and as a plain forward pass finds."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import Asked, EvalEntry
from aquarat_core.errors import UserError
from aquarat_core.evaluation.figures import evaluate, rebuild, remarks
from aquarat_core.evaluation.harness.running import HarnessResults, run
from aquarat_core.evaluation.harness.samples import HarnessAsked
from aquarat_core.evaluation.protocols.scoring import continuations, letters
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.evaluation.records import Record, prompt_hash
from aquarat_core.tasks.arc import arc_easy
from aquarat_core.tasks.arc import example as arc_example
from aquarat_core.tasks.choice import MARKER
from aquarat_core.tasks.multiple_choice import Choice, choice_example
from aquarat_core.tasks.task import Example
from aquarat_core.text.tokenizer import Tokenizer
from tests.evaluation.shop import Run, Shop
from tests.factories import random_model, tokenizer
from tests.serving import hub_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm-evaluation-harness: ./run setup --harness gets it"),
]
S = 512
LETTERS = "ABCDE"


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return tokenizer()


@pytest.fixture(scope="module")
def subject(tok: Tokenizer) -> Subject:
    return Subject(random_model(tok.vocab_size, sequence_len=S), tok)


@pytest.fixture(scope="module")
def rows() -> list[Example[Choice]]:
    """Questions of three to five choices, some equal in their first words, and one that speaks of special tokens."""
    made: list[Example[Choice]] = []
    for i in range(12):
        options = [f"{7 * i} clips", f"{7 * i} clips and more", "none of them", f"{i}", "about <|assistant_end|> 7"]
        choice: Choice = {
            "question": f"A box has {i} clips in each of 7 rows. How many<|user_end|> are there?",
            "options": options[: 3 + i % 3],
            "correct": i % 3,
            "rationale": None,
        }
        made.append(choice_example(f"made-{i}", choice))
    return made


@pytest.fixture(scope="module")
def arc_rows(shared: Path) -> list[dict[str, Any]]:
    """The first test rows of ARC-Easy as they are published."""
    (file,) = (shared / "hub/allenai/ai2_arc/ARC-Easy").glob("test-*.parquet")
    return pq.read_table(file).slice(0, 60).to_pylist()


def asked(protocol: str, **fields: Any) -> Asked:
    entry = EvalEntry.model_validate({"task": "arc_easy", "protocol": protocol, **fields})
    return EvalConfig(task="aqua", max_new_tokens=8).resolved(entry)


def describe(folder: Path, name: str, rows: list[dict[str, Any]], **fields: Any) -> str:
    """A task of these rows, as a file for lm-evaluation-harness."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        **fields,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(described))
    return str(path)


def choice_tasks(folder: Path, examples: list[Example[Choice]]) -> list[str]:
    """The prompts of our own protocols, once with letters and once with texts as continuations."""
    rows = [
        {
            "prompt": e.prompt,
            "texts": list(e.choices),
            "letters": list(LETTERS[: len(e.choices)]),
            "gold": LETTERS.index(e.reference),
        }
        for e in examples
    ]
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    common = {"output_type": "multiple_choice", "doc_to_target": "{{gold}}", "metric_list": metrics}
    return [
        describe(folder, f"by_{kind}", rows, doc_to_choice=f"{{{{{kind}}}}}", **common) for kind in ("letters", "texts")
    ]


def ask(subject: Subject, tasks: list[str], **fields: Any) -> HarnessResults:
    return run(subject, HarnessAsked(tasks, **fields), "a model", lambda done, total, what: None)


def of(found: HarnessResults, name: str) -> list[Record]:
    (one,) = [a for a in found.answered if a.facts["name"] == f"harness/{name}"]
    assert all((r.evaluation, r.protocol) == (one.facts["name"], "harness") for r in one.records)
    return one.records


@torch.no_grad()
def alone(subject: Subject, context: list[int], continuation: list[int]) -> float:
    logits = subject.model(torch.tensor([[*context, *continuation]]))[0, len(context) - 1 : -1].double()
    return float(torch.log_softmax(logits, dim=-1)[torch.arange(len(continuation)), continuation].sum())


# --- the same choices as our own protocols --------------------------------------------------------------------------


def check_choices(subject: Subject, examples: list[Example[Choice]], folder: Path) -> None:
    """The same question in the same words has the same scores and the same choice, whoever asks it."""
    found = ask(subject, choice_tasks(folder, examples), chat=True)
    task, tok = arc_easy(), subject.tokenizer
    by_letter = letters(subject, task, examples, asked("letters", cue="bare"))
    by_text = continuations(subject, task, examples, asked("continuations"))
    for e, ours, theirs in zip(examples, by_letter, of(found, "by_letters"), strict=True):
        assert theirs.choice_scores == pytest.approx(ours.choice_scores, abs=1e-4)
        assert (theirs.parsed, theirs.correct, theirs.gold) == (ours.parsed, ours.correct, ours.gold)
        assert theirs.chance == ours.chance and theirs.question == f"<|bos|><|user_start|>{e.prompt}" + (
            "<|user_end|><|assistant_start|>"
        )
    for e, ours, theirs in zip(examples, by_text, of(found, "by_texts"), strict=True):
        lengths = [len(tok.encode(text)) for text in e.choices]
        means = [score / n for score, n in zip(theirs.choice_scores or (), lengths, strict=True)]
        assert means == pytest.approx(ours.choice_scores, abs=1e-4)
        assert LETTERS[means.index(max(means))] == ours.parsed
    metrics = found.results["results"]["by_letters"]
    right = [r.correct for r in by_letter]
    assert metrics["acc,none"] == sum(right) / len(right)
    assert metrics["acc_stderr,none"] == pytest.approx(
        math.sqrt(metrics["acc,none"] * (1 - metrics["acc,none"]) / (len(right) - 1))
    )
    assert len({r.parsed for r in by_letter}) > 1 and 0 < sum(right) < len(right), "the model chooses"


def test_made_up_rows(subject: Subject, rows: list[Example[Choice]], tmp_path: Path) -> None:
    check_choices(subject, rows, tmp_path)


def test_rows_of_arc_easy(subject: Subject, arc_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    check_choices(subject, [arc_example(row, str(i)) for i, row in enumerate(arc_rows)], tmp_path)


# --- plain texts, rolling likelihoods, answers ----------------------------------------------------------------------


def test_a_plain_text_begins_with_bos_and_its_examples_come_before_it(
    subject: Subject, rows: list[Example[Choice]], tmp_path: Path
) -> None:
    tok, (_, task) = subject.tokenizer, choice_tasks(tmp_path, rows)
    found = ask(subject, [task], num_fewshot=1, limit=4)
    records = of(found, "by_texts")
    assert len(records) == 4 and found.results["n-shot"] == {"by_texts": 1}
    for e, r in zip(rows, records, strict=False):
        assert r.question.endswith(f"\n\n{e.prompt}") and r.question.count(e.prompt[-20:]) == 2
        assert r.prompt_sha256 == prompt_hash(r.question)
        context = [tok.special("<|bos|>"), *tok.encode(r.question)]
        room = S - max(len(tok.encode(f" {text}")) for text in e.choices)
        for text, score in zip(e.choices, r.choice_scores or (), strict=True):
            assert score == pytest.approx(alone(subject, context[-room:], tok.encode(f" {text}")), abs=1e-4) or (
                len(context) > room
            )
    (one,) = found.answered
    figures = evaluate(one.facts, one.records)
    assert figures["figures"]["accuracy"] == found.results["results"]["by_texts"]["acc,none"]
    assert figures["figures"]["harness"]["metrics"]["acc,none"] == figures["figures"]["accuracy"]
    assert figures["settings"] == {"limit": 4, "num_fewshot": 1, "chat": False}
    assert "letter_mass" not in figures["figures"] and "calibration" in figures["figures"]


def test_a_prompt_that_is_too_long_is_counted(subject: Subject, rows: list[Example[Choice]], tmp_path: Path) -> None:
    short = Subject(random_model(subject.tokenizer.vocab_size, sequence_len=64), subject.tokenizer)
    found = ask(short, choice_tasks(tmp_path, rows)[1:], limit=5)
    assert found.cropped == {"by_texts": 5}
    (one,) = found.answered
    (remark,) = remarks([evaluate(one.facts, one.records)])
    assert remark.startswith("harness/by_texts: the prompts of 5 of 5 questions are longer than the model's context")


def test_rolling_likelihoods_are_results_and_no_records(subject: Subject, tmp_path: Path) -> None:
    tok = subject.tokenizer
    texts = [" ".join(f"{n} times {i} is {n * i}." for i in range(1, 60)) for n in (3, 7)]
    metric = {"metric": "bits_per_byte"}
    task = describe(
        tmp_path, "rolling", [{"prompt": text} for text in texts], output_type="loglikelihood_rolling",
        doc_to_text="", doc_to_target="{{prompt}}", metric_list=[metric],
    )  # fmt: skip
    found = ask(subject, [task])
    assert found.answered == []
    total = 0.0
    for text in texts:
        ids, window = tok.encode(text), S - 1
        assert len(ids) > window
        total += alone(subject, [tok.special("<|bos|>")], ids[:window])
        rest = ids[window:]
        total += alone(subject, ids[-window - 1 : -len(rest)], rest)
    expected = -total / sum(len(text.encode()) for text in texts) / math.log(2)
    assert found.results["results"]["rolling"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_generated_up_to_their_end(subject: Subject, tmp_path: Path, chat: bool) -> None:
    prompts = [{"prompt": f"What is {n} plus {n}?", "gold": str(2 * n)} for n in range(8)]
    common: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    whole = describe(tmp_path, "whole", prompts, generation_kwargs={"until": [], "max_gen_toks": 50}, **common)
    first = of(ask(subject, [whole], chat=chat), "whole")
    stop = first[0].completion[5:7]
    filters = [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
        for name, pattern in (("strict", "no such answer"), ("loose", "([a-z0-9])"))
    ]
    cut = describe(
        tmp_path, "cut", prompts, generation_kwargs={"until": [stop], "max_gen_toks": 50}, filter_list=filters, **common
    )
    found = ask(subject, [cut], chat=chat)
    strict, loose = (of(found, f"cut,{name}") for name in ("strict", "loose"))
    for uncut, r, read in zip(first, strict, loose, strict=True):
        assert r.completion == uncut.completion.partition(stop)[0] == read.completion
        assert r.parsed is None
        assert read.parsed == (re.findall("[a-z0-9]", r.completion) or [None])[0]
        assert r.truncated == (uncut.truncated and stop not in uncut.completion)
        assert r.stop_reason == ("length" if r.truncated else "stop")
    assert any(not r.truncated for r in strict)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(run: Run) -> Run:
    return partial(run, "sft_checkpoint")


def test_the_command_prints_and_writes_both_forms(command: Run, rows: list[Example[Choice]], tmp_path: Path) -> None:
    tasks, out = ",".join(choice_tasks(tmp_path, rows)), tmp_path / "out"
    code, said, err = command("--harness", tasks, "--limit", "5", "--apply-chat-template", "--out", str(out))
    assert code == 0, err
    assert "harness/by_letters" in said and "|by_letters|" in said
    assert said.count("the prompts of 5 of 5 questions are longer") == 2
    results = json.loads((out / "lm_eval_results.json").read_text())
    assert {"acc,none", "acc_stderr,none", "acc_norm,none"} <= results["results"]["by_texts"].keys()
    assert results["config"]["model_args"].startswith("sft_checkpoint ")
    report = json.loads((out / "report.json").read_text())
    assert [e["name"] for e in report["evaluations"]] == ["harness/by_letters", "harness/by_texts"]
    assert json.loads(json.dumps(rebuild(out / "questions.parquet"))) == report["evaluations"]
    assert report["evaluation"]["questions"] == "the task by_letters of lm-evaluation-harness"
    page = (out / "report.md").read_text()
    assert "5 questions, options as given; asked and graded by lm-evaluation-harness" in page
    both = json.loads(command("--tasks", "aqua", "--harness", tasks, "--limit", "3", "--json")[1])
    assert [e["name"] for e in both["evaluations"]] == ["aqua/greedy", "harness/by_letters", "harness/by_texts"]
    assert both["harness"]["results"]["by_texts"]["acc,none"] == both["evaluations"][2]["figures"]["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--harness", "arc_eazy"), "has no task 'arc_eazy': did you mean 'arc_easy'?"),
        (("--harness", "nowhere.yaml"), "there is no file nowhere.yaml"),
        (("--harness", ","), "--harness names no task"),
        (("--num-fewshot", "3"), "are about the tasks of --harness"),
        (("--harness", "arc_easy", "--num-fewshot", "-1"), "--num-fewshot must be at least 0"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(command: Run, arguments: tuple[str, ...], complaint: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and complaint in err and "Traceback" not in err


def test_data_that_are_not_there_and_code_without_a_sandbox(
    subject: Subject, rows: list[Example[Choice]], tmp_path: Path
) -> None:
    (task, _) = choice_tasks(tmp_path, rows)
    described = yaml.safe_load(Path(task).read_text())
    Path(task).write_text(yaml.safe_dump(described | {"unsafe_code": True}))
    with pytest.raises(UserError, match="runs the code that a model writes without any sandbox"):
        ask(subject, [task])
    (tmp_path / "by_letters.jsonl").unlink()
    with pytest.raises(UserError, match=r"lm-evaluation-harness cannot load .*by_letters\.yaml"):
        ask(subject, [task])


# --- through the Hub ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hub_server(shared / "tools/hub_server.py", tmp_path_factory.mktemp("hub")) as address:
        yield address


def test_the_published_task_arc_easy(shop: Shop, arc_rows: list[dict[str, Any]], endpoint: str, tmp_path: Path) -> None:
    """In a process of its own, because the Hub's client reads its address once."""
    held = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "aquarat_core.cli", "eval", "sft_checkpoint", "--harness", "arc_easy", "--limit", "20",
         "--json", "--store", shop.store.uri, "--out", str(tmp_path / "out")],
        env=os.environ | held, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (evaluation,) = found["evaluations"]
    assert (evaluation["name"], evaluation["n"]) == ("harness/arc_easy", 20)
    assert evaluation["hashes"]["data_asset"] == "allenai/ai2_arc/ARC-Easy"
    golds = [LETTERS[row["choices"]["label"].index(row["answerKey"])] for row in arc_rows[:20]]
    records = pq.read_table(tmp_path / "out/questions.parquet").to_pylist()
    assert [r["gold"] for r in records] == golds
    assert [r["question"] for r in records] == [f"Question: {row['question']}\nAnswer:" for row in arc_rows[:20]]
    accuracy = sum(r["correct"] for r in records) / 20
    assert found["harness"]["results"]["arc_easy"]["acc,none"] == evaluation["figures"]["accuracy"] == accuracy
    assert MARKER not in records[0]["question"]
