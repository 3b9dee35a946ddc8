"""Spelling and counting: how often a letter occurs in a word. Tokens hide the letters, so the word must be spelled.

Questions are generated from seeds. A hash of the word permanently assigns each question to either the training data or
the held-out questions, so no word of the test split is ever spelled in training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from string import ascii_lowercase

from aquarat_core.conversation import Conversation, user_message
from aquarat_core.tasks.calls import annotated_message
from aquarat_core.tasks.gsm8k import MARKER, Gsm8kTask
from aquarat_core.tasks.task import Origin
from aquarat_core.tasks.words import WORDS

HELD_OUT_SHARE = 5
"""One in this many words is used only for the test split."""
QUESTIONS = (
    "How many times does the letter {letter} occur in the word {word}?",
    "How often is the letter {letter} in the word {word}?",
    "How many {letter} are in {word}?",
    "Count the letter {letter} in {word}.",
    "In the word {word}, how many times do you find the letter {letter}?",
)


def is_held_out(word: str) -> bool:
    """Whether questions about this word belong to the test split."""
    return hashlib.blake2b(word.encode(), digest_size=8).digest()[0] % HELD_OUT_SHARE == 0


def generate_spelling(n: int, seed: int, calculator_calls: bool = False, held_out: bool = False) -> list[Conversation]:
    """n questions with worked solutions, about training words or held-out words.

    Each solution spells the word, counts (letter by letter, or with a call of the calculator if `calculator_calls`),
    and ends with `#### 3`. Row i for a given seed does not depend on the number of rows.
    """
    words = [word for word in WORDS if is_held_out(word) == held_out]
    split = "test" if held_out else "train"
    rngs = (random.Random(f"spelling/{split}/{seed}/{row}") for row in range(n))
    return [_conversation(f"{split}-{row:06d}", rng, words, calculator_calls) for row, rng in enumerate(rngs)]


def _conversation(name: str, rng: random.Random, words: list[str], calculator_calls: bool) -> Conversation:
    word = rng.choice(words)
    letter = _letter(rng, word)
    asked = rng.choice(QUESTIONS).format(letter=f"'{letter}'", word=word)
    return Conversation(name, [user_message(asked), annotated_message(_solution(word, letter, calculator_calls))])


def _letter(rng: random.Random, word: str) -> str:
    """Draws the count first, uniformly among 0 and the counts of the word's letters: most letters occur once, and
    always answering 1 must not pay."""
    count = rng.choice(sorted({0, *map(word.count, word)}))
    return rng.choice([letter for letter in ascii_lowercase if word.count(letter) == count])


def _solution(word: str, letter: str, calculator_calls: bool) -> str:
    count = word.count(letter)
    if calculator_calls:
        counting = f"The count of {letter} is <<'{word}'.count('{letter}')={count}>>{count}."
    else:
        so_far = (f"{x} {word[: i + 1].count(letter)}" for i, x in enumerate(word))
        counting = f"Counting {letter}: {', '.join(so_far)}."
    return f"{word} is spelled {', '.join(word)}.\n{counting}\n{MARKER}{count}"


class SpellingTask(Gsm8kTask):
    """How often a letter is in a word: a number, graded as in GSM8K."""

    name = "spelling"
    origins: Mapping[str, Origin] = {
        source: Origin("generated questions about the spelling of words") for source in ("synthetic", "hub")
    }
