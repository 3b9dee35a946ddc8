"""Text of other machines, shown."""

import json

import pytest

from aquarat_core.plain_text import fenced, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\ta tab \u00e9 \u4e2d \U0001f600", "two\nlines\ta tab \u00e9 \u4e2d \U0001f600"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]52;c;eA==\x07", "\\u001b]52;c;eA==\\u0007"),
        ("a\rb\r\nc", "a\\rb\nc"),
        ("\x9b2J\x7f\x00", "\\u009b2J\\u007f\\u0000"),
        ("\u202etxt.exe \u2028 \ud800", "\\u202etxt.exe \\u2028 \\ud800"),
    ],
)
def test_a_terminal_obeys_nothing_of_it(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


def test_json_stays_json() -> None:
    value = {"".join(map(chr, range(0xD800))): "\x1b[31m"}
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


def test_a_cell_of_a_table_is_one_line() -> None:
    assert one_line("a\nb\tc\x1b") == "a\\nb\\tc\\u001b"


def test_nothing_ends_a_code_block_early() -> None:
    assert fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"
    assert fenced("") == "```text\n\n```"
