"""Programs against tests: honest ones, and those that go for the verdict instead."""

from __future__ import annotations

import math
import os
import re
from collections import Counter, OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from aquarat_core.errors import DataError
from aquarat_core.sandbox.checks import Checks, run_checks
from aquarat_core.sandbox.limits import Limits, SandboxName
from aquarat_core.sandbox.seccomp import REFUSED
from aquarat_core.sandbox.wire import MAX_FRAME, Foreign, Unsendable, decode, encode, frame, receive
from tests.patience import limit

LIMITS = Limits(cpu_seconds=2, wall_seconds=limit(10))
DOUBLE = Checks(("double",), "assert double(2) == 4\nassert double([1]) == [1, 1]")


def test_a_right_program_passes(sandbox: SandboxName) -> None:
    assert run_checks("def double(x): return x + x", DOUBLE, LIMITS, sandbox).passed
    loud = "import sys\nprint('x' * 100000)\ndef double(x):\n  print('y' * 100000, file=sys.stderr)\n  return x + x"
    assert run_checks(loud, DOUBLE, LIMITS, sandbox).passed


WRONG = {
    "a wrong result": "def double(x): return 4",
    "no function": "triple = 3",
    "a syntax error": "def double(x: return x + x",
    "nothing": "",
    "exit": "import sys\ndef double(x): return x + x\nsys.exit(0)",
    "exit in the function": "import sys\ndef double(x): sys.exit(0)",
    "_exit": "import os\ndef double(x): os._exit(0)",
    "exec of another program": "import os\nos.execv('/proc/self/exe', ['python', '-c', 'pass'])",
    "a result that equals everything": "class E:\n  __eq__ = lambda s, o: True\ndef double(x): return E()",
    "a text that looks like a message": "def double(x): return {'t': 'foreign', 'v': 'x'}",
    "the nonce as an argument of the caller": "import sys\ndef double(x): return sys._getframe(1).f_locals",
    "an error that asserts nothing": "def double(x): raise AssertionError",
    "the end of the loop": "def double(x): raise StopIteration",
    "killing the judge": "import os, signal\ndef double(x): os.kill(os.getppid(), 9)",
    "reading the judge": "import os\ndef double(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "reading its input": "import os\ndef double(x): return os.read(os.open(f'/proc/{os.getppid()}/fd/0', 0), 99)",
    "writing its output": "import os\nos.write(os.open(f'/proc/{os.getppid()}/fd/1', 1), b'0' * 32)",
    "stdin": "import sys\ndef double(x): return sys.stdin.read()",
    "a flood of answers": (
        "import os\nfor f in range(3, 9):\n  try: os.write(f, b'\\xff' * 60000)\n  except OSError: pass"
    ),
    "answers before the questions": (
        "import os\nfor f in range(3, 9):\n"
        "  try: m = b'{\"value\": 4}'; os.write(f, len(m).to_bytes(4, 'big') + m)\n"
        "  except OSError: pass\ndef double(x): os._exit(0)"
    ),
    "a deep result": "def double(x):\n  y = []\n  for _ in range(100000): y = [y]\n  return y",
    "an endless loop": "def double(x):\n  while True: pass",
}


@pytest.mark.parametrize("what", WRONG)
def test_nothing_else_passes(sandbox: SandboxName, what: str) -> None:
    verdict = run_checks(WRONG[what], DOUBLE, LIMITS, sandbox)
    assert not verdict.passed, verdict
    assert verdict.outcome is not None and verdict.outcome.stopped is None, verdict


def test_tests_have_their_context_and_see_the_programs_errors(sandbox: SandboxName) -> None:
    checks = Checks(
        ("decode",),
        "assert decode(encode('ab')) == 'ab'\ntry:\n  decode(5)\nexcept TypeError as e:\n  assert 'no text' in str(e)\n"
        "else:\n  assert False",
        "def encode(text): return text[::-1]\ndef decode(text):\n  'to be written'",
    )
    right = "def decode(x):\n  if x == 5: raise TypeError('no text')\n  return x[::-1]"
    assert run_checks(right, checks, LIMITS, sandbox).passed
    assert not run_checks(right.replace("TypeError", "KeyError"), checks, LIMITS, sandbox).passed


@pytest.mark.parametrize("program", ["", "import os\ndef wrong(): os._exit(0)", "def wrong(:"])
def test_a_program_that_has_gone_is_no_error_that_a_test_expects(sandbox: SandboxName, program: str) -> None:
    for clause in ("except Exception", "except KeyError", "except"):
        tests = f"try:\n  wrong()\n{clause}:\n  pass\nelse:\n  assert False"
        assert not run_checks(program, Checks(("wrong",), tests), LIMITS, sandbox).passed
    tests = "try:\n  wrong()\nexcept KeyError:\n  pass\nelse:\n  assert False"
    assert run_checks("def wrong(): return {}[1]", Checks(("wrong",), tests), LIMITS, sandbox).passed


def test_the_reason_is_told(sandbox: SandboxName) -> None:
    def said(program: str) -> str:
        outcome = run_checks(program, DOUBLE, LIMITS, sandbox).outcome
        assert outcome is not None
        return outcome.stderr

    assert "AssertionError" in said("def double(x): return 4")
    assert "the program ended: exit code 3" in said("import os\ndef double(x): os._exit(3)")
    assert re.search("the program ended: SIG(KILL|XCPU)", said("while True: pass"))
    assert "RuntimeError: Odd: 5" in said("class Odd(Exception): pass\ndef double(x): raise Odd(5)")


def test_what_is_too_long_is_not_run() -> None:
    verdict = run_checks("x" * (MAX_FRAME + 1), DOUBLE)
    assert not verdict.passed and verdict.outcome is None
    with pytest.raises(DataError, match=r"the tests of double are longer than \d+ bytes"):
        run_checks("", Checks(("double",), "x" * (MAX_FRAME + 1)))


VALUES: list[Any] = [
    None, True, 0, -5, 1 << 200, -(1 << 5000), 0.1, -0.0, math.inf, 1e-320, "", "a\u0000\ud800\U0001f600", b"\xff", [],
    bytearray(b"x"), (1, (2,)), {1: [2], (3,): {"t": "int", "v": "9"}}, {1, 2.5}, frozenset({"a"}), 1 + 2j,
    Fraction(1, 3), Decimal("1.10"), [[(), {}, set()]],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    reading, writing = os.pipe()
    os.write(writing, frame(encode(value, strict=True)))
    os.close(writing)
    arrived = decode(receive(reading))
    assert (arrived, type(arrived), repr(arrived)) == (value, type(value), repr(value))
    with pytest.raises(EOFError):
        receive(reading)
    os.close(reading)


def test_subclasses_arrive_as_their_base_and_the_rest_as_nothing() -> None:
    class Text(str):
        __slots__ = ()

    arrived = decode(encode([Counter("aab"), OrderedDict(a=1), Text("x"), math.nan]))
    assert arrived[:3] == [{"a": 2, "b": 1}, {"a": 1}, "x"] and math.isnan(arrived[3])
    assert [type(x) for x in arrived[:3]] == [dict, dict, str]
    (odd,) = decode(encode([range(3)]))
    assert isinstance(odd, Foreign) and odd != range(3) and repr(odd) == "<a value of type range>"
    with pytest.raises(Unsendable, match="the tests give the program a function"):
        encode([test_plain_data_arrives_as_it_was], strict=True)


def test_the_numbers_of_system_calls_are_the_kernels() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.is_file():
        pytest.skip(f"there is no {header}")
    published = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
    known = {name: number for name, number in REFUSED.items() if name in published}
    assert len(known) > 80 and known == {name: published[name] for name in known}
