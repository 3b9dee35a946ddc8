"""Exact search for near duplicates of held-out questions.

If a data set was made by rewriting seed problems, its splits probably share copies with other numbers or names. The
held-out side is small: an inverted index of its word 5-grams gives the exact Jaccard similarity of every pair that
shares one, without hashing tricks.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Literal

Rule = Literal["same_text", "same_but_numbers", "similar"]

_WORD = re.compile(r"[^\W_]+|[+*/=<>^%\u00d7\u00f7\u2212\u221a]|(?<=[\d)])\s?[-:]{1,2}(?=\s?[\d(?])")
"""Words, numbers and operators; a hyphen or colon only between numbers, where it is an operator."""
_SAME_SIGN = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})
_NUMBER = re.compile(r"\d+")


def normalized(text: str) -> str:
    """Words, numbers and operators only, in lower case and separated by single spaces."""
    return " ".join(word.strip() for word in _WORD.findall(text.lower().translate(_SAME_SIGN)))


class HeldOut:
    """Held-out texts to compare others with; `threshold` is the Jaccard similarity that counts as near."""

    def __init__(self, texts: Mapping[str, str], threshold: float = 0.5, gram: int = 5) -> None:
        self._threshold, self._gram = threshold, gram
        self._same: dict[str, str] = {}
        self._same_but_numbers: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._holders: defaultdict[str, list[str]] = defaultdict(list)
        for name, text in texts.items():
            plain = normalized(text)
            self._same.setdefault(plain, name)
            self._same_but_numbers.setdefault(_NUMBER.sub("#", plain), name)
            grams = self._grams(plain)
            self._sizes[name] = len(grams)
            for g in grams:
                self._holders[g].append(name)

    def find(self, text: str) -> tuple[str, Rule] | None:
        """The name of the held-out text that `text` is too close to, and the rule that says so; None if there is
        none."""
        plain = normalized(text)
        if plain in self._same:
            return self._same[plain], "same_text"
        if (masked := _NUMBER.sub("#", plain)) in self._same_but_numbers:
            return self._same_but_numbers[masked], "same_but_numbers"
        grams = self._grams(plain)
        shared = Counter(name for g in grams for name in self._holders.get(g, ()))
        for name, both in shared.most_common():
            if both / (len(grams) + self._sizes[name] - both) >= self._threshold:
                return name, "similar"
        return None

    def _grams(self, plain: str) -> set[str]:
        words = plain.split()
        return {" ".join(words[i : i + self._gram]) for i in range(max(1, len(words) - self._gram + 1))}
