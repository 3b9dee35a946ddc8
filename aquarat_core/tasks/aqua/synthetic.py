"""Makes questions in AQuA's form from the problems of `tasks.word_problems`: one right option, four wrong ones."""

from __future__ import annotations

import hashlib
import random

from aquarat_core.conversation import parts_text
from aquarat_core.errors import UsageError
from aquarat_core.tasks.aqua.question import LETTERS, Question
from aquarat_core.tasks.calls import annotated, annotated_parts
from aquarat_core.tasks.word_problems import FAMILIES, Problem, draw


def generate_questions(
    n: int,
    seed: int,
    families: tuple[str, ...] = (),
    max_level: int = 3,
    held_out: bool = False,
    calculator_calls: bool = False,
) -> list[Question]:
    """n questions; the right letter is uniform over A-E. Raises `UsageError` for an unknown family.

    With `calculator_calls`, the rationales of the same questions compute their equations with calls.
    """
    names = families or tuple(FAMILIES)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise UsageError(f"unknown problem families {', '.join(unknown)}: choose from {', '.join(FAMILIES)}")
    rngs = (random.Random(f"question/{held_out}/{seed}/{row}") for row in range(n))
    return [_question(rng, names, max_level, held_out, calculator_calls) for rng in rngs]


def _question(
    rng: random.Random, names: tuple[str, ...], max_level: int, held_out: bool, calculator_calls: bool
) -> Question:
    family, level, problem = draw(rng, names, max_level, held_out)
    correct = rng.randrange(len(LETTERS))
    values = _wrong_options(rng, problem)
    values.insert(correct, problem.answer)
    options = tuple(map(str, values))
    parts = annotated_parts(annotated(problem.rationale)) if calculator_calls else []
    key = "\n".join((problem.question, *options))
    return Question(
        id=hashlib.sha256(key.encode()).hexdigest()[:16],
        question=problem.question,
        options=options,
        rationale=parts_text(parts) if parts else problem.rationale,
        correct=LETTERS[correct],
        family=family,
        level=level,
        rationale_parts=tuple(parts),
    )


def _wrong_options(rng: random.Random, problem: Problem) -> list[int]:
    """Four distinct positive numbers other than the answer: at most two slips, then near misses.

    The number of options below the answer is drawn first, so that guessing by size earns as little as possible; answers
    below five have fewer positive numbers below them.
    """
    answer, n_wrong = problem.answer, len(LETTERS) - 1
    below = min(rng.randint(0, n_wrong), answer - 1)
    sides = ((below, range(max(1, answer - max(8, answer // 4)), answer)),
             (n_wrong - below, range(answer + 1, answer + 1 + max(8, answer // 4))))  # fmt: skip
    slips = [v for v in dict.fromkeys(problem.slips) if v > 0 and v != answer][:2]
    wrong: list[int] = []
    for count, near in sides:
        taken = [v for v in slips if (v < answer) == (near.stop == answer)][:count]
        wrong += taken + rng.sample([v for v in near if v not in taken], count - len(taken))
    rng.shuffle(wrong)
    return wrong
