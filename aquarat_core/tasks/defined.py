"""Tasks that a profile defines without code, and how their rows become examples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from string import ascii_uppercase
from typing import Any, cast

from aquarat_core.config import TaskConfig, TaskDefinition
from aquarat_core.config.tasks import COLUMNS, OPTIONAL_COLUMNS
from aquarat_core.errors import DataError
from aquarat_core.plain_text import type_of
from aquarat_core.tasks.choice import count_markers
from aquarat_core.tasks.multiple_choice import MultipleChoiceTask, choice_example
from aquarat_core.tasks.numeric import NumericTask, numeric_example
from aquarat_core.tasks.short_text import ShortTextTask, text_example
from aquarat_core.tasks.source import Row, text_of, without_answers
from aquarat_core.tasks.task import Example

Facts = Mapping[str, Any]
"""Facts that `chat_datasets` found out about a task's rows: `letters` is the largest number of options."""
_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_PREFIX = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:])\s+(?=\S)")


def multiple_choice(name: str, definition: TaskDefinition, facts: Facts) -> MultipleChoiceTask:
    del definition
    return MultipleChoiceTask(name, int(facts["letters"]))


def numeric(name: str, definition: TaskDefinition, facts: Facts) -> NumericTask:
    del facts
    return NumericTask(name, definition.tolerance)


def short_text(name: str, definition: TaskDefinition, facts: Facts) -> ShortTextTask:
    del definition, facts
    return ShortTextTask(name)


def has_solutions(row: Row, config: TaskConfig) -> bool:
    """Whether the rows of a data set come with worked solutions, judged by its first row."""
    return "rationale" in config.columns or "rationale" in row


def example_of(row: Row, name: str, config: TaskConfig, solutions: bool) -> Example[Any]:
    """Converts a row of any kind except code and modules to an example with the id `name`, or the row's own `id`.

    The instruction is the same for all rows of a data set: it asks for a solution if `solutions` says that the rows
    have them. Raises `DataError` that says what is wrong with the row.
    """
    values = renamed(row, config)
    rationale = _text_or_empty(values, "rationale") if solutions else None
    return _READERS[config.kind](values, id_of(values, name), config, rationale)


def id_of(values: Row, name: str) -> str:
    """The row's own id, or `name` if it has none. Raises `DataError` for an invalid id."""
    own = values.get("id")
    if own is None:
        return name
    if not _is_text(own) or not str(own).strip():
        raise DataError(f"the id is {_short(own)} but should be a text or a number")
    return str(own)


def _choice(row: Row, name: str, config: TaskConfig, rationale: str | None) -> Example[Any]:
    options, labels = _options(row.get("options"))
    if len(set(options)) < len(options):
        raise DataError("two options are the same")
    correct = _correct(row.get("answer"), options, labels, config.first_option)
    kept = None if rationale is None else without_answers(rationale, count_markers)
    return choice_example(
        name, {"question": text_of(row, "question"), "options": options, "correct": correct, "rationale": kept}
    )


def _number(row: Row, name: str, config: TaskConfig, rationale: str | None) -> Example[Any]:
    del config
    answer = row.get("answer")
    if isinstance(answer, float):
        if not math.isfinite(answer):
            raise DataError(f"the answer is {answer}")
        answer = f"{Decimal(f'{answer:.15g}'):f}"
    elif isinstance(answer, int) and not isinstance(answer, bool):
        answer = str(answer)
    elif not isinstance(answer, str):
        raise DataError(f"the answer is {'missing' if answer is None else _short(answer)} but should be a number")
    return numeric_example(name, text_of(row, "question"), answer, rationale)


def _short_text(row: Row, name: str, config: TaskConfig, rationale: str | None) -> Example[Any]:
    del config
    answer: Any = _parsed(row.get("answer"))
    answers = cast("list[Any]", answer if isinstance(answer, list) else [answer])
    if not all(map(_is_text, answers)):
        raise DataError(f"the answer is {_short(cast('object', answer))} but should be a text or a list of texts")
    return text_example(name, text_of(row, "question"), [str(a) for a in answers], rationale or "")


_READERS: dict[str, Callable[[Row, str, TaskConfig, str | None], Example[Any]]] = {
    "multiple_choice": _choice,
    "numeric": _number,
    "short_text": _short_text,
}


def renamed(row: Row, config: TaskConfig) -> dict[str, Any]:
    """The row with its columns renamed to ours. Raises `DataError` if a column is missing that the config names or the
    kind of task needs."""
    values = dict(row)
    for ours, theirs in config.columns.items():
        names = (theirs,) if isinstance(theirs, str) else theirs
        missing = [name for name in names if name not in row]
        if missing and ours in OPTIONAL_COLUMNS:
            continue
        if missing:
            raise DataError(
                f"there is no column {missing[0]!r} (columns.{ours}); there are {', '.join(map(str, row))[:400]}"
            )
        values[ours] = row[names[0]] if isinstance(theirs, str) else [row[name] for name in names]
    for ours in COLUMNS[config.kind]:
        if ours not in values and ours not in OPTIONAL_COLUMNS:
            raise DataError(
                f"there is no column {ours!r}; there are {', '.join(map(str, row))}. If one of these is it, name it in "
                f"tasks.{config.name}.columns, as in {{{ours}: NAME}}"
            )
    return values


def _options(given: Any) -> tuple[list[str], list[str]]:
    """The options' texts, without letters before them, and the data set's own labels, if any.

    The options may be a list, a mapping from labels to texts, `{label: [...], text: [...]}`, or one of these as JSON.
    """
    value = _parsed(given)
    labels: list[str] = []
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if set(fields) == {"label", "text"}:
            given, value = fields["label"], fields["text"]
            if (
                not isinstance(given, list)
                or not isinstance(value, list)
                or len(cast("list[Any]", given)) != len(cast("list[Any]", value))
            ):
                raise DataError("label and text of the options should be lists of the same length")
            labels = [str(x) for x in cast("list[Any]", given)]
        else:
            labels, value = [str(x) for x in fields], list(fields.values())
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"the options are {_short(cast('object', value))} but should be a list of texts")
    texts: list[str] = []
    for option in cast("Sequence[Any]", value):
        if not _is_text(option) or not str(option).strip():
            raise DataError(f"an option is {_short(option)} but should be a text")
        texts.append(str(option).strip())
    return _without_letters(texts), labels


def _without_letters(options: list[str]) -> list[str]:
    """The options without "a) ", "(B) " or "C. " before them, if each option has its own letter."""
    found = [_PREFIX.match(option) for option in options]
    letters = [(m[1] or m[2]).upper() for m in found if m]
    if letters != list(ascii_uppercase[: len(options)]):
        return options
    return [option[m.end() :] for option, m in zip(options, found, strict=True) if m]


def _correct(answer: Any, options: Sequence[str], labels: Sequence[str], first: int) -> int:
    """The index of the right option: by its label, text, letter or number, tried in this order.

    Raises `DataError` if the answer matches none of them.
    """
    known = f"one of {len(options)} options, as its text, its letter or its number from {first}"
    if isinstance(answer, bool) or not isinstance(answer, (str, int)):
        raise DataError(f"the answer is {'missing' if answer is None else _short(answer)} but should be {known}")
    if isinstance(answer, int) and labels and str(answer) in labels:
        return labels.index(str(answer))
    if isinstance(answer, str):
        text = answer.strip()
        for names in (labels, options):
            if list(names).count(text) == 1:
                return list(names).index(text)
        stripped = _PREFIX.sub("", text, count=1)
        if list(options).count(stripped) == 1:
            return list(options).index(stripped)
        if match := _LETTER.fullmatch(text):
            index = ascii_uppercase.index(match[1].upper())
            if index < len(options):
                return index
        answer = int(text) if re.fullmatch(r"[0-9]{1,2}", text) else text
    if isinstance(answer, int) and 0 <= answer - first < len(options):
        return answer - first
    raise DataError(f"the answer {str(answer)[:80]!r} does not match any option: it should be {known}")


def _text_or_empty(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{name} is {type_of(value)} instead of a text")
    return value


def _is_text(value: object) -> bool:
    """Whether a row's value is a text, or a number that can be used as one."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _short(value: object) -> str:
    return repr(value[:80]) if isinstance(value, str) else str(value)[:80]


def _parsed(value: object) -> object:
    """A value that a CSV file contains as JSON text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
