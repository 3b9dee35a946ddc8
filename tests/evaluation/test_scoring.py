"""Likelihoods of letters and options: against the model's own logits, and what becomes of a question without room."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from aquarat_core.config import EvalConfig
from aquarat_core.config.evaluation import Asked, EvalEntry
from aquarat_core.errors import UserError
from aquarat_core.evaluation.forced import ForcedCue
from aquarat_core.evaluation.letters import answer_cue, bare_letters, letter_ids
from aquarat_core.evaluation.protocols.evaluator import check_supported
from aquarat_core.evaluation.protocols.generating import greedy, sampled
from aquarat_core.evaluation.protocols.rotating import rotated
from aquarat_core.evaluation.protocols.scoring import continuations, cued, letters
from aquarat_core.evaluation.protocols.subject import Subject
from aquarat_core.evaluation.records import prompt_hash
from aquarat_core.tasks.aqua.question import Question
from aquarat_core.tasks.aqua.task import to_example
from aquarat_core.tasks.registry import load_task
from aquarat_core.text.chat import render_prompt
from tests.factories import AQUA, examples, guesser, random_model, reading_examples, reading_tokenizer, tokenizer


def asked(protocol: str = "letters", **fields) -> Asked:
    entry = EvalEntry.model_validate({"task": "aqua", "protocol": protocol, **fields})
    return EvalConfig(task="aqua", max_new_tokens=8).resolved(entry)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(guesser(), reading_tokenizer())


@pytest.fixture(scope="module")
def babbler() -> Subject:
    """A random model of a tokenizer that knows synthetic questions: its likelihoods are all over the place."""
    return Subject(random_model(tokenizer().vocab_size, sequence_len=256), tokenizer())


def logp_after(subject: Subject, context: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(subject.model(torch.tensor([context]))[0, -1].double(), dim=0)


def test_letters_are_scored_after_the_tasks_own_words(subject: Subject) -> None:
    tok = reading_tokenizer()
    stem = tok.encode("Answer:")
    ids = [tok.encode(f"Answer: {x}")[-1] for x in "ABCDE"]
    assert answer_cue(tok, AQUA) == (stem, ids) and letter_ids(tok, AQUA) == ids
    found = letters(subject, AQUA, reading_examples(6), asked())
    for e, r in zip(reading_examples(6), found, strict=True):
        expected = logp_after(subject, [*render_prompt(tok, e.messages), *stem])[ids]
        assert r.choice_scores == pytest.approx(expected.tolist(), abs=1e-4)
        assert r.parsed == "ABCDE"[int(expected.argmax())] and r.correct == (r.parsed == e.reference)
        assert (r.stop_reason, r.completion, r.chance, r.gold) == ("scored", "", 0.2, e.reference)
        assert r.prompt_sha256 == prompt_hash(e.prompt, "Answer: ") != prompt_hash(e.prompt)
        # It has learned to answer in form: nearly all that may follow are letters.
        assert sum(math.exp(x) for x in r.choice_scores or ()) > 0.9


def test_bare_letters_are_the_whole_answer(babbler: Subject) -> None:
    tok, some = tokenizer(), examples()[:5]
    ids = [tok.encode(x)[0] for x in "ABCDE"]
    assert bare_letters(tok, AQUA) == ids != letter_ids(tok, AQUA)
    found = letters(babbler, AQUA, some, asked(cue="bare"))
    for e, r in zip(some, found, strict=True):
        assert r.choice_scores == pytest.approx(
            logp_after(babbler, render_prompt(tok, e.messages))[ids].tolist(), abs=1e-4
        )
        assert r.prompt_sha256 == prompt_hash(e.prompt)


def test_only_the_letters_that_a_question_has_are_compared(babbler: Subject) -> None:
    """ARC has questions of three to five options."""
    from aquarat_core.tasks.multiple_choice import MultipleChoiceTask, choice_example

    task = MultipleChoiceTask("few", 5)
    few = choice_example("q", {"question": "2 + 2?", "options": ["3", "4", "5"], "correct": 1, "rationale": None})
    (record,) = letters(babbler, task, [few], asked())
    assert record.choice_scores is not None and len(record.choice_scores) == 3
    assert record.parsed in "ABC" and record.chance == pytest.approx(1 / 3)


def test_continuations_are_compared_by_their_mean(babbler: Subject) -> None:
    tok, some = tokenizer(), examples()[:4]
    for e, r in zip(some, continuations(babbler, AQUA, some, asked("continuations")), strict=True):
        means = []
        for option in e.choices:
            context, ids = render_prompt(tok, e.messages), tok.encode(option)
            total = 0.0
            for token in ids:
                total += float(logp_after(babbler, context)[token])
                context = [*context, token]
            means.append(total / len(ids))
        assert r.choice_scores == pytest.approx(means, abs=1e-4)
        assert r.parsed == "ABCDE"[means.index(max(means))]


def test_a_question_without_room_is_not_scored_and_changes_no_other(subject: Subject) -> None:
    some = reading_examples(3)
    long = to_example(Question("long", "Say" + " A" * 500, some[0].choices, "", "A", "reading"))
    for protocol, ask in (("letters", letters), ("continuations", continuations), ("cued", cued)):
        found = ask(subject, AQUA, [some[0], long, *some[1:]], asked(protocol))
        assert [r for r in found if r.id != "long"] == ask(subject, AQUA, some, asked(protocol))
        assert (found[1].stop_reason, found[1].choice_scores, found[1].parsed) == ("too_long", None, None)
        assert found[1].correct is False


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2 and 2 are 4.\n4 = B\nAnswer: B", "2 and 2 are 4.\n4 = B\n"),
        ("Answer: B", ""),
        ("so Answer: A\nAnswer: B", "so"),
        ("nothing that ends", "nothing that ends"),
        ("", ""),
    ],
)
def test_a_solution_is_cut_before_its_own_answer(text: str, kept: str) -> None:
    tok = reading_tokenizer()
    ids = tok.encode(text)
    found = tok.decode(ForcedCue(tok, AQUA, "aqua").solution(ids))
    assert found.rstrip(" ") == kept


def test_the_cue_follows_the_models_own_solution(subject: Subject, babbler: Subject) -> None:
    """The guesser says its answer at once: nothing is left of its solution, and the letters are those without one."""
    some = reading_examples(4)
    plain, after = letters(subject, AQUA, some, asked()), cued(subject, AQUA, some, asked("cued"))
    for a, b in zip(plain, after, strict=True):
        assert b.choice_scores == pytest.approx(a.choice_scores, abs=1e-5) and b.parsed == a.parsed
        assert (b.completion, b.truncated, b.stop_reason, b.protocol) == ("", False, "scored", "cued")
    # The babbler never answers: all that it wrote stays, and the cue begins a new line.
    tok, few = tokenizer(), examples()[:3]
    said = greedy(babbler, AQUA, few, asked())
    for e, r, g in zip(few, cued(babbler, AQUA, few, asked("cued")), said, strict=True):
        assert r.completion == g.completion and r.n_tokens == g.n_tokens == 8 and r.truncated
        stem, ids = answer_cue(tok, AQUA, "" if r.completion.endswith("\n") else "\n")
        context = [*render_prompt(tok, e.messages), *_greedy_ids(babbler, e, 8), *stem]
        assert r.choice_scores == pytest.approx(logp_after(babbler, context)[ids].tolist(), abs=1e-3)


def _greedy_ids(subject: Subject, example, n: int) -> list[int]:
    context = render_prompt(subject.tokenizer, example.messages)
    for _ in range(n):
        context = [*context, int(logp_after(subject, context).argmax())]
    return context[-n:]


def test_samples_depend_on_seed_question_and_number_alone(babbler: Subject) -> None:
    some = list(examples()[:3])
    found = sampled(babbler, AQUA, some, asked("sampled", samples=3))
    assert [(r.id, r.sample) for r in found] == [(e.id, n) for e in some for n in range(3)]
    alone = sampled(babbler, AQUA, some[1:2], asked("sampled", samples=2))
    assert alone == [r for r in found if r.id == some[1].id][:2]
    assert len({r.completion for r in found}) == 9
    other = sampled(babbler, AQUA, some, replace(asked("sampled", samples=3), seed=31))
    assert not {r.completion for r in found} & {r.completion for r in other}


def test_rotations_are_asked_with_their_shift(subject: Subject) -> None:
    fixed = reading_examples(1)
    assert [r.sample for r in rotated(subject, AQUA, fixed, asked("rotated"))] == [0]  # its last option stays the last
    free = to_example(Question("free", "Say A", ("1", "2", "3", "4", "5"), "", "B", "reading"))
    found = rotated(subject, AQUA, [*fixed, free], asked("rotated"))
    assert [(r.id, r.sample, r.gold) for r in found[1:]] == [("free", s, "BCDEA"[s]) for s in range(5)]
    assert len({r.question for r in found[1:]}) == 5


def test_a_protocol_that_a_task_does_not_support_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="gsm8k cannot be evaluated under protocol 'rotated': it supports greedy, samp"):
        check_supported(load_task("gsm8k"), "rotated")
