"""Fills the parts of README.md that the code knows better: `python docs/refresh.py`; with `--check` it only compares.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`, and NAME is a key of `PARTS`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from aquarat_core.config import Profile, load_profile, profile_names
from aquarat_core.model.accounting import describe

README = Path(__file__).resolve().parents[1] / "README.md"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Rewrites the README, or with `--check` says whether that would change it (exit code 1)."""
    now = README.read_text()
    wanted = refreshed(now)
    if "--check" not in arguments:
        README.write_text(wanted)
    elif wanted != now:
        print("README.md is behind the code: run python docs/refresh.py", file=sys.stderr)
        return 1
    return 0


def refreshed(text: str) -> str:
    """`text` with every generated part made anew."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def profiles() -> str:
    """The built-in profiles, smallest model first, as a Markdown table."""
    loaded = sorted((load_profile(name) for name in profile_names()), key=lambda p: describe_model(p)["parameters"])
    head = ("profile", "what for", "depth", "width", "heads", "context", "vocabulary", "parameters", "FLOPs a token")
    rows = [_row(p) for p in loaded]
    rule = ("---", "---", *("---:" for _ in head[2:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def describe_model(profile: Profile) -> dict[str, int | str]:
    """Facts of the profile's model at the largest vocabulary its tokenizer may learn."""
    return describe(profile.base_checkpoint.model, profile.tokenizer.vocab_size)


def _row(profile: Profile) -> tuple[str, ...]:
    facts = describe_model(profile)
    names = ("depth", "dim", "heads", "sequence_len", "vocabulary", "parameters", "flops_per_token")
    numbers = (f"{f:,}" if isinstance(f := facts[name], int) else f for name in names)
    return (f"`{profile.name}`", profile.description, *numbers)


PARTS = {"profiles": profiles}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
