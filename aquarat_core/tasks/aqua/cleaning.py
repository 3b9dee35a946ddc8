"""Turns published AQuA-RAT rows into questions for training and scoring, and counts what every rule does.

In all splits, prefixes and stray spaces are removed, and rationales lose their answer. Only training loses rows: those
whose rationale contradicts the letter, that teach nothing, or that are too close to a held-out question. Validation and
test keep every row, so that scores on them compare with published ones; doubtful rows there are counted.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aquarat_core.data.bad_rows import BadRow, BadRows
from aquarat_core.plain_text import type_of
from aquarat_core.tasks.aqua.letters import letter_left, named, prefixes
from aquarat_core.tasks.aqua.question import LETTERS, Question
from aquarat_core.tasks.aqua.rationales import strip_answer
from aquarat_core.tasks.duplicates import HeldOut, normalized
from aquarat_core.tasks.option_order import keeps_order

RawRow = Mapping[str, Any]
"""`question`, `options` (as "A)53 km"), `rationale`, `correct`: a row as the Hub publishes it."""

TRAIN = "train"
_SPACE = re.compile(r"[^\S\n]+")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Full-width letters, digits and signs, which mean the same as the usual ones."""

MAX_CHARACTERS = {"question": 10_000, "option": 2_000, "rationale": 20_000}
"""A row with a longer text is bad; the longest published texts have about a tenth of this."""
MAX_MARKS = 30
"""Limit on consecutive combining marks, as in Unicode's stream-safe text (UAX #15): composing takes quadratic time."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row left out because a held-out question is too close to it."""

    row: str
    held_out: str
    rule: str


@dataclass(slots=True)
class Cleaned:
    """Clean splits and what was done to them."""

    splits: dict[str, list[Question]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By split, then rule: `rows` were read, `kept` remain, `dropped_*` were removed; the others are changes and
    doubts."""
    leaks: list[Leak] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)

    def letters_left(self) -> dict[str, float]:
        """By split, the share of kept rows whose rationale still seems to name the right letter."""
        return {
            split: round(counts.get("letter_left", 0) / max(1, counts["kept"]), 5)
            for split, counts in self.counts.items()
        }


def clean(
    raw: Mapping[str, Sequence[RawRow]],
    repo: str,
    on_bad_row: str = "error",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cleaned:
    """Clean every split of `raw`; `repo` names the data set in errors.

    A row with other than five options, a letter outside A-E, a value of another type or a text beyond
    `MAX_CHARACTERS` or `MAX_MARKS` raises `DataError`; if `on_bad_row` is "drop", it is dropped, counted and named in
    `bad_rows`. Row i of a split is always called `split-00000i`, even if rows before it were dropped.
    """
    total, done, cleaned = sum(map(len, raw.values())), 0, Cleaned()
    bad = BadRows(repo, "aqua_dataset", on_bad_row, cleaned.bad_rows)
    for split in sorted(raw, key=lambda s: s == TRAIN):  # training comes last, because it is compared with the others
        counts = Counter(rows=len(raw[split]))
        questions: list[Question] = []
        for i, row in enumerate(raw[split]):
            if question := _checked(row, split, i, bad, counts):
                questions.append(question)
            done += 1
            progress(done, total)
        cleaned.splits[split] = questions
        cleaned.counts[split] = counts
    if TRAIN in raw:
        _drop_near_held_out(cleaned)
    for split, questions in cleaned.splits.items():
        cleaned.counts[split] = dict(sorted(cleaned.counts[split].items())) | {"kept": len(questions)}
    return cleaned


def _checked(row: RawRow, split: str, number: int, bad: BadRows, counts: Counter[str]) -> Question | None:
    """The row as a question, or None if it is dropped."""
    if wrong := _what_is_wrong(row):
        bad.add(split, number, wrong)
        counts["dropped_bad_row"] += 1
        return None
    name = f"{split}-{number:06d}"
    question, doubts = _question(row, name, counts)
    training = split == TRAIN
    for doubt in doubts:
        counts[f"dropped_{doubt}" if training else doubt] += 1
        if training:
            return None
    return question


def _what_is_wrong(row: object) -> str | None:
    if not isinstance(row, Mapping):
        return f"{type_of(row)} instead of a row"
    fields = cast("Mapping[str, Any]", row)
    options, correct, question = fields.get("options"), fields.get("correct"), fields.get("question")
    rationale = fields.get("rationale")
    if question is None or (isinstance(question, str) and not question.strip()):
        return "the question is empty"
    if options is not None and not isinstance(options, (list, tuple)):
        return f"the options are {type_of(options)} instead of a list"
    choices = cast("Sequence[object]", options or ())
    if len(choices) != len(LETTERS):
        return f"{len(choices)} options instead of five"
    if any(option is None for option in choices):
        return "an option is missing"
    if not isinstance(correct, str) or len(correct) != 1 or correct not in LETTERS:
        return f"the letter {_shown(correct)} is not one of A-E"
    texts: list[tuple[str, object]] = [("question", question), *(("option", option) for option in choices)]
    texts += [] if rationale is None else [("rationale", rationale)]
    return next((wrong for what, text in texts if (wrong := _wrong_text(what, text))), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _wrong_text(what: str, text: object) -> str | None:
    """The reason why a value cannot be the text of a question, an option or a rationale; None if it can."""
    name = "an option" if what == "option" else f"the {what}"
    if not isinstance(text, str):
        return f"{name} is {type_of(text)} instead of a text"
    if len(text) > MAX_CHARACTERS[what]:
        return f"{name} has {len(text):,} characters, more than {MAX_CHARACTERS[what]:,}"
    if text.isascii():
        return None
    run = 0
    for character in text:
        if 0xD800 <= ord(character) <= 0xDFFF:
            return f"{name} is not valid Unicode"
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MAX_MARKS:
            return f"{name} has more than {MAX_MARKS} combining marks in a row"
    return None


def _options(published: Sequence[str], counts: Counter[str]) -> tuple[list[str], bool]:
    """The texts of the options, and whether any option is prefixed with the letter of another one."""
    published = [option.translate(_FULL_WIDTH) for option in published]
    options: list[str] = []
    found = prefixes(published)
    for option, prefix in zip(published, found, strict=True):
        text = option[prefix.length :]
        options.append(" ".join(unicodedata.normalize("NFC", text).split()))
        counts["option_prefix_missing"] += prefix.length == 0
        counts["option_prefix_doubled"] += prefix.doubled
        counts["option_space"] += options[-1] != text
    return options, any(prefix.misplaced for prefix in found)


def _question(row: RawRow, name: str, counts: Counter[str]) -> tuple[Question, list[str]]:
    """The clean question and the reasons to exclude it from training, most severe first."""
    options, misplaced = _options(row["options"], counts)
    question, given = _tidy(row["question"]), _tidy(row.get("rationale") or "")
    stripped = strip_answer(given, options, question)
    counts["question_space"] += question != row["question"]
    counts["rationale_answer_stripped"] += bool(stripped.letters)
    counts["rationale_marker_rewritten"] += stripped.rewritten
    counts["options_keep_order"] += keeps_order(options)
    correct = row["correct"]
    doubts = {
        "letter_contradicts_rationale": any(letter != correct for letter in stripped.letters),
        "option_letter_misplaced": misplaced,
        "letter_left": letter_left(stripped.text, named(question)),
        "empty_option": not all(options),
        "ambiguous_options": options.count(options[LETTERS.index(correct)]) > 1,
        "empty_rationale": not stripped.text,
    }
    clean_question = Question(name, question, tuple(options), stripped.text, correct)
    return clean_question, [doubt for doubt, holds in doubts.items() if holds]


def _tidy(text: str) -> str:
    """Normalizes to NFC (NFKC would turn x² into x2), the usual width, single spaces and no empty lines."""
    lines = (
        _SPACE.sub(" ", line).strip() for line in unicodedata.normalize("NFC", text.translate(_FULL_WIDTH)).splitlines()
    )
    return "\n".join(line for line in lines if line)


def _drop_near_held_out(cleaned: Cleaned) -> None:
    """Removes from training repeated questions and those that are too close to a question of another split."""
    held_out = {q.id: q.question for split, rows in cleaned.splits.items() if split != TRAIN for q in rows}
    index, counts = HeldOut(held_out), cleaned.counts[TRAIN]
    seen: set[tuple[str, ...]] = set()
    kept: list[Question] = []
    for q in cleaned.splits[TRAIN]:
        key = (normalized(q.question), *sorted(q.options))
        if found := index.find(q.question):
            cleaned.leaks.append(Leak(q.id, *found))
            counts[f"dropped_near_held_out_{found[1]}"] += 1
        elif key in seen:
            counts["dropped_repeated"] += 1
        else:
            kept.append(q)
        seen.add(key)
    cleaned.splits[TRAIN] = kept
