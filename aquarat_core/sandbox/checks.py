"""Tests a program, with a verdict that is decided out of its reach (`judge.py`)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from aquarat_core.errors import DataError
from aquarat_core.sandbox import judge, wire
from aquarat_core.sandbox.bundle import bundle
from aquarat_core.sandbox.confinement import run_confined
from aquarat_core.sandbox.limits import Limits, Outcome, Wanted
from aquarat_core.sandbox.run import DEFAULT_LIMITS, choose
from aquarat_core.sandbox.wire import MAX_FRAME, Unsendable, frame


@dataclass(frozen=True, slots=True)
class Checks:
    """Tests of functions."""

    names: tuple[str, ...]
    """The functions of the program that the tests call."""
    tests: str
    """A program that raises an exception if a test fails."""
    context: str = ""
    """Code that runs before the tests and may define names for them; the program's `names` replace its definitions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all tests passed."""

    passed: bool
    outcome: Outcome | None
    """How the run ended; None if the program is too long to be run."""


def run_checks(program: str, checks: Checks, limits: Limits = DEFAULT_LIMITS, sandbox: Wanted = "auto") -> Verdict:
    """Run the tests on the program's functions; arguments and results are plain data (`wire.py`).

    The program only passes if the judge prints, after the last test, a number that was drawn for this run. Raises
    `UsageError` if there is no sandbox, and `DataError` for tests that are too long.
    """
    nonce = secrets.token_hex(16)
    order = {"nonce": nonce, "context": checks.context, "names": list(checks.names), "tests": checks.tests}
    try:
        tests = frame(order)
    except Unsendable:
        raise DataError(f"the tests of {', '.join(checks.names)} are longer than {MAX_FRAME} bytes") from None
    try:
        stdin = frame({"program": program}) + tests
    except Unsendable:
        return Verdict(False, None)
    outcome = run_confined(choose(sandbox), ["-I", "-B", "-c", bundle(wire, judge)], stdin, limits)
    return Verdict(outcome.stdout == nonce and outcome.stopped is None, outcome)
