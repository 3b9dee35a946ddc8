"""CORE in batches answers each question as it is answered alone, from prompts that follow the published rules."""

from __future__ import annotations

import functools
import json
import math
import random
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest
import torch

from aquarat_core.config import CoreConfig, TokenizerConfig
from aquarat_core.errors import UserError
from aquarat_core.evaluation.core import evaluations
from aquarat_core.evaluation.core.bundle import Bundle, CoreTask, Row
from aquarat_core.evaluation.core.evaluations import as_answered
from aquarat_core.evaluation.core.rendering import examples, in_order, prompts, scored
from aquarat_core.evaluation.core.result import Answer, CoreResult, name_of
from aquarat_core.evaluation.core.scoring import answer, evaluate_core
from aquarat_core.evaluation.core.tasks import BASELINES, centered
from aquarat_core.evaluation.figures import evaluate
from aquarat_core.evaluation.likelihood import Scorer
from aquarat_core.evaluation.statistics import binomial_test, centered_mean_interval, wilson_interval
from aquarat_core.model.transformer import Transformer
from aquarat_core.runtime.distributed import World
from aquarat_core.text.tokenizer import Tokenizer, train_tokenizer
from tests.evaluation import one_at_a_time
from tests.evaluation.bundles import TASKS, WORDS, write_bundle
from tests.factories import CPU, ONE, random_model

LIMIT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@functools.cache
def tokenizer() -> Tokenizer:
    rng = random.Random(0)
    texts = (" ".join(rng.choice(WORDS) for _ in range(50)) for _ in range(50))
    return train_tokenizer(texts, TokenizerConfig(vocab_size=340))


def model(**config) -> Transformer:
    return random_model(tokenizer().vocab_size, **{"sequence_len": 128} | config)


def core(policy: Transformer, folder: Path, world: World = ONE, **config) -> CoreResult:
    found = evaluate_core(policy, tokenizer(), folder, CoreConfig(**{"limit": LIMIT} | config), world)
    assert found is not None
    return found


def same_answers(found: list[Answer], expected: list[one_at_a_time.Found]) -> None:
    """Question by question, in the same order."""
    assert [a.task for a in found] == [x.label for x in expected]
    for a, x in zip(found, expected, strict=True):
        assert a.correct == x.correct, (a, x)
        assert len(a.choice_scores) == len(x.losses) and a.unscorable == (not x.losses)
        for score, loss in zip(a.choice_scores, x.losses, strict=True):
            assert score == pytest.approx(-loss, abs=2e-4, nan_ok=True)


# --- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_by_hand() -> None:
    choice = CoreTask("arc_easy", "multiple_choice", 1, "\nAnswer: ", "x")
    two = [Row(1, ("Q1 ",), ("a", "b"), 1), Row(2, (" Q2",), ("c", "d", "e"), 0)]
    assert prompts(choice, two, 0) == [" Q2\nAnswer: c\n\nQ1 \nAnswer: a", " Q2\nAnswer: c\n\nQ1 \nAnswer: b"]
    assert prompts(choice, two, 1)[2] == "Q1 \nAnswer: b\n\n Q2\nAnswer: e"
    schema = CoreTask("winograd", "schema", 1, " ", "x")
    two = [Row(1, ("A", "B"), ("end",), 1), Row(2, ("C", "D"), ("stop",), 0)]
    assert prompts(schema, two, 0) == ["C stop\n\nA end", "C stop\n\nB end"]
    text = CoreTask("jeopardy", "language_modeling", 1, " ", "x")
    two = [Row(1, (" say\n",), ("it ",), 0), Row(2, ("and ",), (" that",), 0)]
    assert prompts(text, two, 0) == ["and  that\n\nsay", "and  that\n\nsay it "]
    zero = CoreTask("lambada_openai", "language_modeling", 0, "\nA: ", "x")
    assert prompts(zero, two, 0) == ["say\nA:", "say\nA: it "]


def test_examples_are_those_of_a_list_of_the_others() -> None:
    for n, shots in ((2, 1), (11, 10), (20, 3), (500, 10), (3000, 10)):
        for i in (0, 1, n // 2, n - 1):
            others = [j for j in range(n) if j != i]
            assert examples(i, n, shots) == random.Random(1234 + i).sample(others, shots)
    assert examples(3, 10, 0) == []


def test_questions_are_shuffled_and_then_cut() -> None:
    rows = [Row(i, ("",), ("",), 0) for i in range(30)]
    lines = list(range(30))
    random.Random(1337).shuffle(lines)
    assert [row.line for row in in_order(rows, 7)] == lines[:7]
    assert [row.line for row in in_order(rows, None)] == lines and rows[0].line == 0


def test_a_limit_changes_the_examples(folder: Path) -> None:
    task = next(t for t in Bundle(folder).tasks if t.label == "arc_easy")
    rows = Bundle(folder).rows(task)
    assert prompts(task, in_order(rows, 15), 2) != prompts(task, in_order(rows, 24), 2)


@pytest.mark.parametrize(
    ("kind", "ids", "expected"),
    [
        ("multiple_choice", [[1, 2, 3], [1, 2, 4, 5]], [([0, 1, 2], [3]), ([0, 1, 2], [4, 5])]),
        ("multiple_choice", [[1, 2], [1, 2, 4], [1, 2, 5]], [([0, 1, 2], []), ([0, 1, 2], [4]), ([0, 1, 2], [5])]),
        ("schema", [[1, 2, 8, 9], [3, 8, 9]], [([0, 1, 2], [8, 9]), ([0, 3], [8, 9])]),
        ("language_modeling", [[1, 2], [1, 2, 7, 8]], [([0, 1, 2], [7, 8])]),
        ("language_modeling", [[1, 3], [1, 2, 7, 8]], None),
        ("language_modeling", [[1, 2], [1, 2]], None),
    ],
)
def test_what_is_scored(kind: str, ids: list[list[int]], expected: list | None) -> None:
    found = scored(CoreTask("copa", kind, 0, " ", "x"), ids, bos=0)
    assert (found and [(list(x.context), list(x.continuation)) for x in found]) == expected


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"embedding_taps": 2, "n_kv_head": 2}, {"smear": True, "backout": True}])
def test_as_one_question_at_a_time(folder: Path, options: dict) -> None:
    policy = model(**options)
    found = core(policy, folder)
    reference = one_at_a_time.with_longer_context(policy, 1024)
    same_answers(found.answers, list(one_at_a_time.answers(reference, tokenizer(), folder, LIMIT)))
    assert sum(a.correct for a in found.answers) > 20
    by_task = {task["label"]: task for task in found.report["tasks"]}
    assert by_task["jeopardy"]["extended"] == LIMIT and by_task["copa"]["extended"] == 0
    assert 0 < by_task["bigbench_operators"]["unscorable"] < LIMIT


def test_a_short_window_crops_as_each_prompt_would_be_cropped_alone(folder: Path) -> None:
    """Against a plain forward pass over the last tokens of each prompt."""
    policy, bos = model(), tokenizer().special("<|bos|>")
    policy.blocks[0].attention.window = 30
    found = core(policy, folder)
    assert found.report["too_long"] == "crop"
    cropped = Counter(a.task for a in found.answers if a.cropped)
    assert cropped["jeopardy"] == cropped["arc_easy"] == LIMIT and not any(a.extended for a in found.answers)
    bundle = Bundle(folder)
    task = next(t for t in bundle.tasks if t.label == "arc_easy")
    rows = in_order(bundle.rows(task), LIMIT)
    for i, a in enumerate(a for a in found.answers if a.task == "arc_easy"):
        ids = [[bos, *tokenizer().encode(text)] for text in prompts(task, rows, i)]
        for score, one, (start, _) in zip(a.choice_scores, ids, one_at_a_time.spans(task.type, ids), strict=True):
            kept = torch.tensor(one[-128:])
            with torch.no_grad():
                logp = torch.log_softmax(policy(kept[None])[0], dim=-1)
            n = len(one) - start
            picked = logp[torch.arange(127 - n, 127), kept[128 - n :]] if n else torch.tensor([])
            assert score == pytest.approx(float(picked.mean()), abs=2e-4, nan_ok=True)


def test_the_report(folder: Path) -> None:
    found = core(model(), folder)
    report = found.report
    assert report["name"] == "CORE-8@20" and report["limit"] == LIMIT and report["baselines"] == "v2"
    assert set(report["absent"]) == set(BASELINES) - set(TASKS)
    assert [t["label"] for t in report["tasks"]] == list(TASKS)
    assert report["core"] == pytest.approx(sum(t["centered"] for t in report["tasks"]) / 8)
    assert report["bundle_sha256"] == Bundle(folder).sha256
    assert "lo" in report and "hi" in report and report["lo"] < report["core"] < report["hi"]
    parts = [(t["accuracy"], t["n"], t["baseline"]) for t in report["tasks"]]
    assert (report["lo"], report["hi"]) == centered_mean_interval(parts)
    for task in report["tasks"]:
        mine = [a for a in found.answers if a.task == task["label"]]
        right = sum(a.correct for a in mine)
        assert task["n"] == len(mine) == LIMIT and task["accuracy"] == right / LIMIT
        assert (task["lo"], task["hi"]) == wilson_interval(right, LIMIT)
        assert task["baseline"] == BASELINES[task["label"]] / 100
        assert task["centered"] == pytest.approx((right / LIMIT - task["baseline"]) / (1 - task["baseline"]))
        assert task["unscorable_ids"] == [a.id for a in mine if a.unscorable]
    json.dumps(report, allow_nan=False)


def test_an_answers_fields(folder: Path) -> None:
    found = core(model(), folder).answers
    assert len({a.id for a in found}) == len(found) == 8 * LIMIT
    for a in found:
        label, _, line = a.id.rpartition("-")
        text = (folder / f"eval_data/made_up/{label}.jsonl").read_text(encoding="utf-8").split("\n")[int(line) - 1]
        row = json.loads(text)
        assert a.task == label and a.chance == (
            0 if "continuation" in row and "context" in row else 1 / len(a.alternatives)
        )
        if "choices" in row:
            assert (a.question, list(a.alternatives), a.gold) == (row["query"], row["choices"], row["gold"])
        elif "context_options" in row:
            expected = row["continuation"], row["context_options"], row["gold"]
            assert (a.question, list(a.alternatives), a.gold) == expected
        else:
            assert (a.question, a.alternatives, a.gold) == (row["context"], (row["continuation"],), 0)
        assert a.correct == (a.chosen == a.gold)
        assert a.n_tokens > 0 or a.unscorable


def test_a_guess_is_right_as_often_as_there_are_alternatives(folder: Path) -> None:
    """The baselines that CORE is centered on are others, and are no chance: commonsense_qa's is 40.3 %."""
    result = core(model(), folder)
    answered = {one.facts["task"]: one for one in as_answered(result, "eval_bundle", "v" * 64)}
    made = {task: evaluate(one.facts, one.records) for task, one in answered.items()}
    guess = mean(1 / len(a.alternatives) for a in result.answers if a.task == "commonsense_qa")
    assert made["commonsense_qa"]["baselines"]["chance"] == pytest.approx(guess) and guess < 0.4
    assert made["commonsense_qa"]["settings"]["baseline"] == pytest.approx(0.403)
    figures = made["commonsense_qa"]["figures"]
    assert figures["p_above_chance"] == pytest.approx(binomial_test(int(figures["correct"]), LIMIT, guess))
    contexts = mean(1 / len(a.alternatives) for a in result.answers if a.task == "winograd")
    assert made["winograd"]["baselines"]["chance"] == pytest.approx(contexts)
    assert made["jeopardy"]["baselines"]["chance"] == 0
    assert made["winograd"]["baselines"]["longest"] is made["jeopardy"]["baselines"]["longest"] is None
    longest = made["arc_easy"]["baselines"]["longest"]
    assert longest is not None and 0 <= longest <= 1


def test_the_longest_alternative() -> None:
    def one(gold: int, *texts: str) -> Answer:
        return Answer("copa", "x", "", "q", texts, gold, 0, (), False, 0.5, 1, None, False, False, False)

    assert (
        evaluations.longest([one(0, "aa", "b"), one(1, "aa", "b"), one(1, "aa", "bb"), one(0, "aa", "bb", "c")]) == 0.5
    )


def test_a_choice_that_another_begins_with_is_chosen_only_where_it_is_first() -> None:
    """As the practice does it: no tokens, no mean, and what is no number is smaller than nothing."""
    scorer = Scorer(model())
    task = CoreTask("copa", "multiple_choice", 0, " ", "x")
    first = [Row(1, ("the",), ("train", "train speed", "train cost"), 0)] * 2
    later = [Row(1, ("the",), ("train speed", "train", "train cost"), 1)] * 2
    found = answer(scorer, tokenizer(), task, first, [0])[0]
    assert math.isnan(found.choice_scores[0]) and found.chosen == 0 and found.correct
    found = answer(scorer, tokenizer(), task, later, [0])[0]
    assert math.isnan(found.choice_scores[1]) and found.chosen != 1 and not found.correct


def test_the_first_of_equal_choices_wins_and_is_no_near_tie() -> None:
    task = CoreTask("copa", "multiple_choice", 0, " ", "x")
    rows = [Row(1, ("the",), ("boat", "boat"), 1), Row(2, ("the",), ("boat", "river", "boat"), 2)]
    same, other = answer(Scorer(model()), tokenizer(), task, rows, [0, 1])
    assert same.unscorable or (same.chosen == 0 and not same.correct)
    assert same.margin is None and other.margin is not None and other.margin > 1e-4


def test_near_ties_are_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquarat_core.evaluation.core.result.NEAR_TIE", 0.05)
    found = core(model(), folder)
    listed = [id for task in found.report["tasks"] for id in task["near_ties"]]
    assert listed == [a.id for a in found.answers if a.margin is not None and abs(a.margin) < 0.05] and listed


def test_ranks_share_the_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two ranks find alone, put together as rank 0 puts it, is what one finds."""
    sent: list[list[list]] = []
    monkeypatch.setattr(World, "gather_to_rank0", lambda self, obj: sent.append(json.loads(json.dumps(obj))) or [])
    policy, alone = model(), core(model(), folder)
    config = CoreConfig(limit=LIMIT)
    assert evaluate_core(policy, tokenizer(), folder, config, World(1, 2, CPU, torch.float32)) is None
    second = [parts[0] for parts in sent]
    monkeypatch.setattr(World, "gather_to_rank0", lambda self, obj: [obj[0], second.pop(0)])
    together = core(policy, folder, World(0, 2, CPU, torch.float32))
    assert [a.id for a in together.answers] == [a.id for a in alone.answers]
    for a, b in zip(together.answers, alone.answers, strict=True):
        assert a.choice_scores == pytest.approx(b.choice_scores, abs=1e-4, nan_ok=True)
        assert (a.correct, a.prompt_sha256, a.n_tokens) == (b.correct, b.prompt_sha256, b.n_tokens)


def test_progress_is_told(folder: Path) -> None:
    told = []
    evaluate_core(model(), tokenizer(), folder, CoreConfig(limit=LIMIT), ONE, lambda *x: told.append(x))
    assert told == [(LIMIT * (i + 1), LIMIT * 8) for i in range(8)]


def test_a_limit_that_leaves_no_examples(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit"):
        CoreConfig(limit=10)
    many = write_bundle(tmp_path / "many", 60)
    text = (many / "core.yaml").read_text().replace("[10]", "[30]")
    (many / "core.yaml").write_text(text)
    with pytest.raises(UserError, match="raise it to 31"):
        core(model(), many)


def test_names_and_centering() -> None:
    assert [name_of(22, None), name_of(18, None), name_of(22, 500), name_of(18, 50)] == [
        "CORE", "CORE-18", "CORE@500", "CORE-18@50"
    ]  # fmt: skip
    assert len(BASELINES) == 22 and centered(0.25, 25) == 0 and centered(1, 62) == 1
    assert centered(0.7015, 40.3) == pytest.approx(0.5)


# --- the real bundle ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_questions_one_at_a_time(shared: Path, tmp_path: Path) -> None:
    """The same choice on a sample of every one of the 18 tasks."""
    from aquarat_core.evaluation.core.archive import unpack

    unpack(shared / "hub/files/eval_bundle.zip", tmp_path)
    bundle = Bundle(tmp_path)
    texts = (row.contexts[0] for task in bundle.tasks for row in bundle.rows(task)[:300])
    tok = train_tokenizer(texts, TokenizerConfig(vocab_size=4096))
    policy, limit = random_model(tok.vocab_size, sequence_len=512), 12
    found = evaluate_core(policy, tok, tmp_path, CoreConfig(limit=limit), ONE)
    assert found is not None and found.report["name"] == "CORE-18@12" and len(found.answers) == 18 * limit
    reference = one_at_a_time.with_longer_context(policy, 8192)
    same_answers(found.answers, list(one_at_a_time.answers(reference, tok, tmp_path, limit)))
    assert set(found.report["absent"]) == {"hellaswag_zeroshot", "hellaswag", "squad", "coqa"}
    assert [t["near_ties"] for t in found.report["tasks"]] == [[]] * 18
