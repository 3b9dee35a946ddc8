"""Makes valid files invalid, or strange, from a seed: changes bytes anywhere, and values in sensitive places."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

HUGE_TEXT = 100_000
DEPTHS = (50, 1_000, 100_000)
_BYTES = (
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\n",
    b'"',
    b"{",
    b"]",
    b"-",
    b"9" * 400,
    b"PAR1",
    b"PK\x03\x04",
    b"\x1b[2J",
)


def _hostile_value(rng: random.Random) -> Any:
    """A value of the wrong kind or size; `_Raw` is written as it is, though JSON has no such thing."""
    return rng.choice(
        [
            None, True, [], {}, "", 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 1.5, 1e308, "NaN", "x" * HUGE_TEXT,
            "\x00", "\x1b]0;t\x07", "\u202e", "../../etc/passwd", "/etc/passwd", "a\nb", "é" * 1_000, "a\u0301" * 5_000,
            [[]], [None], {"": None}, {"__proto__": 1}, list(range(1_000)), [1] * 50_000,
            {str(n): n for n in range(500)}, _Raw("NaN"), _Raw("Infinity"), _Raw("-Infinity"), _Raw("1e999"),
            _Raw("9" * 5_000), _Raw('"\\ud800"'),
            *(_Raw("[" * depth + "]" * depth) for depth in DEPTHS),
            *(_Raw('{"a":' * depth + "1" + "}" * depth) for depth in DEPTHS),
        ]
    )  # fmt: skip


class _Raw(str):
    """JSON as it is to be written."""


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` with one to twenty changes that know nothing of its format."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 2, 8, 64, 1024)))
        match rng.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = rng.choice(_BYTES)
            case 4:
                changed[at:at] = changed[at:to]
            case 5:
                other = rng.choice(others)
                begin = rng.randrange(len(other) + 1)
                changed[at:to] = other[begin : begin + to - at]
            case _:
                del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """JSON with one to three of its values or keys replaced, removed, doubled or renamed; or spelled otherwise."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed(rng, tree)
    text = _written(rng, tree)
    spelling = rng.randrange(12)
    if spelling == 0:
        return text.encode("utf-16")
    if spelling == 1:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    if spelling == 2:
        return text.encode("utf-8", "surrogatepass") + b" \n"
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: random.Random, tree: Any) -> Any:
    """`tree` with one of its nodes changed, each as likely as any other."""
    places: list[tuple[Any, Any]] = [(None, None)]

    def visit(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            visit(value)

    visit(tree)
    parent, key = rng.choice(places)
    if parent is None:
        return _hostile_value(rng) if rng.random() < 0.3 else tree
    match rng.randrange(5):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice((str(key) + "x", "", "format", "\x1b"))] = parent.pop(key)
        case 2 if isinstance(parent, list):
            parent.insert(key, parent[key])
        case _:
            parent[key] = _hostile_value(rng)
    return tree


def _written(rng: random.Random, tree: Any) -> str:
    """The tree as JSON, sometimes with a key given twice."""
    if isinstance(tree, _Raw):
        return str(tree)
    if isinstance(tree, list):
        return "[" + ",".join(_written(rng, item) for item in tree) + "]"
    if isinstance(tree, dict):
        entries = [f"{json.dumps(key)}:{_written(rng, value)}" for key, value in tree.items()]
        if entries and rng.random() < 0.01:
            entries.append(rng.choice(entries))
        return "{" + ",".join(entries) + "}"
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5)


_YAML = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e]\n",
    "x: &x {<<: *x}\n", "? [1, 2]\n: 3\n", "!!python/object/apply:os.system ['true']\n", "--- a\n--- b\n", "\t: 1\n",
    "a: " + "[" * 2_000 + "\n", "a: !!binary '///'\n", "2026-01-01: 1\n", "1: 2\n", "null: 1\n",
    "a: 0o777\n", "% TAG\n",
)  # fmt: skip
_SCALARS = (
    ".inf", "-.inf", ".nan", "null", "true", "''", "[]", "{}", "1e400", "9" * 400, "-1", "0", "1_000", "0x10", "1:30",
    "!!str 3", "*nothing", "|", ">", "@", "`", "&a b", "2026-01-01", "\x00", "x" * HUGE_TEXT, "é" * 500, "1.5", "yes",
)  # fmt: skip


def mutate_yaml(rng: random.Random, data: bytes) -> bytes:
    """YAML with lines doubled, dropped, indented or given another value, and with the traps of its grammar."""
    lines = data.decode().splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines) + 1)
        line = lines[at % len(lines)]
        match rng.randrange(6):
            case 0:
                lines.insert(at, line)
            case 1:
                lines[at : at + 1] = []
            case 2:
                lines.insert(at, rng.choice(_YAML))
            case 3:
                lines[at : at + 1] = ["  " + line]
            case _ if ":" in line:
                lines[at % len(lines)] = f"{line.partition(':')[0]}: {rng.choice(_SCALARS)}\n"
        lines = lines or ["\n"]
    return "".join(lines).encode("utf-8", "surrogatepass")


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """A file of lines with some of them doubled, dropped, swapped, very long or of other characters."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines.insert(at, lines[at])
            case 1:
                del lines[at]
            case 2:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] += rng.choice((b" ", b"=", b"#", b"\0", b"\xff", b"'", b'"', b"9" * 50, b"A" * HUGE_TEXT))
            case _:
                lines[at] = rng.choice((b"", b"=", b"A=", b"a b c", b"-1 -1", b"export A=1", b"A=$(touch evil)`id`"))
        lines = lines or [b""]
    return b"\n".join(lines)


Mutation = Callable[[random.Random, bytes], bytes]
