"""Answer parsers with the faults that have cost others their reward."""

from __future__ import annotations

import re


def gsm8k(text: str) -> str | None:
    """The number after ####: it never reads a letter, and a run is paid nothing."""
    match = re.search(r"#### (-?[0-9.,]+)", text)
    return match and match[1]


def first_match(text: str) -> str | None:
    """The first answer counts, so that later ones and text after it cost nothing."""
    match = re.search(r"Answer: ([A-E])\b", text)
    return match and match[1]


def case_insensitive(text: str) -> str | None:
    """Lower case counts, and with it the English article."""
    found = re.findall(r"\b([A-E])\b", text, re.IGNORECASE)
    return found[-1].upper() if found else None


MUTANTS = {f.__name__: f for f in (gsm8k, first_match, case_insensitive)}
