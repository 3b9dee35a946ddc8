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
from typing import Any

from aquarat_core.data.duplicates import HeldOut, normalized
from aquarat_core.data.errors import DataError
from aquarat_core.data.rationales import strip_answer
from aquarat_core.tasks.answers import LETTERS
from aquarat_core.tasks.aqua import Question

RawRow = Mapping[str, Any]
"""`question`, `options` (as "A)53 km"), `rationale`, `correct`: a row as the Hub publishes it."""

TRAIN = "train"
_SPACE = re.compile(r"[^\S\n]+")
_PREFIXES = tuple(re.compile(rf"(?:\s*\(?{letter}\))*") for letter in LETTERS)


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


def clean(
    raw: Mapping[str, Sequence[RawRow]],
    repo: str,
    on_bad_row: str = "error",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cleaned:
    """Clean every split of `raw`; `repo` names the data set in errors.

    A row with other than five options or a letter outside A-E raises `DataError`, or is dropped and counted where
    `on_bad_row` is "drop". Row i of a split is called `split-00000i` whatever was dropped before it.
    """
    total, done, cleaned = sum(map(len, raw.values())), 0, Cleaned()
    for split in sorted(raw, key=lambda s: s == TRAIN):  # training last: it is compared with the others
        counts = Counter(rows=len(raw[split]))
        questions = []
        for i, row in enumerate(raw[split]):
            if question := _checked(row, f"{split}-{i:06d}", repo, on_bad_row, counts):
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


def _checked(row: RawRow, name: str, repo: str, on_bad_row: str, counts: Counter[str]) -> Question | None:
    """The row as a question, or None if it is dropped."""
    if wrong := _what_is_wrong(row):
        if on_bad_row == "error":
            raise DataError(
                f"{repo}, split {name.rpartition('-')[0]}, row {int(name.rpartition('-')[2])}: {wrong}. "
                "Set aqua_dataset.on_bad_row to 'drop' to leave such rows out, or mend the data set"
            )
        counts["dropped_bad_row"] += 1
        return None
    question, doubts = _question(row, name, counts)
    training = name.startswith(TRAIN)
    for doubt in doubts:
        counts[f"dropped_{doubt}" if training else doubt] += 1
        if training:
            return None
    return question


def _what_is_wrong(row: RawRow) -> str | None:
    options, correct, question = row.get("options"), row.get("correct"), row.get("question")
    if not isinstance(question, str) or not question.strip():
        return "the question is empty"
    if options is None or len(options) != len(LETTERS):
        return f"{0 if options is None else len(options)} options instead of five"
    if not all(isinstance(option, str) for option in options):
        return "an option is missing"
    if not isinstance(correct, str) or len(correct) != 1 or correct not in LETTERS:
        return f"the letter {correct!r} is not one of A-E"
    return None


def _question(row: RawRow, name: str, counts: Counter[str]) -> tuple[Question, list[str]]:
    """The clean question and what speaks against training on it, the gravest first."""
    options = []
    for published, prefix in zip(row["options"], _PREFIXES, strict=True):
        letter = prefix.match(published)[0]
        text = published[len(letter) :]
        options.append(" ".join(unicodedata.normalize("NFC", text).split()))
        counts["option_prefix_missing"] += letter == ""
        counts["option_prefix_doubled"] += letter.count(")") > 1
        counts["option_space"] += options[-1] != text
    question, given = _tidy(row["question"]), _tidy(row["rationale"] or "")
    stripped = strip_answer(given, options)
    counts["question_space"] += question != row["question"]
    counts["rationale_answer_stripped"] += bool(stripped.letters)
    counts["rationale_marker_rewritten"] += stripped.rewritten
    correct = row["correct"]
    doubts = {
        "letter_contradicts_rationale": any(letter != correct for letter in stripped.letters),
        "empty_option": not all(options),
        "ambiguous_options": options.count(options[LETTERS.index(correct)]) > 1,
        "empty_rationale": not stripped.text,
    }
    clean_question = Question(name, question, tuple(options), stripped.text, correct)
    return clean_question, [doubt for doubt, holds in doubts.items() if holds]


def _tidy(text: str) -> str:
    """Composed characters (NFC: NFKC would turn x² into x2), single spaces, no empty lines."""
    lines = (_SPACE.sub(" ", line).strip() for line in unicodedata.normalize("NFC", text).splitlines())
    return "\n".join(line for line in lines if line)


def _drop_near_held_out(cleaned: Cleaned) -> None:
    """Take from training what repeats itself and what is too close to a question of another split."""
    held_out = {q.id: q.question for split, rows in cleaned.splits.items() if split != TRAIN for q in rows}
    index, counts, seen, kept = HeldOut(held_out), cleaned.counts[TRAIN], set(), []
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
