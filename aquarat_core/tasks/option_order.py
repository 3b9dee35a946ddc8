"""Whether options may be reordered, and seeded orders, which remove the advantage of always answering the same letter.

A rationale that names an option by its letter or position only holds for one order of the options, and options that
refer to others ("both A and B") keep their order. Both rules err on the safe side: keeping an order without need only
costs some variety.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from string import ascii_uppercase

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_IN_ANY_ORDER = re.compile(r"(?i)\W*+none(?:\sof\s(?:these|those|them))?\W*+")
"""These options mean the same in any position and are the last option of many published questions (one in six of a
validation split). Keeping the order of those questions would favor a constant letter."""
SMALL = 5
"""Up to this many options, 64 bits draw an order with negligible bias."""


def letter_free(rationale: str, n: int) -> bool:
    """Whether the text names none of n options by its letter or position, so that it holds for any order of them.

    Errs on the safe side: a person called A counts as a letter, and so does the article "A".
    """
    return _letters(n).search(rationale) is None


def keeps_order(options: Sequence[str]) -> bool:
    """True if an option refers to other options: "A and B", "both", "all of them", "none of the above".

    "None" or "none of these" as the whole option does not count, because it means the same in any order.
    """
    fixed = _references(len(options))
    return any(fixed.search(text) and not _IN_ANY_ORDER.fullmatch(text) for text in options)


def drawn_order(seed: int, name: str, n: int) -> list[int]:
    """A uniformly random order of n options, drawn from (seed, name) alone: the old index at each new position."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8 if n <= SMALL else 32).digest()
    rank = int.from_bytes(digest, "big") % math.factorial(n)
    left = list(range(n))
    order: list[int] = []
    for place in range(n - 1, -1, -1):  # the permutation of this rank in lexicographic order
        which, rank = divmod(rank, math.factorial(place))
        order.append(left.pop(which))
    return order


def rotated_order(n: int, shift: int) -> list[int]:
    """The order of n options in which option i stands in the place (i + shift) modulo n: the old index at each new
    place."""
    return [(place - shift) % n for place in range(n)]


@cache
def _letters(n: int) -> re.Pattern[str]:
    last = ascii_uppercase[n - 1]
    upper, lower = f"[A-{last}]", f"[a-{last.lower()}]"
    return re.compile(
        rf"(?<![A-Za-z0-9]){upper}(?![A-Za-z0-9])|\({lower}\)|(?i:\b(?:option|choice)s?\b)"
        rf"|(?i:\b(?:answer|ans)\b[^a-z0-9]{{0,9}}(?:is\b[^a-z0-9]{{0,9}})?{lower}\b)"
    )


@cache
def _references(n: int) -> re.Pattern[str]:
    last = ascii_uppercase[n - 1]
    upper, lower, digit = f"[A-{last}]", f"[a-{last.lower()}]", f"[1-{n}]" if n < 10 else "[1-9][0-9]?"
    name = rf"\(?(?-i:{upper}|\b{lower})\)?(?![A-Za-z0-9])"
    ordinal = rf"(?:{'|'.join(_ORDINALS[:n])}|last|{digit}(?:st|nd|rd|th))"
    return re.compile(
        # words that stand for other options, or count them
        r"(?i)\b(?:both|neither|either|none|all|any|each|everything|nothing|above|below|preceding|foregoing|previous"
        r"|following|former|latter|others?|these|those|them)\b"
        r"|\bmore than one\b|\b(?:no|every)\s(?:one|option|choice|answer|correct|right|such)\b"
        r"|\bnot\s(?:given|listed|here|mentioned|present|there|shown)\b"
        # their position, letter or number
        rf"|\b{ordinal}\s(?:one|two|three|four|few|options?|choices?|answers?|and|or|&)\b"
        rf"|\b(?:only|but|except|as|not)\sthe\s{ordinal}\W*$|^\W*(?:only\s)?(?:the\s)?{ordinal}\s(?:only|alone)\W*$"
        rf"|\b(?:options?|choices?|answers?)\s?\(?(?:{upper}|{digit})\b"
        rf"|\b(?:only|same as|except|but|not)\s{name}\W*$|^\W*{name}\s(?:only|alone)\b"
        rf"|(?<![A-Za-z0-9]){name}\s?(?:and|or|nor|&|,)\s?{name}"
        rf"|^\W*(?-i:{upper}(?:\s?/\s?{upper})+)\W*$"
    )
