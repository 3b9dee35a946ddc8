"""One sign for each operation, as the calculator reads them."""

import re

_SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u2212": "-"})
_DASH = re.compile(r"(?<=[\d)%])(\s?)[\u2013\u2014](\s?)(?=\S)|(?<=\S)(\s?)[\u2013\u2014](\s?)(?=[\d(])")
"""An en or em dash beside a number or a parenthesis; elsewhere it is punctuation."""
_TIMES = re.compile(r"(?<=[\d)%]) [xX] (?=[\d(])")
"""The letter between two numbers, with spaces: without them it may be a variable, as in 2x(3 + 1)."""
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}\\]{1,40})\}\s?\{([^{}\\]{1,40})\}")
_SIMPLE = re.compile(r"[\w.]+")
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\div": "/"}
_COMMAND = re.compile(r"\\(?:times|cdot|div)(?![A-Za-z])")


def one_sign(text: str) -> str:
    """`text` with * / and - for the signs of multiplication, division and subtraction; fractions in LaTeX become
    a/b."""
    text = _FRACTION.sub(_quotient, text.translate(_SIGNS))
    text = _COMMAND.sub(lambda found: _COMMANDS[found[0]], text)
    return _TIMES.sub(" * ", _DASH.sub(_minus, text))


def _quotient(found: re.Match[str]) -> str:
    return "/".join(part if _SIMPLE.fullmatch(part) else f"({part})" for part in (found[1].strip(), found[2].strip()))


def _minus(found: re.Match[str]) -> str:
    return f"{found[1] or found[3] or ''}-{found[2] or found[4] or ''}"
