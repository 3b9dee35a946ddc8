"""How probable the model finds each choice: its letter, its text, or its letter after a solution of the model's own.

The highest score is the answer, of equals the first. Nothing is parsed, so these protocols also measure models that do
not keep to the form of an answer, and they give probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from aquarat_core.config.evaluation import Asked
from aquarat_core.errors import DataError
from aquarat_core.evaluation.forced import ForcedCue, words_for_an_answer
from aquarat_core.evaluation.letters import answer_cue, bare_letters
from aquarat_core.evaluation.likelihood import Choices
from aquarat_core.evaluation.protocols.generating import greedy_completions
from aquarat_core.evaluation.protocols.subject import Subject, Tell
from aquarat_core.evaluation.records import Record, as_scores, prompt_hash
from aquarat_core.model.typed_torch import to_list
from aquarat_core.rollout.batch import Completion
from aquarat_core.tasks.task import A, Example, Task
from aquarat_core.text.chat import render_prompt

PART = 256
"""Questions that are scored between two calls of `tell`."""


def letters(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """The letters after the cue, without any solution before it."""
    tokenizer = subject.tokenizer
    stem, ids = answer_cue(tokenizer, task) if asked.cue == "answer" else ([], bare_letters(tokenizer, task))
    contexts = [[*render_prompt(tokenizer, e.messages), *stem] for e in examples]
    cue = words_for_an_answer(task) if asked.cue == "answer" else ""
    scores = _letter_scores(subject, contexts, ids, tell)
    return [_scored(task, e, s, cue, protocol="letters") for e, s in zip(examples, scores, strict=True)]


def continuations(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """The text of each option as the whole answer: the mean log-probability of its tokens.

    Raises `DataError` for an option without text.
    """
    del asked
    tokenizer = subject.tokenizer
    requests: list[Choices] = []
    for example in examples:
        options = [tokenizer.encode(text) for text in example.choices]
        if not all(options):
            raise DataError(f"task {task.name}, {example.id}: an option has no text, and so no likelihood")
        requests.append(Choices(render_prompt(tokenizer, example.messages), options))
    fits = [len(r.context) + max(map(len, r.continuations)) <= subject.sequence_len for r in requests]
    found = iter(subject.scorer.score([r for r, fit in zip(requests, fits, strict=True) if fit], tell))
    scores = [as_scores(x.mean for x in next(found)) if fit else None for fit in fits]
    return [_scored(task, e, s, "", protocol="continuations") for e, s in zip(examples, scores, strict=True)]


def cued(
    subject: Subject, task: Task[A], examples: Sequence[Example[A]], asked: Asked, tell: Tell | None = None
) -> list[Record]:
    """The letters after a forced cue that follows the model's own greedy solution, cut before an answer of its own."""
    tokenizer = subject.tokenizer
    cue = ForcedCue(tokenizer, task, task.name)
    said = greedy_completions(subject, examples, asked, tell, reserve=cue.n_tokens)
    kept = [None if c is None else cue.solution(c.content) for c in said]
    contexts = [cue.context(render_prompt(tokenizer, e.messages), k or ()) for e, k in zip(examples, kept, strict=True)]
    asked_of = [i for i, k in enumerate(kept) if k is not None]
    scores = _letter_scores(subject, [contexts[i] for i in asked_of], cue.letter_ids, None)
    found = dict(zip(asked_of, scores, strict=True))
    return [
        _scored(task, e, found.get(i), "", "cued", completion=c, text=tokenizer.decode(k or []))
        for i, (e, k, c) in enumerate(zip(examples, kept, said, strict=True))
    ]


def _letter_scores(
    subject: Subject, contexts: Sequence[Sequence[int]], ids: Sequence[int], tell: Tell | None
) -> list[tuple[float, ...] | None]:
    """Log-probabilities of the letters after each context; None for a context that is too long."""
    found: list[tuple[float, ...] | None] = [None] * len(contexts)
    fit = [i for i, context in enumerate(contexts) if len(context) <= subject.sequence_len]
    for start in range(0, len(fit), PART):
        part = fit[start : start + PART]
        logp_BL = subject.scorer.next_token([contexts[i] for i in part], ids)
        for i, logp_L in zip(part, logp_BL.cpu(), strict=True):
            found[i] = as_scores(to_list(logp_L))
        if tell is not None:
            tell(start + len(part))
    return found


def _scored(
    task: Task[A],
    example: Example[A],
    scores: tuple[float, ...] | None,
    cue: str,
    protocol: Any,
    completion: Completion | None = None,
    text: str = "",
) -> Record:
    """The record of an example whose choices have `scores`, which may hold letters that the example does not have."""
    own = None if scores is None else scores[: len(example.choices)]
    best = None if own is None else ascii_uppercase[own.index(max(own))]
    return Record(
        id=example.id,
        question=example.prompt,
        gold=example.reference,
        completion=text,
        parsed=best,
        correct=best == example.reference,
        n_tokens=len(completion.content) if completion else 0,
        truncated=completion is not None and not completion.ended,
        stop_reason="too_long" if own is None else "scored",
        task=task.name,
        protocol=protocol,
        prompt_sha256=prompt_hash(example.prompt, cue),
        choice_scores=own,
        chance=task.chance(example),
    )
