"""AQuA-RAT questions: five options, a rationale, one correct letter (Ling et al. 2017, arXiv 1705.04146).

The row type, the one prompt and target, the answer as it is read, and the seeded permutation of options that takes away
what a constant letter earns.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from aquarat_core.conversation import Message, Part, assistant_message, user_message, with_text
from aquarat_core.tasks.choice import MARKER, option_line, option_lines, parse_letter

LETTERS = "ABCDE"
INSTRUCTION = 'Reason step by step. Repeat the right option, then end with "Answer: " and its letter.'

_ORDERS = tuple(permutations(range(len(LETTERS))))
_LETTER = re.compile(
    r"(?<![A-Za-z0-9])[A-E](?![A-Za-z0-9])|\([a-e]\)|(?i:\b(?:option|choice)s?\b)"
    r"|(?i:\b(?:answer|ans)\b[^a-z0-9]{0,9}(?:is\b[^a-z0-9]{0,9})?[a-e]\b)"
)
_NAME = r"\(?(?-i:[A-E]|\b[a-e])\)?(?![A-Za-z0-9])"
_ORDINAL = r"(?:first|second|third|fourth|fifth|last|[1-5](?:st|nd|rd|th))"
_FIXED_ORDER = re.compile(
    # a word that stands for other options, or counts them
    r"(?i)\b(?:both|neither|either|none|all|any|each|everything|nothing|above|below|preceding|foregoing|previous"
    r"|following|former|latter|others?|these|those|them)\b"
    r"|\bmore than one\b|\b(?:no|every)\s(?:one|option|choice|answer|correct|right|such)\b"
    r"|\bnot\s(?:given|listed|here|mentioned|present|there|shown)\b"
    # their place, letter or number
    rf"|\b{_ORDINAL}\s(?:one|two|three|four|few|options?|choices?|answers?|and|or|&)\b"
    rf"|\b(?:only|but|except|as|not)\sthe\s{_ORDINAL}\W*$|^\W*(?:only\s)?(?:the\s)?{_ORDINAL}\s(?:only|alone)\W*$"
    r"|\b(?:options?|choices?|answers?)\s?\(?(?:[A-E]|[1-5])\b"
    rf"|\b(?:only|same as|except|but|not)\s{_NAME}\W*$|^\W*{_NAME}\s(?:only|alone)\b"
    rf"|(?<![A-Za-z0-9]){_NAME}\s?(?:and|or|nor|&|,)\s?{_NAME}"
    r"|^\W*(?-i:[A-E](?:\s?/\s?[A-E])+)\W*$"
)
"""Options that refer to others, by a word or by name. It errs towards keeping the order: what is kept in vain only
loses some variety."""
_IN_ANY_ORDER = re.compile(r"(?i)\W*+none(?:\sof\s(?:these|those|them))?\W*+")
"""It says the same wherever it stands, and ends one question in six of the validation split: to keep the order of those
would give a constant B a quarter of them all."""


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question."""

    id: str
    question: str
    options: tuple[str, ...]
    """Five texts, without the letter before them."""
    rationale: str
    """The worked solution without its answer line; may be empty."""
    correct: str
    """`A` to `E`."""
    family: str = "aqua"
    level: int = 0
    rationale_parts: tuple[Part, ...] = ()
    """Where the rationale calls the calculator, its parts; `rationale` is then `parts_text(rationale_parts)`."""

    @property
    def gold(self) -> int:
        """Index of the correct option, 0 to 4."""
        return LETTERS.index(self.correct)


def prompt(q: Question) -> str:
    """What the user says: question, five lettered options, one instruction line."""
    return f"{q.question}\n{option_lines(q.options)}\n{INSTRUCTION}"


def target(q: Question) -> str:
    """What the assistant should say: rationale, right option and answer line; without a rationale the last alone."""
    answer = f"{MARKER}{q.correct}"
    return f"{q.rationale}\n{option_line(q.options[q.gold], q.correct)}\n{answer}" if q.rationale else answer


def target_parts(q: Question) -> tuple[Part, ...]:
    """The parts of the target; none if the rationale calls nothing."""
    if not q.rationale_parts:
        return ()
    return tuple(with_text(q.rationale_parts, target(q).removeprefix(q.rationale)))


def conversation(q: Question) -> list[Message]:
    """Prompt and target as two messages."""
    return [user_message(prompt(q)), assistant_message(target(q), target_parts(q))]


def parse_answer(text: str) -> str | None:
    """The letter A-E that `text` answers, or None; see `parse_letter`."""
    return parse_letter(text, LETTERS)


def letter_free(rationale: str) -> bool:
    """Whether no option is named by its letter or place, so that the rationale holds under any order of options.

    Errs on the safe side: a person called A counts as a letter, an article "A" too.
    """
    return _LETTER.search(rationale) is None


def keeps_order(options: Sequence[str]) -> bool:
    """True if an option refers to other options: "A and B", "both", "all of them", "none of the above".

    "None" or "none of these" as the whole option does not count: it means the same in any order.
    """
    return any(_FIXED_ORDER.search(text) and not _IN_ANY_ORDER.fullmatch(text) for text in options)


def permute(q: Question, seed: int) -> Question:
    """`q` with its options in an order drawn from (seed, q.id) alone; the correct letter moves along.

    Every order is equally likely. Questions whose options name each other ("A and B", "none of the above") keep
    their order. The rationale is left as it is: train on it only if `letter_free` holds.
    """
    if keeps_order(q.options):
        return q
    digest = hashlib.blake2b(f"{seed}\0{q.id}".encode(), digest_size=8).digest()
    order = _ORDERS[int.from_bytes(digest, "big") % len(_ORDERS)]
    options = tuple(q.options[i] for i in order)
    return replace(q, options=options, correct=LETTERS[order.index(q.gold)])
