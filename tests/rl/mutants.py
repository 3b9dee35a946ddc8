"""Answer parsers with the faults that have cost others their reward."""

from __future__ import annotations

import re


def gsm8k(text: str, letters: str = "ABCDE") -> str | None:
    """The number after ####: it never reads a letter, and a run is paid nothing."""
    del letters
    match = re.search(r"#### (-?[0-9.,]+)", text)
    return match and match[1]


def first_match(text: str, letters: str = "ABCDE") -> str | None:
    """The first answer counts, so that later ones and text after it cost nothing."""
    match = re.search(rf"Answer: ([{letters}])\b", text)
    return match and match[1]


def case_insensitive(text: str, letters: str = "ABCDE") -> str | None:
    """Lower case counts, and with it the English article."""
    found = re.findall(rf"\b([{letters}])\b", text, re.IGNORECASE)
    return found[-1].upper() if found else None


MUTANTS = {f.__name__: f for f in (gsm8k, first_match, case_insensitive)}
