"""Word problems from templates, and texts that teach them: the built-in data of the demo and the tests.

Every family draws its numbers from a seeded generator and writes a short rationale whose equations a small model can
learn; `slips` are the results of common mistakes. Row i for a given seed does not depend on the number of rows.

A hash of the question permanently assigns each problem to either the training data or the held-out questions, so no
problem of validation or test ever appears in the training text, the drills or the training questions.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from string import ascii_uppercase

from aquarat_core.conversation import Message, assistant_message, user_message
from aquarat_core.tasks.calls import annotated, annotated_message
from aquarat_core.tasks.choice import MARKER, option_line, option_lines

OPTIONS = 5
"""Number of values on a sheet of options."""

MAX_NUMBER = {1: 6, 2: 12, 3: 40}
"""Largest operand of each difficulty level; results may be larger."""

HELD_OUT_SHARE = 8
"""One in this many problems is used only for validation and test."""

NAMES = ("Tom", "Ann", "Sam", "Mia", "Leo", "Eva", "Max", "Zoe")
ITEMS = ("apples", "books", "coins", "pens", "cards", "eggs")


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem without options: values are numbers, `slips` are the results of mistakes."""

    question: str
    answer: int
    rationale: str
    slips: tuple[int, ...]


def _arithmetic(rng: random.Random, top: int) -> Problem:
    a, b, c = rng.randint(2, top), rng.randint(2, top), rng.randint(1, top)
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    if rng.random() < 0.5:
        c = min(c, a + b - 1)
        text = f"{name} has {a} {item}, buys {b} more and gives away {c}. How many {item} are left?"
        return Problem(text, a + b - c, f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}.", (a + b, a + b + c))
    text = f"{name} has {a} {item} and {b} boxes of {c} {item}. How many {item} in all?"
    return Problem(text, a + b * c, f"{b} * {c} = {b * c}. {a} + {b * c} = {a + b * c}.", (b * c, a + b + c))


def _percent(rng: random.Random, top: int) -> Problem:
    rate = rng.choice((10, 20, 25, 50, 75))
    whole = rng.randint(1, max(2, top // 4)) * 100 // gcd(rate, 100)
    part = rate * whole // 100
    if rng.random() < 0.5:
        text = f"What is {rate}% of {whole}?"
        return Problem(text, part, f"{rate}% of {whole} = {part}.", (whole - part, whole + part))
    text = f"A price of {whole} falls by {rate}%. What is the new price?"
    steps = f"{rate}% of {whole} = {part}. {whole} - {part} = {whole - part}."
    return Problem(text, whole - part, steps, (part, whole + part))


def _ratio(rng: random.Random, top: int) -> Problem:
    a, b, unit = rng.randint(1, 5), rng.randint(1, 5), rng.randint(2, top)
    total = (a + b) * unit
    text = f"{total} {rng.choice(ITEMS)} are shared in the ratio {a}:{b}. How large is the first share?"
    steps = f"{a} + {b} = {a + b}. {total} / {a + b} = {unit}. {unit} * {a} = {unit * a}."
    return Problem(text, unit * a, steps, (unit * b, unit))


def _speed(rng: random.Random, top: int) -> Problem:
    v, t = rng.randint(2, top), rng.randint(2, 9)
    if rng.random() < 0.5:
        text = f"A train goes {v * t} km in {t} hours. What is its speed?"
        return Problem(text, v, f"{v * t} / {t} = {v}.", (v * t - t, v + t))
    text = f"A car drives {v} km/h for {t} hours. How far does it go?"
    return Problem(text, v * t, f"{v} * {t} = {v * t}.", (v + t, v * t + t))


def _work(rng: random.Random, top: int) -> Problem:
    workers, days = rng.randint(2, 9), rng.randint(2, top)
    others = rng.choice([n for n in range(2, 13) if n != workers and (workers * days) % n == 0] or [1])
    text = f"{workers} men build a wall in {days} days. How many days do {others} men need?"
    total = workers * days
    steps = f"{workers} * {days} = {total}. {total} / {others} = {total // others}."
    return Problem(text, total // others, steps, (total, days + workers))


def _average(rng: random.Random, top: int) -> Problem:
    mean = rng.randint(3, top + 2)
    a = rng.randint(1, 2 * mean - 2)
    b = rng.randint(1, min(2 * top, 3 * mean - a - 1))
    c = 3 * mean - a - b
    text = f"What is the average of {a}, {b} and {c}?"
    steps = f"{a} + {b} = {a + b}. {a + b} + {c} = {3 * mean}. {3 * mean} / 3 = {mean}."
    return Problem(text, mean, steps, (3 * mean, a + b))


def _age(rng: random.Random, top: int) -> Problem:
    now, years, other = rng.randint(2, top), rng.randint(2, 9), rng.randint(1, top)
    older, younger = rng.sample(NAMES, 2)
    text = f"{younger} is {now}. {older} is {other} years older. How old is {older} in {years} years?"
    steps = f"{now} + {other} = {now + other}. {now + other} + {years} = {now + other + years}."
    return Problem(text, now + other + years, steps, (now + other, now + years))


FAMILIES: dict[str, Callable[[random.Random, int], Problem]] = {
    "arithmetic": _arithmetic,
    "percent": _percent,
    "ratio": _ratio,
    "speed": _speed,
    "work": _work,
    "average": _average,
    "age": _age,
}


def is_held_out(question: str) -> bool:
    """Whether the problem with this text belongs to validation and test."""
    return hashlib.blake2b(question.encode(), digest_size=8).digest()[0] % HELD_OUT_SHARE == 0


def draw(
    rng: random.Random, names: tuple[str, ...], max_level: int, held_out: bool = False
) -> tuple[str, int, Problem]:
    """Draws family, level and problem, either held-out or for training."""
    while True:
        family, level = rng.choice(names), rng.randint(1, max_level)
        problem = FAMILIES[family](rng, MAX_NUMBER[level])
        if is_held_out(problem.question) == held_out:
            return family, level, problem


def generate_text(n: int, seed: int, max_level: int = 3) -> list[str]:
    """n short documents: tables of facts, sheets of options looked up by value, and solved problems."""
    return [_document(random.Random(f"text/{seed}/{row}"), max_level) for row in range(n)]


def _document(rng: random.Random, max_level: int) -> str:
    kind = rng.random()
    if kind < 0.25:
        return " ".join(_fact(rng, MAX_NUMBER[rng.randint(1, max_level)]) for _ in range(8))
    if kind < 0.55:
        options, found = _option_sheet(rng, MAX_NUMBER[max_level], look_ups=10)
        return "\n".join((options, *found))
    _, _, problem = draw(rng, tuple(FAMILIES), max_level)
    return f"{problem.question}\n{problem.rationale}\nIt is {problem.answer}."


def _option_sheet(rng: random.Random, top: int, look_ups: int) -> tuple[str, list[str]]:
    """Five lettered values, then look-ups of values, each with its letter and the answer line that follows.

    Look-ups are drawn with replacement: if each letter came once, the model would learn to rule out those already
    seen instead.
    """
    values = [str(v) for v in rng.sample(range(1, 4 * top), OPTIONS)]
    rows = list(zip(values, ascii_uppercase, strict=False))
    found = [f"{option_line(*row)}\n{MARKER}{row[1]}" for row in rng.choices(rows, k=look_ups)]
    return option_lines(values), found


def _fact(rng: random.Random, top: int) -> str:
    a, b = rng.randint(1, top), rng.randint(1, top)
    match rng.randrange(4):
        case 0:
            return f"{a} + {b} = {a + b}."
        case 1:
            return f"{a + b} - {b} = {a}."
        case 2:
            b = rng.randint(2, 9)
            return f"{a} * {b} = {a * b}."
        case _:
            b = rng.randint(2, 9)
            return f"{a * b} / {b} = {a}."


def generate_drills(n: int, seed: int, max_level: int = 3, calculator_calls: bool = False) -> list[list[Message]]:
    """n conversations that each practice half of the task: a problem without options, or reading off a letter.

    With `calculator_calls`, the equations of the same problems are computed with calls.
    """
    return [_drill(random.Random(f"drill/{seed}/{row}"), max_level, calculator_calls) for row in range(n)]


def _drill(rng: random.Random, max_level: int, calculator_calls: bool) -> list[Message]:
    if rng.random() < 0.5:
        _, _, problem = draw(rng, tuple(FAMILIES), max_level)
        rationale = annotated(problem.rationale) if calculator_calls else problem.rationale
        return [user_message(problem.question), annotated_message(f"{rationale}\nIt is {problem.answer}.")]
    options, (answer,) = _option_sheet(rng, MAX_NUMBER[max_level], look_ups=1)
    asked = f"Which option is {answer.partition(' = ')[0]}?\n{options}"
    return [user_message(asked), assistant_message(answer)]
