"""The data stages on real rows, where a copy of the Hub's data sets lies beside the checkout."""

import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from aquarat_core.conversation import Message, without_calls
from aquarat_core.data.conversations import read_conversations
from aquarat_core.data.mixed_documents import DocumentFile
from aquarat_core.tasks.aqua.files import read_questions
from aquarat_core.tasks.aqua.normalizing import normalize
from aquarat_core.tasks.aqua.question import LETTERS, parse_answer, permute, prompt, target
from aquarat_core.tasks.calculator import calculate
from aquarat_core.tasks.duplicates import HeldOut
from aquarat_core.tasks.example_files import holds_examples, read_examples
from aquarat_core.tasks.option_order import letter_free
from tests.serving import hub_server

SERVER = (Path(__file__).parents[3] / "shared/tools/hub_server.py").resolve()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.is_file(), reason="no ../shared/tools/hub_server.py beside the checkout"),
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory) -> str:
    with hub_server(SERVER, tmp_path_factory.mktemp("hub")) as address:
        yield address


def test_real_aqua_rows(endpoint, run_stage) -> None:
    done = run_stage("aqua_dataset", {"source": "hub"}, endpoint)
    train, validation, test = (read_questions(done.out / f"{s}.parquet") for s in ("train", "validation", "test"))
    # published counts of the validation letters; always answering A scores 69 of 254
    assert Counter(q.correct for q in validation) == {"A": 69, "B": 66, "C": 43, "D": 50, "E": 26}
    assert done.metrics["validation_share_A"] == 0.2717
    everything = train + validation + test
    for q in everything:
        assert [parse_answer(f"{q.rationale}\nAnswer: {x}") for x in LETTERS] == list(LETTERS)
        assert parse_answer(target(q)) == q.correct
        assert parse_answer(prompt(q)) is None
        assert parse_answer(q.rationale) is None
        assert parse_answer(q.rationale[: len(q.rationale) // 2]) is None
        assert all(option and option == option.strip() and "\n" not in option for option in q.options)
    assert "dropped_near_held_out_same_text" in (done.out / "cleaning.json").read_text()


def test_normalized_rationales_of_real_rows(endpoint, run_stage) -> None:
    published = run_stage("aqua_dataset", {"source": "hub"}, endpoint, out="published")
    config = {"source": "hub", "rationales": "normalized", "unreached": "keep", "n_holdout": 500}
    done = run_stage("aqua_dataset", config, endpoint, out="normalized")
    before = {q.id: q for s in ("train", "validation", "test") for q in read_questions(published.out / f"{s}.parquet")}
    splits = {s: read_questions(done.out / f"{s}.parquet") for s in ("train", "validation", "test", "holdout")}
    after = {q.id: q for rows in splits.values() for q in rows}
    assert after.keys() == before.keys() and 480 < len(splits["holdout"]) <= 500
    for name, q in after.items():
        assert parse_answer(target(q)) == q.correct and parse_answer(q.rationale) is None
        assert normalize(q.rationale, q.options, q.gold).text == q.rationale, "once is enough"
        numbers = re.findall(r"\d+", before[name].rationale)
        kept = re.findall(r"\d+", q.rationale)
        assert kept == numbers[len(numbers) - len(kept) :], "no number but those of a first line with the answer goes"
    index = HeldOut({q.id: q.question for q in splits["holdout"]})
    assert not any(index.find(q.question) for q in splits["train"])
    assert 0.2 < done.metrics["rationales_changed_share"] < 0.4
    assert done.metrics["rationales_unreached"] < 0.1 * done.metrics["rationales_rows"]
    dropped = run_stage("aqua_dataset", config | {"unreached": "drop"}, endpoint, out="dropped")
    reached = {q.id: q for q in splits["train"] if q.reached}
    assert {q.id: q for q in read_questions(dropped.out / "train.parquet")} == reached
    assert read_questions(dropped.out / "validation.parquet") == splits["validation"]


def test_calls_in_real_rationales(endpoint, run_stage) -> None:
    config = {"source": "hub", "rationales": "normalized", "unreached": "keep"}
    plain = run_stage("aqua_dataset", config, endpoint, out="plain")
    done = run_stage("aqua_dataset", config | {"calculator_calls": True}, endpoint, out="calls")
    for split in ("train", "validation", "test"):
        before, after = (read_questions(one.out / f"{split}.parquet") for one in (plain, done))
        for q, called in zip(before, after, strict=True):
            assert without_calls(called.rationale, called.rationale_parts) == q.rationale
            assert (called.reached, called.correct, called.options) == (q.reached, q.correct, q.options)
            assert parse_answer(target(called)) == q.correct and parse_answer(called.rationale) is None
            assert letter_free(called.rationale, 5) == letter_free(q.rationale, 5)
            for call, output, then in zip(*(called.rationale_parts[n:] for n in range(3)), strict=False):
                if call["type"] == "call":
                    assert calculate(call["text"]) == output["text"]
                    number = re.match(r"-?[\d,]*\.?\d+", then["text"])
                    assert number and Decimal(number[0].replace(",", "")) == Decimal(output["text"])
    assert 0.45 < done.metrics["rationales_with_calls_share"] < 0.6
    assert done.metrics["rationales_calls"] > 1.5 * done.metrics["rationales_with_calls"]


def test_a_constant_letter_earns_a_fifth_once_options_are_permuted(endpoint, run_stage) -> None:
    done = run_stage("aqua_dataset", {"source": "hub"}, endpoint)
    rows = read_questions(done.out / "validation.parquet")
    letters = Counter(permute(q, seed).correct for q in rows for seed in range(40))
    for letter in LETTERS:
        assert letters[letter] / letters.total() == pytest.approx(0.2, abs=0.02)


def messages(path: Path) -> list[list[Message]]:
    """The conversations of a file, of examples with their targets."""
    if holds_examples(path):
        return [example.conversation() for example in read_examples(path)]
    return [c.messages for c in read_conversations(path)]


def test_every_real_chat_source(endpoint, run_stage) -> None:
    names = ("smoltalk", "gsm8k", "arc", "mmlu", "humaneval")
    sources = [{"name": n, "n_train": 0 if n == "humaneval" else 200, "n_test": 50} for n in names]
    done = run_stage("chat_datasets", {"source": "hub", "sources": sources}, endpoint)
    for name in names:
        train, test = (messages(done.out / f"{name}.{split}.parquet") for split in ("train", "test"))
        assert len(train) == (0 if name == "humaneval" else 200) and len(test) == 50
        assert all(m[-1]["role"] == "assistant" and m[-1]["content"].strip() for m in train + test)
        assert holds_examples(done.out / f"{name}.test.parquet") == (name in ("arc", "mmlu", "humaneval"))
    worked = read_conversations(done.out / "gsm8k.train.parquet")
    assert not any("<<" in m["content"] for c in worked for m in c.messages)


def test_real_text_shards(endpoint, run_stage) -> None:
    config = {"source": "hub", "train_shards": [0, 1], "validation_shard": 7}
    done = run_stage("pretrain_text", config, endpoint)
    assert done.metrics["train_documents"] == 2_178 and done.metrics["validation_documents"] == 1_088
    missing = run_stage("pretrain_text", config | {"train_shards": [0, 99]}, endpoint)
    assert missing.error == "DataError" and "shard_00099.parquet" in missing.message


def test_real_documents_for_a_mixture(endpoint, run_stage) -> None:
    train = {"hub": "karpathy/fineweb-edu-100b-shuffle", "first_files": 2}
    source = {"name": "pages", "train": train, "format": "documents", "n_train": 1_500}
    done = run_stage("chat_datasets", {"sources": [source]}, endpoint)
    found = list(DocumentFile(done.out / "pages.train.parquet").documents())
    assert len(found) == done.metrics["pages_train"] == 1_500 and done.metrics["pages_dropped"] == 0
    assert max(int(d.id[-6:]) for d in found) < 2_178 and all(d.text.strip() for d in found)
    assert done.metrics["pages_train_bytes"] == sum(len(d.text.encode()) for d in found)
