"""What a fake cloud does wrong, and when."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Verb = Literal["offers", "rent", "list", "get", "terminate", "balance", "keys", "attributes", "leftovers"]
Effect = Literal[
    # instead of acting
    "500",
    "503",
    "504",
    "429",
    "429 with Retry-After",
    "418",
    "401",
    "401 html",
    "403 html",
    "403 error code 1010",
    "redirect",
    "cut",
    "late",
    "drip",
    "no capacity",
    "quota",
    "inactive",
    "unknown code",
    "not the provider's form",
    "provider error",
    # acting, but another answer
    "then 500",
    "then 500 with id",
    "then 429",
    "then 504",
    "then 404",
    "then cut",
    "then half an answer",
    "then late",
    "then html",
    "then redirect",
    "then broken json",
    "then deep json",
    "then too long",
    "then no id",
    "then 400 with id",
    "then 200 with errors",
    "then twice",
    # an answer as after acting, without it
    "without effect",
    "ghost",
    "html 200",
    "empty",
    "not a list",
    "first half",
    # strange but true records
    "new status",
    "extra fields",
    "empty ip",
    "no ip",
    "a record without status",
    "a record without id and name",
    "odd time",
    "price in dollars",
    "no name",
]


@dataclass(frozen=True)
class Fault:
    """Happens to requests of one verb: by their number among these, beginning with 1, by chance, or in a time."""

    on: Verb
    do: Effect
    calls: tuple[int, ...] = ()
    chance: float = 0.0
    between: tuple[float, float] | None = None
    """Seconds after the fake's start."""


@dataclass
class Script:
    faults: list[Fault] = field(default_factory=list)
    seed: int = 0
    happened: list[tuple[Verb, Effect]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._calls: Counter[Verb] = Counter()

    def pick(self, verb: Verb, since_start: float) -> Effect | None:
        """What goes wrong with this request. The first fault that applies wins."""
        self._calls[verb] += 1
        number = self._calls[verb]
        for fault in self.faults:
            if fault.on != verb:
                continue
            in_time = fault.between is not None and fault.between[0] <= since_start < fault.between[1]
            if number in fault.calls or in_time or (fault.chance and self._random.random() < fault.chance):
                self.happened.append((verb, fault.do))
                return fault.do
        return None

    def add(self, *faults: Fault) -> None:
        self.faults.extend(faults)


def always(on: Verb, do: Effect) -> Fault:
    return Fault(on, do, between=(0, float("inf")))


def once(on: Verb, do: Effect) -> Fault:
    return Fault(on, do, calls=(1,))


def times(on: Verb, do: Effect, count: int) -> Fault:
    return Fault(on, do, calls=tuple(range(1, count + 1)))


def effects(faults: Iterable[Fault]) -> set[Effect]:
    return {fault.do for fault in faults}
