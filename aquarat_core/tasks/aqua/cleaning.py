"""Published AQuA-RAT rows into questions that can be trained and scored on, every rule counted.

All splits: prefixes and stray space go, the rationale loses its answer. Training alone loses rows: those whose
rationale contradicts the letter, that cannot teach, or that are too close to a held-out question. Validation and test
keep every row, so that their scores compare with published ones; what is doubtful about them is counted.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aquarat_core.data.bad_rows import BadRow, BadRows
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
"""Letters, digits and signs as wide as Chinese characters, which mean the same as the usual ones."""

MAX_CHARACTERS = {"question": 10_000, "option": 2_000, "rationale": 20_000}
"""Longer texts make a bad row; the longest published ones have about a tenth of this."""
MAX_MARKS = 30
"""Combining marks in a row, as in Unicode's stream-safe text (UAX #15): composing takes the square of their number."""


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
    """By split, then rule; `rows` came in, `kept` went out, `dropped_*` did not, the others are changes and doubts."""
    leaks: list[Leak] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)

    def letters_left(self) -> dict[str, float]:
        """By split, the share of kept rows whose rationale still seems to say which letter is right."""
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
    `MAX_CHARACTERS` or `MAX_MARKS` raises `DataError`, or is dropped, counted and named in `bad_rows` where
    `on_bad_row` is "drop". Row i of a split is called `split-00000i` whatever was dropped before it.
    """
    total, done, cleaned = sum(map(len, raw.values())), 0, Cleaned()
    bad = BadRows(repo, "aqua_dataset", on_bad_row, cleaned.bad_rows)
    for split in sorted(raw, key=lambda s: s == TRAIN):  # training last: it is compared with the others
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
        return f"a {type(row).__name__} instead of a row"
    fields = cast("Mapping[str, Any]", row)
    options, correct, question = fields.get("options"), fields.get("correct"), fields.get("question")
    rationale = fields.get("rationale")
    if question is None or (isinstance(question, str) and not question.strip()):
        return "the question is empty"
    if options is not None and not isinstance(options, (list, tuple)):
        return f"the options are a {type(options).__name__} instead of a list"
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
    """Why a value cannot be the text of a question, an option or a rationale; None if it can."""
    name = "an option" if what == "option" else f"the {what}"
    if not isinstance(text, str):
        return f"{name} is a {type(text).__name__} instead of a text"
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
    """The texts of the options, and whether a letter before one is that of another place."""
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
    """The clean question and what speaks against training on it, the gravest first."""
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
    """Composed characters (NFC: NFKC would turn x² into x2) of the usual width, single spaces, no empty lines."""
    lines = (
        _SPACE.sub(" ", line).strip() for line in unicodedata.normalize("NFC", text.translate(_FULL_WIDTH)).splitlines()
    )
    return "\n".join(line for line in lines if line)


def _drop_near_held_out(cleaned: Cleaned) -> None:
    """Take from training what repeats itself and what is too close to a question of another split."""
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
