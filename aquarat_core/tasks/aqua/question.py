"""AQuA-RAT questions: five options, a rationale, one correct letter (Ling et al. 2017, arXiv 1705.04146).

The row type, the single form of prompt and target, the parser of answers, and the seeded permutation of options, which
removes the advantage of always answering the same letter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aquarat_core.conversation import Message, Part, assistant_message, user_message, with_text
from aquarat_core.tasks.choice import MARKER, option_line, option_lines, parse_letter
from aquarat_core.tasks.option_order import drawn_order, keeps_order, rotated_order

LETTERS = "ABCDE"
INSTRUCTION = 'Reason step by step. Repeat the right option, then end with "Answer: " and its letter.'


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question."""

    id: str
    question: str
    options: tuple[str, ...]
    """Five texts, without their letters."""
    rationale: str
    """The worked solution without its answer line; may be empty."""
    correct: str
    """`A` to `E`."""
    family: str = "aqua"
    level: int = 0
    rationale_parts: tuple[Part, ...] = ()
    """The parts of the rationale if it calls the calculator; `rationale` is then `parts_text(rationale_parts)`."""
    reached: bool | None = None
    """Whether the rationale arrives at the right option; None if nobody looked."""

    @property
    def gold(self) -> int:
        """Index of the correct option, 0 to 4."""
        return LETTERS.index(self.correct)


def prompt(q: Question) -> str:
    """The user's message: question, five lettered options, one instruction line."""
    return f"{q.question}\n{option_lines(q.options)}\n{INSTRUCTION}"


def target(q: Question) -> str:
    """The assistant's reply: rationale, right option and answer line; without a rationale only the answer line."""
    return f"{q.rationale}\n{answer_lines(q)}" if q.rationale else f"{MARKER}{q.correct}"


def answer_lines(q: Question) -> str:
    """The reply without a solution, as the prompt asks for its end: right option and answer line."""
    return f"{option_line(q.options[q.gold], q.correct)}\n{MARKER}{q.correct}"


def target_parts(q: Question) -> tuple[Part, ...]:
    """The parts of the target; empty if the rationale calls nothing."""
    if not q.rationale_parts:
        return ()
    return tuple(with_text(q.rationale_parts, target(q).removeprefix(q.rationale)))


def conversation(q: Question) -> list[Message]:
    """Prompt and target as two messages."""
    return [user_message(prompt(q)), assistant_message(target(q), target_parts(q))]


def parse_answer(text: str) -> str | None:
    """The letter A-E that `text` gives as its answer, or None; see `parse_letter`."""
    return parse_letter(text, LETTERS)


def permute(q: Question, seed: int) -> Question:
    """`q` with its options in an order drawn from (seed, q.id) alone; the correct letter moves along.

    Questions whose options refer to each other ("A and B", "none of the above") keep their order. The rationale is
    not changed: train on it only if `letter_free` holds.
    """
    return _reordered(q, drawn_order(seed, q.id, len(q.options)))


def rotate(q: Question, shift: int) -> Question:
    """`q` with its options moved on by `shift` places, cyclically; the correct letter moves along. The same questions
    as in `permute` keep their order."""
    return _reordered(q, rotated_order(len(q.options), shift))


def _reordered(q: Question, order: Sequence[int]) -> Question:
    """With the option of the old index `order[place]` at each place; itself where the order is kept."""
    if keeps_order(q.options):
        return q
    options = tuple(q.options[i] for i in order)
    return replace(q, options=options, correct=LETTERS[order.index(q.gold)])
