"""How many hosts a job takes: a number, or a range `MIN:MAX`."""

from __future__ import annotations

import re

from aquarat_core.config.training import MAX_NODES


def read_numbers(text: str) -> tuple[int, int]:
    """The least and the largest number of hosts in `2` or `1:4`. Raises `ValueError` with what is wrong and what to
    write."""
    found = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", text.strip())
    if found is None:
        raise ValueError("write the number of hosts, such as 2, or the fewest and the most, such as 1:4")
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise ValueError(f"a job needs at least one host: write {f'1:{most}' if most > 1 else '1'}")
    if least > most:
        raise ValueError(f"the fewest hosts come first: write {max(most, 1)}:{least}")
    if most > MAX_NODES:
        raise ValueError(f"a job takes at most {MAX_NODES} hosts")
    return least, most
