"""Exact search for near duplicates: of held-out questions, in other texts, and among the questions of a data set.

If a data set was made by rewriting seed problems, its splits probably share copies with other numbers or names. The
held-out side is small: an inverted index of its word 5-grams gives the exact Jaccard similarity of every pair that
shares one, without hashing tricks. Whole conversations are searched for runs of 13 words, as is usual (GPT-3, Brown et
al. 2020, arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import Literal, NamedTuple

Rule = Literal["same_text", "same_but_numbers", "similar"]
CopyRule = Literal["same_text", "same_but_numbers", "similar", "shares_13_words", "contains_it"]
RUN, SHORTEST_RUN = 13, 8
"""Words in a row that count as a copy; of a shorter question all of its words, if there are at least so many."""
THRESHOLD, GRAM = 0.5, 5

_WORD = re.compile(r"[^\W_]+|[+*/=<>^%\u00d7\u00f7\u2212\u221a]|(?<=[\d)])\s?[-:]{1,2}(?=\s?[\d(?])")
"""Words, numbers and operators; a hyphen or colon only between numbers, where it is an operator."""
_SAME_SIGN = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})
_NUMBER = re.compile(r"\d+")


def normalized(text: str) -> str:
    """Words, numbers and operators only, in lower case and separated by single spaces."""
    return " ".join(word.strip() for word in _WORD.findall(text.lower().translate(_SAME_SIGN)))


class _Run(NamedTuple):
    """Words in a row of a text."""

    words: list[str]
    """All of the text's."""
    start: int
    length: int
    place: int
    """Where in the run its rarest pair of words is."""
    name: str

    def is_in(self, words: list[str], at: int) -> bool:
        """Whether `words` contains this run, beginning at the index `at`."""
        return words[at : at + self.length] == self.words[self.start : self.start + self.length]


class _Near:
    """Indexes by which a text's near duplicates are found; texts are given by name, normalized."""

    def __init__(self, texts: Mapping[str, str], gram: int) -> None:
        self.same: dict[str, str] = {}
        self.same_but_numbers: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        """Numbers of grams."""
        self.holders: defaultdict[str, list[str]] = defaultdict(list)
        """The names of the texts that have a gram."""
        for name, plain in texts.items():
            self.same.setdefault(plain, name)
            self.same_but_numbers.setdefault(_NUMBER.sub("#", plain), name)
            grams = _grams(plain, gram)
            self.sizes[name] = len(grams)
            for g in grams:
                self.holders[g].append(name)


class HeldOut:
    """Held-out texts to compare others with; `threshold` is the Jaccard similarity that counts as near.

    Each of its indexes is made when it is first needed.
    """

    def __init__(self, texts: Mapping[str, str], threshold: float = THRESHOLD, gram: int = GRAM) -> None:
        self._threshold, self._gram = threshold, gram
        self._plain = {name: normalized(text) for name, text in texts.items()}
        self.longest = max((len(text.split()) for text in texts.values()), default=0)
        """Words of the longest text."""

    @cached_property
    def _near(self) -> _Near:
        return _Near(self._plain, self._gram)

    @cached_property
    def _runs(self) -> Mapping[tuple[str, str], list[_Run]]:
        """The runs of all texts by their rarest pair of words. One that several have is the first text's: a passage
        may have many questions."""
        words_of = {name: list(map(sys.intern, plain.split())) for name, plain in self._plain.items()}
        frequency = Counter(pair for words in words_of.values() for pair in pairwise(words))
        found: defaultdict[tuple[str, str], list[_Run]] = defaultdict(list)
        for name, words in words_of.items():
            pairs = list(pairwise(words))
            rarity = [(frequency[pair], pair) for pair in pairs]
            length = min(RUN, len(words))
            for start in range(len(words) - length + 1 if length >= SHORTEST_RUN else 0):
                place = min(range(start, start + length - 1), key=rarity.__getitem__)
                same_pair = found[pairs[place]]
                if not any(run.is_in(words, start) and run.length == length for run in same_pair):
                    same_pair.append(_Run(words, start, length, place - start, name))
        return found

    def find(self, text: str) -> tuple[str, Rule] | None:
        """The name of the held-out text that `text` is too close to, and the rule that says so; None if there is
        none."""
        plain, near = normalized(text), self._near
        if plain in near.same:
            return near.same[plain], "same_text"
        if (masked := _NUMBER.sub("#", plain)) in near.same_but_numbers:
            return near.same_but_numbers[masked], "same_but_numbers"
        grams = _grams(plain, self._gram)
        shared = Counter(name for g in grams for name in near.holders.get(g, ()))
        for name, both in shared.most_common():
            if both / (len(grams) + near.sizes[name] - both) >= self._threshold:
                return name, "similar"
        return None

    def copied(self, text: str) -> tuple[str, CopyRule] | None:
        """The name of a held-out text of which `text` has a run of 13 words, or the whole if it is shorter, and the
        rule; None if there is none. `text` may be as long as a conversation."""
        words = normalized(text).split()
        runs = self._runs
        for i in [i for i, pair in enumerate(pairwise(words)) if pair in runs]:
            for run in runs[words[i], words[i + 1]]:
                if i >= run.place and run.is_in(words, i - run.place):
                    return run.name, "shares_13_words" if run.length == RUN else "contains_it"
        return None


def near_groups(texts: Sequence[str], threshold: float = THRESHOLD, gram: int = GRAM) -> list[int]:
    """For each text the number of its group, counted from 0 in the order in which groups appear.

    Two texts are in one group if `HeldOut` finds the one for the other, or if others connect them. Exact: if the grams
    of two texts have a Jaccard similarity of at least `threshold`, then the rarest grams of each (one more than the
    share 1 - `threshold` of them) have one in common (prefix filtering, Chaudhuri, Ganti and Kaushik 2006), and only
    such pairs are compared.
    """
    plain = [normalized(text) for text in texts]
    parents = list(range(len(texts)))
    first: dict[str, int] = {}
    for i, text in enumerate(plain):
        _join(parents, i, first.setdefault(_NUMBER.sub("#", text), i))
    alone = sorted({plain[i]: i for i in reversed(range(len(plain)))}.values())
    grams = {i: _grams(plain[i], gram) for i in alone}
    frequency = Counter(g for found in grams.values() for g in found)
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for i in alone:
        own = grams[i]
        rarest = sorted(own, key=lambda g: (frequency[g], g))[: len(own) - ceil(threshold * len(own)) + 1]
        for j in {j for g in rarest for j in holders[g]}:
            shared = len(own & grams[j])
            if shared / (len(own) + len(grams[j]) - shared) >= threshold:
                _join(parents, i, j)
        for g in rarest:
            holders[g].append(i)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(_root(parents, i), len(numbers)) for i in range(len(texts))]


def _grams(plain: str, gram: int) -> set[str]:
    words = plain.split()
    return {" ".join(words[i : i + gram]) for i in range(max(1, len(words) - gram + 1))}


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


def _join(parents: list[int], i: int, j: int) -> None:
    parents[_root(parents, i)] = _root(parents, j)
